"""Stage `text`: a tiny decoder learns the world's language before it sees anything.

It stands for the pre-trained language model that a full-size run starts from; scenes are described
in words where the later stages show an image.
"""

from __future__ import annotations

from dataclasses import replace

from pretrain.data.sample import Sample
from pretrain.data.world import textual
from pretrain.stages.config import HeldOutConfig
from pretrain.stages.supervised import SupervisedStage


class TextStage(SupervisedStage):
    """Trains the decoder on textual scenes."""

    parts = frozenset({"decoder"})

    def transform(self, sample: Sample) -> Sample:
        """The sample with its image replaced by words."""
        return textual(sample)

    def evaluation(self) -> HeldOutConfig:
        """The trained tasks only: what can't be said in words (boxes) can't be asked here."""
        cfg = self.job.evaluation
        return replace(cfg, tasks=[task for task in cfg.tasks if self.job.cfg.mix.get(task)])
