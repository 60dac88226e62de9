"""Settings of the reward pool and of composition (`conf/rewards.yaml`)."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RewardConfig:
    """How rules are run and how their values become one reward."""

    workers: int = 1
    """Worker processes that run rules. One does a few thousand short answers a second."""

    deadline_s: float = 5.0
    """A call that takes longer is killed and its status is `timeout`. A rewards entry may set its
    own `deadline_s`. Time spent waiting for a CPU on a loaded machine does not count."""

    load_s: float = 120.0
    """A rule whose module takes longer to import is an error (plug-ins may import large things)."""

    memory_mb: int = 2048
    """Private memory a worker may use beyond what it starts with; more is a MemoryError in the
    rule. A worker that keeps more than half of it after its work is replaced."""

    max_pending: int = 8192
    """Calls that may wait; `submit` blocks above it, so that a slow judge holds the caller back
    instead of filling the memory."""

    async_concurrency: int = 64
    """Calls of async rules (judges behind a network) that one worker keeps in flight."""

    max_failed_share: float = 0.5
    """If a larger share of a batch's responses has a failed rule, scoring stops with an error that
    names the rule: training on the rest would go on with a biased sample."""

    normalise: str = "none"
    """`none`: the total is the weighted sum; `weights`: divided by the sum of |weights|."""

    clip: list[float] | None = None
    """`[low, high]`: bounds of the total, applied last."""

    routes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rewards by `task_type` pattern (`digits/*`, `*`), for samples without own `rewards`. The most
    specific (longest) matching pattern wins."""
