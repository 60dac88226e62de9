"""Stage `align`: the projector learns to speak the decoder's language; ViT and decoder rest."""

from __future__ import annotations

from pretrain.stages.supervised import SupervisedStage


class AlignStage(SupervisedStage):
    """Trains the projector only."""

    parts = frozenset({"projector"})
