"""Stage `multitask`: all weights learn all tasks — captions, reading, grounding, counting, …"""

from __future__ import annotations

from pretrain.stages.supervised import SupervisedStage


class MultitaskStage(SupervisedStage):
    """Trains everything on direct answers."""
