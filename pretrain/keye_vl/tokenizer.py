"""The tiny model's tokenizer, trained here, with every special token of the released one.

Byte-level BPE: any UTF-8 text round-trips. Text is cut as Qwen's tokenizer cuts it: every digit is
a token, and a leading space belongs to the word after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
FRAME_TOKEN = "<|frame|>"
FAST_START = "<|fast_start|>"
FAST_END = "<|fast_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    "<|im_start|>",
    END_OF_TURN,
    VISION_START,
    VISION_END,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    FRAME_TOKEN,
    FAST_START,
    FAST_END,
)
"""Structure of a prompt; left out of decoded text."""

CONTENT_TOKENS = (
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|point_start|>",
    "<|point_end|>",
    "<|clip_time_start|>",
    "<|clip_time_end|>",
    "<|ocr_text_start|>",
    "<|ocr_text_end|>",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\\boxed{",
)
"""Single tokens that are part of an answer: not special, so decoding keeps them."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] in ('image', 'image_url') %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] in ('video', 'video_url') %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen's cut: contractions; a word with what precedes it; one digit; punctuation; line ends; spaces.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ROLES = "system\nuser\nassistant\n"


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most `vocab_size` tokens learnt from `corpus`.

    Raises:
        ValueError: `vocab_size` leaves no room for the 256 bytes and the added tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learnt = vocab_size - len(CONTENT_TOKENS)
    if learnt < len(SPECIAL_TOKENS) + len(alphabet):
        least = len(SPECIAL_TOKENS) + len(alphabet) + len(CONTENT_TOKENS)
        raise ValueError(f"vocab_size={vocab_size}, but bytes and added tokens alone take {least}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=learnt,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_plain_text(corpus), trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in CONTENT_TOKENS])
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Hugging Face's interface to a tokenizer that knows our special tokens."""
    named = (END_OF_TURN, END_OF_TEXT)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in named],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def add_keye_tokens(tokenizer: PreTrainedTokenizerFast) -> int:
    """Give another model's tokenizer the tokens it lacks, and our chat template.

    Returns:
        How many tokens were added (their ids follow the known ones).
    """
    known = tokenizer.get_vocab()
    added = [
        AddedToken(token, special=token in SPECIAL_TOKENS, normalized=False)
        for token in (*SPECIAL_TOKENS, *CONTENT_TOKENS)
        if token not in known
    ]
    tokenizer.add_tokens(added)
    tokenizer.eos_token = END_OF_TURN
    tokenizer.pad_token = END_OF_TEXT
    tokenizer.chat_template = CHAT_TEMPLATE
    return len(added)


def _plain_text(corpus: Iterable[str]) -> Iterator[str]:
    """The corpus without added tokens, which must not shape the merges."""
    added = re.compile("|".join(re.escape(t) for t in (*SPECIAL_TOKENS, *CONTENT_TOKENS)))
    for text in corpus:
        yield from (piece for piece in added.split(text) if piece)
    # The chat template's own words, often enough to be single tokens.
    for _ in range(100):
        yield from _ROLES.splitlines(keepends=True)
