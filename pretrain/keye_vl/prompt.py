"""Samples as token ids and patches, and batches of them packed for the model.

Token ids are the truth: a prompt is tokenised once, here, and the same ids go to the learner
(placeholders expanded) and to the engine (one placeholder per medium, which vLLM expands alike).
Media are never truncated; the placeholders must add up to the visual tokens, or the sample's id is
named in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.image_processing import to_rgb
from pretrain.keye_vl.mrope import packed_positions, visual_mask
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.tokenizer import END_OF_TURN
from pretrain.run.errors import KeyeError

PLAN_KEYS = ("frame_types", "timestamps", "slow_size", "fast_size")
"""What a video part may bring along if its frames are planned already."""
REQUEST_KEYS = ("fps", "num_frames", "start", "end")
"""What a video part may ask of the reader of its file."""


@dataclass(slots=True)
class EncodedPrompt:
    """One prompt, for the learner and for the engine."""

    ids: np.ndarray
    """int32 `[P]`, placeholders expanded: what the model is conditioned on."""
    engine_ids: list[int]
    """One placeholder per medium: what vLLM is given."""
    pixel_values: np.ndarray | None = None
    """float32 `[N, 3, 14, 14]` patches of all images and frames, in order of appearance."""
    grid_thw: np.ndarray | None = None
    """int64 `[M, 3]`, a row per image or video frame."""
    engine_media: dict[str, list] = field(default_factory=dict)
    """vLLM's `multi_modal_data`."""
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    """vLLM's `mm_processor_kwargs`; empty for images. For a video: `frame_types` and `timestamps`
    (a tuple per video), `slow_size` and `fast_size` (height and width in pixels)."""


@dataclass(slots=True)
class ReplyMedia:
    """Images inside a reply: those that tools have put there."""

    pixel_values: np.ndarray
    """float32 `[N, 3, 14, 14]`, in order of appearance."""
    grid_thw: np.ndarray
    """int64 `[M, 3]`"""


def check_length(length: int, sample_id: str, max_length: int, room: int = 0) -> None:
    """`KeyeError` if `length` tokens, and `room` for a response, are more than `max_length`."""
    if length + room > max_length:
        beside = f" beside a response of up to {room} (max_tokens)" if room else ""
        raise KeyeError(
            f"sample {sample_id}: {length} tokens, but at most {max_length - room} fit{beside} "
            "(media are never truncated): raise the maximum length or use smaller media"
        )


class PromptEncoder:
    """Chat messages → `EncodedPrompt`, through a checkpoint's tokenizer and image processor."""

    def __init__(self, processor: KeyeVL1_5Processor, max_length: int, room: int = 0) -> None:
        """`max_length`: most tokens of a prompt (with its reply, in `encode_example`), `room` of
        them left for a response."""
        self.processor = processor
        self.max_length, self.room = max_length, room
        self.tokenizer = processor.tokenizer
        self._encode_text = processor.tokenizer.backend_tokenizer.encode
        ids = processor.tokenizer.convert_tokens_to_ids
        self._image_id, self._video_id = ids(processor.image_token), ids(processor.video_token)
        self._end_of_turn = ids(END_OF_TURN)

    def encode(self, messages: list[dict], sample_id: str) -> EncodedPrompt:
        """The prompt that ends where the assistant's reply begins.

        Raises:
            KeyeError: too long, unreadable media, or placeholders that don't match the media.
        """
        media = [
            part
            for message in messages
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part.get("type") in ("image", "video")
        ]
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        engine_ids = self._encode_text(text, add_special_tokens=False).ids
        try:
            prompt = self._expand(engine_ids, media)
        except KeyeError as error:
            raise KeyeError(f"sample {sample_id}: {error}") from error
        check_length(len(prompt.ids), sample_id, self.max_length, self.room)
        return prompt

    def encode_text(self, text: str, media: list[dict]) -> EncodedPrompt:
        """A piece of a conversation with one placeholder per medium, no template around it."""
        return self._expand(self._encode_text(text, add_special_tokens=False).ids, media)

    def encode_example(
        self, messages: list[dict], sample_id: str
    ) -> tuple[EncodedPrompt, np.ndarray]:
        """A prompt and the reply to learn: int32 `[R]`, ending with the end-of-turn token.

        The last message is the assistant's reply.
        """
        *prompt_messages, reply = messages
        if reply["role"] != "assistant" or not prompt_messages:
            raise KeyeError(f"sample {sample_id}: the last message must be the assistant's reply")
        prompt = self.encode(prompt_messages, sample_id)
        content = reply["content"]
        text = content if isinstance(content, str) else "".join(p["text"] for p in content)
        ids = self._encode_text(text, add_special_tokens=False).ids
        if self._image_id in ids or self._video_id in ids:
            raise KeyeError(f"sample {sample_id}: a visual placeholder token in the reply")
        reply_ids = np.array([*ids, self._end_of_turn], dtype=np.int32)
        check_length(len(prompt.ids) + len(reply_ids), sample_id, self.max_length)
        return prompt, reply_ids

    def _expand(self, engine_ids: list[int], media: list[dict]) -> EncodedPrompt:
        """Replace each placeholder by its medium's tokens, and encode the media."""
        ids = np.array(engine_ids, dtype=np.int32)
        where = np.flatnonzero((ids == self._image_id) | (ids == self._video_id))
        kinds = ["image" if ids[i] == self._image_id else "video" for i in where]
        if kinds != [part["type"] for part in media]:
            raise KeyeError(
                f"placeholders {kinds} in the text, but media {[part['type'] for part in media]}: "
                "texts may not contain <|image_pad|> or <|video_pad|>"
            )
        if not media:
            return EncodedPrompt(ids, engine_ids)
        pieces, patches, grids = [], [], []
        engine_media: dict[str, list] = {}
        engine_kwargs: dict[str, Any] = {}
        last = 0
        for place, part in zip(where.tolist(), media, strict=True):
            encode = self._image if part["type"] == "image" else self._video
            span, values, rows, item, kwargs = encode(part)
            pieces += [ids[last:place], span]
            patches.append(values)
            grids += rows
            engine_media.setdefault(part["type"], []).append(item)
            # Per-video values are tuples of tuples: vLLM hashes them.
            for key in kwargs.keys() & {"frame_types", "timestamps"}:
                engine_kwargs[key] = (*engine_kwargs.get(key, ()), tuple(kwargs[key]))
            for key in kwargs.keys() & {"slow_size", "fast_size"}:
                engine_kwargs[key] = tuple(kwargs[key])
            last = place + 1
        pieces.append(ids[last:])
        return EncodedPrompt(
            np.concatenate(pieces),
            engine_ids,
            patches[0] if len(patches) == 1 else np.concatenate(patches),
            np.array(grids, dtype=np.int64),
            engine_media,
            engine_kwargs,
        )

    def _image(self, part: dict) -> tuple[np.ndarray, np.ndarray, list, Image.Image, dict]:
        pixels = to_rgb(part["image"])
        patches, grid = self.processor.image_processor.encode_image(pixels)
        count = grid[1] * grid[2] // self.processor.image_processor.merge_size**2
        span = np.full(count, self._image_id, dtype=np.int32)
        return span, patches, [grid], Image.fromarray(pixels), {}

    def _video(self, part: dict) -> tuple[np.ndarray, np.ndarray, list, np.ndarray, dict]:
        """Frames that come with their `frame_types` are taken as they are, others are planned."""
        if "frame_types" in part:
            frames = np.stack([to_rgb(frame) for frame in part["video"]])
            kwargs = {key: part[key] for key in PLAN_KEYS if part.get(key) is not None}
        else:
            request = {key: part[key] for key in REQUEST_KEYS if key in part}
            frames, plan = self.processor.plan_video(part["video"], **request)
            kwargs = plan.processor_kwargs()
        types = kwargs.get("frame_types")
        sizes = kwargs.get("slow_size"), kwargs.get("fast_size")
        patches, rows = self.processor.encode_frames(frames, types, *sizes)
        text = self.processor.video_text(rows, types, kwargs.get("timestamps"))
        span = np.array(self._encode_text(text, add_special_tokens=False).ids, dtype=np.int32)
        return span, patches, rows, frames, kwargs


@dataclass(slots=True)
class PackedSequences:
    """A batch of prompts with their replies, packed, as torch tensors.

    Sequences of one prompt (a group's responses) hold its tokens once. T counts the tokens held, V
    those of all sequences laid out in full; without a shared prompt they are the same.
    """

    input_ids: Tensor
    """int64 `[1, T]`"""
    position_ids: Tensor
    """int64 `[3, 1, T]`"""
    cu_seqlens: Tensor
    """int32 `[B + 1]` boundaries of the sequences laid out in full, 0 … V"""
    token_rows: Tensor | None
    """int64 `[V]` which of the T tokens each token of the full layout is; None when V = T"""
    prompt_lengths: Tensor
    """int64 `[B]`: tokens in which a placeholder stands for a feature (a reply with images too)"""
    response_index: Tensor
    """int64 `[K]` which of the T tokens' logits predict the response tokens, in order"""
    response_lengths: Tensor
    """int64 `[B]`, summing to K"""
    targets: Tensor
    """int64 `[K]`: the response tokens that `response_index` predicts"""
    pixel_values: Tensor | None
    """float32 `[N, 3, 14, 14]`, shared media once"""
    grid_thw: Tensor | None
    """int64 `[M, 3]`"""
    feature_index: Tensor | None
    """int64 `[placeholders]` row of the projector's output; None when it is their order"""

    def model_inputs(self) -> dict[str, Tensor | None]:
        """Arguments of the model's forward; its logits are `[K, V]`, one row per response token."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "cu_seqlens": self.cu_seqlens,
            "token_rows": self.token_rows,
            "prompt_lengths": self.prompt_lengths,
            "logits_index": self.response_index,
            "pixel_values": self.pixel_values,
            "grid_thw": self.grid_thw,
            "feature_index": self.feature_index,
        }

    def to(self, device: torch.device | str) -> PackedSequences:
        """The same batch on another device."""
        moved = {
            name: value.to(device) if (value := getattr(self, name)) is not None else None
            for name in self.__dataclass_fields__
        }
        return PackedSequences(**moved)


def pack(
    prompts: Sequence[EncodedPrompt],
    replies: Sequence[np.ndarray],
    config: KeyeVL1_5Config,
    *,
    share: Sequence[int] | None = None,
    reply_media: Sequence[ReplyMedia | None] | None = None,
) -> PackedSequences:
    """Pack prompt i followed by reply i, for all i.

    A prompt object that stands several times is packed once, and its replies after it: linear
    layers then see its tokens once, and only attention repeats them (`token_rows`).

    Args:
        prompts: one per sequence; the same object may stand several times (a group's responses).
        replies: int `[R_i]` response tokens, possibly empty.
        config: the model's configuration.
        share: sequences with equal numbers have the same media, which are encoded once; by default
            those with the same prompt object.
        reply_media: images inside each reply. In a reply that has some, every placeholder stands
            for a feature; in others it is a sampled token, which means nothing.
    """
    prompt_lengths = np.array([len(p.ids) for p in prompts], dtype=np.int64)
    response_lengths = np.array([len(r) for r in replies], dtype=np.int64)
    bounds = np.concatenate(([0], np.cumsum(prompt_lengths + response_lengths)))
    full = np.concatenate([x for pair in zip(prompts, replies, strict=True) for x in _ids(*pair)])
    full = full.astype(np.int64)
    inside = list(reply_media) if reply_media is not None else [None] * len(prompts)
    media = [m for pair in zip(prompts, inside, strict=True) for m in pair]
    grids = [m.grid_thw for m in media if m is not None and m.grid_thw is not None]
    merge = config.vision_config.spatial_merge_size
    illustrated = np.array([m is not None for m in inside], dtype=bool)
    given = prompt_lengths + np.where(illustrated, response_lengths, 0)
    mask = visual_mask(full, config.visual_token_ids, bounds, given)
    positions = packed_positions(mask, bounds, np.concatenate(grids) if grids else None, merge)
    # Which response token a token of the full layout is followed by: one place later.
    ordinal = np.arange(response_lengths.sum()) - np.repeat(
        np.cumsum(response_lengths) - response_lengths, response_lengths
    )
    predicting = np.repeat(bounds[:-1] + prompt_lengths - 1, response_lengths) + ordinal
    rows, held = _shared_rows(prompts, prompt_lengths, bounds)
    keys = [id(p) for p in prompts] if share is None else list(share)
    held_media = _held_media(prompts, inside, keys)
    pixel_values, grid_thw, feature_index = _shared_media(held_media, merge)
    return PackedSequences(
        input_ids=torch.from_numpy(full[held])[None],
        position_ids=torch.from_numpy(positions[:, held])[:, None],
        cu_seqlens=torch.from_numpy(bounds.astype(np.int32)),
        token_rows=None if rows is None else torch.from_numpy(rows),
        prompt_lengths=torch.from_numpy(given),
        response_index=torch.from_numpy(predicting if rows is None else rows[predicting]),
        response_lengths=torch.from_numpy(response_lengths),
        targets=torch.from_numpy(full[predicting + 1]),
        pixel_values=pixel_values,
        grid_thw=grid_thw,
        feature_index=feature_index,
    )


def _ids(prompt: EncodedPrompt, reply: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return prompt.ids, np.asarray(reply)


def _shared_rows(
    prompts: Sequence[EncodedPrompt],
    prompt_lengths: np.ndarray,
    bounds: np.ndarray,
) -> tuple[np.ndarray | None, np.ndarray | slice]:
    """Row of each token of the full layout among the tokens held, and which of them are held.

    A repeated prompt's tokens are those of its first sequence; the rest keeps its order.
    """
    first: dict[int, int] = {}
    owners = [first.setdefault(id(prompt), i) for i, prompt in enumerate(prompts)]
    if len(first) == len(prompts):
        return None, slice(None)
    total = int(bounds[-1])
    source = np.arange(total)
    keep = np.ones(total, dtype=bool)
    for i, owner in enumerate(owners):
        if owner != i:
            span = np.arange(prompt_lengths[i])
            source[bounds[i] + span] = bounds[owner] + span
            keep[bounds[i] + span] = False
    return (np.cumsum(keep) - 1)[source], np.flatnonzero(keep)


def _held_media(
    prompts: Sequence[EncodedPrompt], inside: Sequence[ReplyMedia | None], keys: Sequence[int]
) -> list[tuple[EncodedPrompt | ReplyMedia, int]]:
    """Media with their keys, as their placeholders follow each other among the tokens held."""
    seen: set[int] = set()
    held: list[tuple[EncodedPrompt | ReplyMedia, int]] = []
    for prompt, own, key in zip(prompts, inside, keys, strict=True):
        if id(prompt) not in seen:
            seen.add(id(prompt))
            held.append((prompt, key))
        if own is not None:
            held.append((own, id(own)))
    return held


def _shared_media(
    media: Sequence[tuple[EncodedPrompt | ReplyMedia, int]], merge: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Patches and grids of the media with distinct keys, and where each finds its features."""
    rows: dict[int, np.ndarray] = {}
    distinct, index, total = [], [], 0
    for holder, key in media:
        if holder.grid_thw is None:
            continue
        if key not in rows:
            count = int(holder.grid_thw.prod(1).sum()) // merge**2
            rows[key] = np.arange(total, total + count)
            total += count
            distinct.append(holder)
        index.append(rows[key])
    if not distinct:
        return None, None, None
    pixels = torch.from_numpy(np.concatenate([m.pixel_values for m in distinct]))
    grids = torch.from_numpy(np.concatenate([m.grid_thw for m in distinct]))
    shared = len(distinct) < len(index)
    return pixels, grids, torch.from_numpy(np.concatenate(index)) if shared else None
