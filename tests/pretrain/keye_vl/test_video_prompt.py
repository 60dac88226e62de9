"""A video in a prompt: read, planned and written the same way for the learner and the engine."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.data.world.videos import write_mp4
from pretrain.keye_vl import slow_fast
from pretrain.keye_vl.create import ImageSize, image_processor
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.prompt import PromptEncoder
from pretrain.keye_vl.tokenizer import train_tokenizer
from pretrain.keye_vl.video import VideoConfig, load_video
from pretrain.run.errors import KeyeError

SLOW_FAST = {"min_tokens": 1, "max_tokens": 16, "total_tokens": 128}


@pytest.fixture(scope="module")
def processor():
    tokenizer = train_tokenizer(["what moves? red 0.5 1.5"] * 20, 400)
    return KeyeVL1_5Processor(image_processor(ImageSize(4, 64)), tokenizer, slow_fast=SLOW_FAST)


def make_frames() -> list[np.ndarray]:
    """Dark, dark, dark, bright, bright: slow, fast, fast, slow, fast."""
    scene = np.full((56, 84, 3), 40, dtype=np.uint8)
    scene[:, 40:] = (200, 30, 30)
    return [scene, scene, scene, 255 - scene, 255 - scene]


def messages(**part) -> list[dict]:
    content = [{"type": "video", **part}, {"type": "text", "text": "what moves?"}]
    return [{"role": "user", "content": content}]


def test_a_video_file_becomes_the_plans_tokens(processor, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(write_mp4(make_frames(), fps=2))
    prompt = PromptEncoder(processor, 200).encode(messages(video=str(path)), "a")
    clip = load_video(path, VideoConfig())
    plan = slow_fast.plan(clip.frames, clip.timestamps, **SLOW_FAST)
    assert plan.frame_types.tolist() == [0, 1, 1, 0, 1]
    assert plan.tokens_per_frame.tolist() == [6, 1, 1, 6, 1]
    np.testing.assert_array_equal(prompt.grid_thw, plan.grid_thw)
    slow, fast = "<|video_pad|>" * 6, "<|fast_start|><|video_pad|><|fast_end|>"
    times = plan.timestamp_texts()
    written = "".join(
        f"<|frame|>{time}{fast if kind else slow}"
        for time, kind in zip(times, plan.frame_types, strict=True)
    )
    assert times == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    assert f"<|vision_start|>{written}<|vision_end|>" in processor.tokenizer.decode(prompt.ids)


def test_the_engines_processor_gets_the_same_tokens_and_pixels(processor):
    asked = messages(video=write_mp4(make_frames(), fps=2), num_frames=3)
    prompt = PromptEncoder(processor, 200).encode(asked, "a")
    chat = processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    called = processor(
        text=[chat],
        videos=prompt.engine_media["video"],
        return_tensors="pt",
        **prompt.engine_kwargs,
    )
    assert hash(tuple(prompt.engine_kwargs.items()))
    assert called["input_ids"].tolist() == [prompt.ids.tolist()]
    np.testing.assert_array_equal(called["pixel_values_videos"].numpy(), prompt.pixel_values)
    assert called["num_frames"].tolist() == [3]
    assert prompt.engine_kwargs["timestamps"] == ((0.0, 1.0, 2.0),)


def test_settings_of_the_plan_are_saved_with_the_checkpoint(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = KeyeVL1_5Processor.from_pretrained(tmp_path)
    assert again.slow_fast == SLOW_FAST
    video = messages(video=write_mp4(make_frames(), fps=2))
    first, second = (PromptEncoder(p, 200).encode(video, "a") for p in (processor, again))
    np.testing.assert_array_equal(first.ids, second.ids)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"video": b"no video"}, "sample v-1: video .8 bytes.: can't be read"),
        ({"video": "missing.mp4"}, "sample v-1: video missing.mp4: can't be opened"),
        ({"video": write_mp4(make_frames()), "start": 9.0}, "sample v-1: .*no frame from 9 s"),
    ],
)
def test_bad_videos_name_the_sample(processor, part, message):
    with pytest.raises(KeyeError, match=message):
        PromptEncoder(processor, 200).encode(messages(**part), "v-1")
