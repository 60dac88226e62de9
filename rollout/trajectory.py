"""What a rollout hands on: one sampled response with everything the learner needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pretrain.keye_vl.prompt import EncodedPrompt, ReplyMedia


@dataclass(slots=True)
class ToolUse:
    """What a response that could call tools did with them."""

    turns: int
    """Turns of the policy, at least 1."""
    calls: int
    """Calls in them, ill-formed ones included; calls in the last turn are not answered."""
    errors: int
    """Calls whose result was an error text."""
    results: list[str]
    """The text of each result turn, in order."""


@dataclass(slots=True)
class Trajectory:
    """One response to one prompt, as sampled.

    The log-probs are the engine's, of the distribution it sampled from (after temperature and the
    mask of forbidden tokens), conditioned on exactly `prompt`, hint included.
    """

    sample_id: str
    prompt: EncodedPrompt
    """The prompt as both engine and learner see it; the responses of a group share the object."""
    response_ids: np.ndarray
    """int32 `[R]`, the end token included when the response ended by itself."""
    logprobs: np.ndarray
    """float32 `[R]`; empty when they weren't asked for."""
    hint_level: int
    """0: no hint; 1…5: the level of the hint in the prompt."""
    weight_version: int
    """Version of the weights that sampled the last token."""
    seed: int
    """Seed of its noise: a continuation with the same seed goes on with the same noise."""
    finish_reason: str
    """`stop` (end token), `length` (token limit) or `paused` (to be continued)."""
    stale_tokens: int = 0
    """Leading response tokens that an earlier version of the weights sampled."""
    sampled: np.ndarray | None = None
    """bool `[R]`: False where a tool's result stands, which nobody learns to write (its log-probs
    are 0); None when the policy sampled every token."""
    media: ReplyMedia | None = None
    """Images in tools' results."""
    tool_use: ToolUse | None = None
    """None when the sample had no tools."""

    @property
    def prompt_ids(self) -> np.ndarray:
        """int32 `[P]`, visual placeholders expanded."""
        return self.prompt.ids

    @property
    def num_sampled(self) -> int:
        """Response tokens that the policy sampled."""
        return len(self.response_ids) if self.sampled is None else int(self.sampled.sum())

    @property
    def length(self) -> int:
        """Tokens in prompt and response together."""
        return len(self.prompt.ids) + len(self.response_ids)
