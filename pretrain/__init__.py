"""Where the base checkpoint comes from: model, media, corpora and stages.

Importing the package makes transformers' Auto classes know Keye-VL-1.5.
"""

from __future__ import annotations

from pretrain.keye_vl.registration import register

register()
