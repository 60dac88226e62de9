"""Keye-VL-1.5: configuration, model, tokenizer, media processing and checkpoints.

The public names of the package are imported from their modules (`modeling`, `processing`, …);
only the few that name the whole model are repeated here.
"""

from __future__ import annotations

from pretrain.keye_vl.checkpoint import checkpoint_shapes, checkpoint_tensors
from pretrain.keye_vl.configuration import full_size_config

__all__ = ["checkpoint_shapes", "checkpoint_tensors", "full_size_config"]
