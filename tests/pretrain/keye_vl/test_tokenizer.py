"""The trained tokenizer: round trips, single tokens, the chat template."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pretrain.keye_vl.tokenizer import CONTENT_TOKENS, SPECIAL_TOKENS, train_tokenizer

WORDS = ["what", "is", "the", "sum", "of", "digits", "hint", "red", "green", "circle", "left"]


@pytest.fixture(scope="module")
def tokenizer():
    corpus = [f"so {' '.join(WORDS)}? digits 358, 3+5=8 <think> red</think>"] * 20
    return train_tokenizer(corpus, 600)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_round_trips(tokenizer, text):
    if any(token in text for token in (*SPECIAL_TOKENS, *CONTENT_TOKENS)):
        return
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", ["naïve 北京 🦊 \r\n\t  x", "a  b   c\n\n\nd", "\x00\x7f\u200d"])
def test_awkward_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_vocabulary_is_bounded_and_the_corpus_words_are_single_tokens(tokenizer):
    assert len(tokenizer) <= 600
    for word in WORDS:
        assert len(tokenizer.encode(" " + word)) == 1, word
    assert len(tokenizer.encode("358")) == 3
    for word in ("user", "assistant", "system", "\n"):
        assert len(tokenizer.encode(word)) == 1, word


def test_content_tokens_survive_decoding_and_special_ones_do_not(tokenizer):
    for token in (*SPECIAL_TOKENS, *CONTENT_TOKENS):
        assert len(tokenizer.encode(token)) == 1, token
    reply = "<think> red</think><answer>\\boxed{red}</answer><|box_start|>(1,2)<|box_end|>"
    ids = tokenizer.encode(reply + "<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == reply
    assert ids[-1] == tokenizer.eos_token_id


def test_chat_template_writes_media_before_the_text(tokenizer):
    messages = [
        {"role": "system", "content": "short"},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": None},
                {"type": "text", "text": "what?"},
                {"type": "video", "video": None},
            ],
        },
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>what?"
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_loads_with_auto_tokenizer(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "what is 12? <|image_pad|><answer> é"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.decode(loaded.encode(" red ?")) == " red ?"


def test_too_small_a_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="vocab_size=200"):
        train_tokenizer(["red"], 200)
