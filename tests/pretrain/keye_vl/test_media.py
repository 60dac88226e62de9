"""Image sizes, patches, the processor and the prompt encoder."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.keye_vl.create import ImageSize, image_processor
from pretrain.keye_vl.image_processing import (
    TOKEN_PIXELS,
    KeyeVL1_5ImageProcessor,
    smart_resize,
    to_rgb,
)
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.prompt import PromptEncoder
from pretrain.keye_vl.tokenizer import train_tokenizer
from pretrain.run.errors import KeyeError


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(["what color is the circle? red"] * 20, 400)
    return KeyeVL1_5Processor(image_processor(ImageSize(4, 64)), tokenizer)


@pytest.fixture(scope="module")
def reference_resize():
    """`keye_vl_utils.smart_resize`; an empty stand-in takes the place of torchvision."""
    names = ["torchvision", "torchvision.transforms"]
    stand_ins = {name: types.ModuleType(name) for name in names}
    stand_ins["torchvision"].io = types.ModuleType("io")
    stand_ins["torchvision"].transforms = stand_ins["torchvision.transforms"]
    stand_ins["torchvision.transforms"].InterpolationMode = None
    sys.modules.update(stand_ins)
    try:
        utils = pytest.importorskip("keye_vl_utils")
    finally:
        for name in names:
            del sys.modules[name]
    return utils.smart_resize


def array(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_sizes_are_those_of_keye_vl_utils(reference_resize):
    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width = (int(x) for x in rng.integers(1, 3000, 2))
        if max(height, width) > 200 * min(height, width):
            continue
        low = int(rng.integers(1, 40)) * TOKEN_PIXELS
        high = low * int(rng.integers(2, 500))
        expected = reference_resize(height, width, 28, low, high)
        assert smart_resize(height, width, low, high) == tuple(expected), (height, width)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_images_have_4_to_20480_tokens(height, width):
    processor = KeyeVL1_5ImageProcessor()
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(KeyeError, match="200 times"):
            processor.target_size(height, width)
        return
    size = processor.target_size(height, width)
    assert size[0] % 28 == size[1] % 28 == 0
    assert 4 <= processor.tokens(size) <= 20_480
    if min(height, width) >= 28 and 4 * TOKEN_PIXELS <= height * width <= 20_000 * TOKEN_PIXELS:
        # Nothing to shrink or enlarge: each side is rounded to a multiple of 28, or the area was
        # at a bound and rounding moved it by one more step.
        assert abs(size[0] - height) <= 28 and abs(size[1] - width) <= 28


def test_patches_are_row_major_and_normalised(processor):
    image = array(56, 84)
    patches, grid = processor.image_processor.encode_image(image)
    assert grid == (1, 4, 6)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    unfolded = torch.nn.functional.unfold(x, 14, stride=14)[0].T.reshape(-1, 3, 14, 14)
    assert np.abs(patches - unfolded.numpy()).max() <= 1e-6


def test_every_kind_of_image_gives_the_same_patches(processor):
    encode = processor.image_processor.encode_image
    image = array(70, 50)
    expected, grid = encode(image)
    assert grid == (1, 4, 4)
    kinds = (Image.fromarray(image), torch.from_numpy(image), image.transpose(2, 0, 1))
    for kind in kinds:
        assert np.array_equal(encode(kind)[0], expected)
    grey = to_rgb(Image.fromarray(image[..., 0]))
    assert np.array_equal(grey, to_rgb(image[..., 0]))
    assert np.array_equal(to_rgb(np.dstack([image, image[..., :1]])), image)


def test_one_list_of_images_a_prompt_is_the_flat_list(processor):
    images = [array(84, 84), array(56, 112, 1), array(70, 50, 2)]
    flat = processor.image_processor.preprocess(images)
    nested = processor.image_processor.preprocess([images[:1], images[1:]])
    assert nested["image_grid_thw"].tolist() == flat["image_grid_thw"].tolist()
    assert np.array_equal(nested["pixel_values"], flat["pixel_values"])


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "empty image"),
        (np.zeros((1, 300, 3), np.uint8), "200 times"),
        (np.zeros((30, 30, 3), np.float32), "uint8"),
        (np.zeros((30, 30, 7), np.uint8), "channels"),
        (np.zeros(30, np.uint8), "2 or 3 axes"),
    ],
)
def test_bad_images_are_named(processor, image, words):
    with pytest.raises(KeyeError, match=words):
        processor.image_processor.encode_image(image)


def user(*content: dict) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def image(height: int, width: int, seed: int = 0) -> dict:
    return {"type": "image", "image": array(height, width, seed)}


def test_encoder_and_processor_agree_on_images(processor):
    content = [image(84, 84), text("what"), image(100, 140, 1), text("color?")]
    messages = user(*content)
    prompt = PromptEncoder(processor, 200).encode(messages, "a")
    chat = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    images = [content[0]["image"], content[2]["image"]]
    called = processor(text=chat, images=images, return_tensors="pt")
    assert called["input_ids"].tolist() == [prompt.ids.tolist()]
    assert np.array_equal(called["pixel_values"].numpy(), prompt.pixel_values)
    assert called["image_grid_thw"].tolist() == prompt.grid_thw.tolist() == [[1, 6, 6], [1, 8, 10]]
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert prompt.engine_ids.count(pad) == 2
    assert (prompt.ids == pad).sum() == 9 + 20
    assert [im.size for im in prompt.engine_media["image"]] == [(84, 84), (140, 100)]


def test_encoder_and_processor_agree_on_slow_fast_video(processor):
    frames = np.stack([array(84, 112, i) for i in range(4)])
    plan = {
        "frame_types": [0, 1, 1, 0],
        "timestamps": [0.0, 0.5, 1.04, 12.0],
        "slow_size": (84, 112),
        "fast_size": (28, 56),
    }
    messages = user({"type": "video", "video": frames, **plan}, text("what?"))
    prompt = PromptEncoder(processor, 200).encode(messages, "a")
    chat = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    called = processor(text=[chat], videos=[frames], return_tensors="pt", **prompt.engine_kwargs)
    assert called["input_ids"].tolist() == [prompt.ids.tolist()]
    assert np.array_equal(called["pixel_values_videos"].numpy(), prompt.pixel_values)
    assert prompt.grid_thw[:, 1:].tolist() == [[6, 8], [2, 4], [2, 4], [6, 8]]
    assert called["video_grid_thw"].tolist() == [[1, 6, 8], [2, 2, 4], [1, 6, 8]]
    assert called["num_frames"].tolist() == [4]
    slow, fast = "<|video_pad|>" * 12, "<|fast_start|><|video_pad|><|video_pad|><|fast_end|>"
    written = (
        f"<|frame|>0.0{slow}<|frame|>0.5{fast}<|frame|>1.0{fast}<|frame|>12.0{slow}<|vision_end|>"
    )
    assert written in processor.tokenizer.decode(prompt.ids)


def test_an_example_ends_its_reply_with_the_end_of_turn(processor):
    encoder = PromptEncoder(processor, 40)
    messages = [*user(image(84, 84), text("what?")), {"role": "assistant", "content": "red"}]
    prompt, reply = encoder.encode_example(messages, "a")
    assert processor.tokenizer.decode(reply) == "red<|im_end|>"
    assert processor.tokenizer.decode(prompt.ids).endswith("<|im_start|>assistant\n")
    assert prompt.ids.dtype == reply.dtype == np.int32


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (user(text("see <|image_pad|> here")), "sample s-7: placeholders"),
        (user(image(84, 84), text("<|video_pad|>")), "sample s-7: placeholders"),
        (user(image(1, 999), text("x")), "sample s-7: image of 1×999"),
        (user(text("red " * 50)), "sample s-7: .. tokens, but at most 40"),
        (user(image(224, 224)), "sample s-7: 7. tokens, but at most 40"),
        (user({"type": "video", "video": [array(28, 28)], "frame_types": [0, 1]}), "frame types"),
    ],
)
def test_errors_name_the_sample(processor, messages, words):
    with pytest.raises(KeyeError, match=words):
        PromptEncoder(processor, 40).encode(messages, "s-7")


def test_a_reply_may_not_hold_placeholders(processor):
    messages = [*user(text("x")), {"role": "assistant", "content": "<|image_pad|>"}]
    with pytest.raises(KeyeError, match="sample s-8: a visual placeholder"):
        PromptEncoder(processor, 40).encode_example(messages, "s-8")
    with pytest.raises(KeyeError, match="sample s-9: the last message"):
        PromptEncoder(processor, 40).encode_example(user(text("x")), "s-9")


def test_the_processor_counts_placeholders(processor):
    with pytest.raises(KeyeError, match=r"1 <.image_pad.> placeholders in the text for 2 media"):
        processor(text="<|image_pad|>", images=[array(28, 28)] * 2)
