"""Which token ids end a response and which may never be sampled.

Invariant: a sampled response holds no visual token. Otherwise the learner, or vLLM when the
response is resubmitted as part of a prompt, would look for an image behind it.

The engine adds -100 to the logits of `forbidden_ids` for any model family, and our vLLM class never
lets the Keye family's through, so the engine's log-probs are those of a distribution without them.
The learner masks the same ids: then both distributions are the same. (A learner that doesn't is off
by log(1 - p(forbidden)): 0.014 for a random tiny model, nothing measurable for a trained one.)
"""

from __future__ import annotations

from typing import Any

VISUAL_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|frame|>",
    "<|fast_start|>",
    "<|fast_end|>",
    "<image>",
)
"""Tokens that stand for media or frame them; a tokenizer has those of its own family."""

PLACEHOLDER_IDS = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")
"""Configuration fields that name placeholder tokens."""

END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""Tokens that end a response besides the tokenizer's own end token."""


def _ids(tokenizer: Any, names: tuple[str, ...]) -> set[int]:
    vocabulary = tokenizer.get_vocab()
    return {vocabulary[name] for name in names if name in vocabulary}


def forbidden_ids(tokenizer: Any, config: Any = None) -> list[int]:
    """Ids that no response may contain, sorted.

    `config`: the model's, which names the placeholders of families that are not listed here.
    """
    named = [getattr(config, key, None) for key in PLACEHOLDER_IDS]
    return sorted(_ids(tokenizer, VISUAL_TOKENS) | {id_ for id_ in named if id_ is not None})


def stop_ids(tokenizer: Any) -> list[int]:
    """Ids that end a response (the end token is part of the response), sorted."""
    ids = _ids(tokenizer, END_TOKENS)
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return sorted(ids)
