"""The tiny procedural world: 84×84 images of coloured shapes, digits and words, and short clips.

`TASKS` maps a task type to its generator `f(rng, split) -> Sample`; `textual` gives a sample in
which the image is replaced by words; `corpus` yields texts to train a tokenizer on.
"""

# Importing the task modules registers their generators.
from pretrain.data.world import digit_tasks, shape_tasks, videos
from pretrain.data.world.corpus import corpus
from pretrain.data.world.tasks import TASKS, WORLD_VERSION, textual

__all__ = ["TASKS", "WORLD_VERSION", "corpus", "digit_tasks", "shape_tasks", "textual", "videos"]
