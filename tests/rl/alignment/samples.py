"""A question about digits, as the tests of the alignment sources change it."""

from __future__ import annotations

from typing import Any

import numpy as np

from pretrain.data.sample import Sample


def sample(**more: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": "q",
        "messages": [{"role": "user", "content": "sum of the digits?"}],
        "answer": "10",
        "task_type": "digits/sum",
        "rewards": [{"rule": "math", "weight": 1.0}, {"rule": "format", "weight": 0.1}],
        "solution": "digits 37;3+7=10",
        "mode": "think",
    }
    return Sample(**(fields | more)).validate()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)
