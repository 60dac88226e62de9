"""Rows become samples, and bad rows become errors that name the sample and the field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pretrain.data.media import MediaConfig, load_media
from pretrain.data.sample import VIDEO_OPTIONS, Sample, SampleError
from pretrain.data.stream import WorldStream
from pretrain.data.world import TASKS
from pretrain.keye_vl.prompt import REQUEST_KEYS

IMAGE = {"type": "image", "image": "a.png"}
TEXT = {"type": "text", "text": "how many?"}


def row(**changes):
    base = {
        "id": "q1",
        "messages": [{"role": "user", "content": [IMAGE, TEXT]}],
        "answer": "3",
        "task_type": "shapes/count",
        "rewards": [{"rule": "math", "weight": 1.0}],
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"answer": None}, "`answer`"),
        ({"answer": "  "}, "`answer`"),
        ({"messages": []}, "`messages`"),
        ({"messages": "how many?"}, "`messages`"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "role"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "user's turn"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "image part"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "'sound'"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text part"),
        ({"messages": [{"role": "user", "content": "see <|image_pad|>"}]}, "<|image_pad|>"),
        ({"task_type": "count"}, "domain/kind"),
        ({"mode": "slow"}, "'slow'"),
        ({"rewards": ["math"]}, "`rewards`"),
        ({"rewards": [{"weight": 1}]}, "`rewards`"),
        ({"rewards": [{"rule": "math", "weight": float("nan")}]}, "finite"),
        ({"hints": ["one", "two"]}, "5 strings"),
        ({"solution": 3}, "`solution`"),
        ({"constraints": ["short"]}, "`constraints`"),
    ],
)
def test_a_bad_row_names_the_sample_and_the_field(changes, names):
    with pytest.raises(SampleError) as error:
        Sample.from_row(row(**changes))
    assert names in str(error.value) and "'q1'" in str(error.value)


def test_placeholder_markers_must_match_the_media():
    good = row(messages=[{"role": "user", "content": "<image> or <image>?"}], images=["a", "b"])
    content = Sample.from_row(good).messages[0]["content"]
    assert [part.get("image", part.get("text")) for part in content] == ["a", " or ", "b", "?"]
    for images in (["a"], ["a", "b", "c"]):
        with pytest.raises(SampleError, match=rf"has {len(images)} item.*2 <image> marker"):
            Sample.from_row({**good, "images": images})


def test_a_marker_without_the_column_is_ordinary_text():
    sample = Sample.from_row(row(messages=[{"role": "user", "content": "the <image> tag"}]))
    assert sample.messages[0]["content"] == [{"type": "text", "text": "the <image> tag"}]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "a.png"),
        ({"type": "image_url", "image_url": "a.png"}, "a.png"),
        ({"type": "image", "path": "a.png", "text": None}, "a.png"),
        ({"type": "image", "url": "a.png"}, "a.png"),
        ({"type": "image", "base64": "QUJD"}, "data:;base64,QUJD"),
        ({"type": "image", "image": {"bytes": b"x", "path": None}}, {"bytes": b"x", "path": None}),
    ],
)
def test_other_spellings_of_an_image_part(part, value):
    sample = Sample.from_row(row(messages=[{"role": "user", "content": [part, TEXT]}]))
    assert sample.media() == [{"type": "image", "image": value}]


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({"fps": 2, "start": 0, "end": 1.5}, {"fps": 2, "start": 0, "end": 1.5}),
        ({"nframes": 8, "video_start": 1.0, "video_end": None}, {"num_frames": 8, "start": 1.0}),
        ({"num_frames": 8.0}, {"num_frames": 8}),
        ({"colour": "red"}, {}),
    ],
)
def test_options_of_a_video_part_are_kept(options, read):
    part = {"type": "video", "video": "a.mp4", **options}
    sample = Sample.from_row(row(messages=[{"role": "user", "content": [part, TEXT]}]))
    assert sample.media() == [{"type": "video", "video": "a.mp4", **read}]
    again = Sample.from_row(json.loads(json.dumps(sample.to_row())))
    assert again == sample


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"fps": 0}, "fps=0"),
        ({"fps": float("inf")}, "fps=inf"),
        ({"fps": "2"}, "fps='2'"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 2.5}, "num_frames=2.5"),
        ({"num_frames": True}, "num_frames=True"),
        ({"start": -1}, "start=-1"),
        ({"start": 2, "end": 2}, "end=2 ≤ start=2"),
    ],
)
def test_bad_options_of_a_video_part_are_named(options, names):
    part = {"type": "video", "video": "a.mp4", **options}
    with pytest.raises(SampleError, match="sample 'q1'") as error:
        Sample.from_row(row(messages=[{"role": "user", "content": [part, TEXT]}]))
    assert names in str(error.value)


def test_the_reader_gets_the_options_of_a_row(encoder, tmp_path):
    """A JSONL row's options decide which frames become tokens."""
    assert set(VIDEO_OPTIONS) == set(REQUEST_KEYS)
    clip = WorldStream({"video/direction": 1}, 5)[0].media()[0]["video"]
    (tmp_path / "clip.mp4").write_bytes(clip)
    frames = []
    for options in ({}, {"num_frames": 2}, {"start": 0.0, "end": 0.1}):
        part = {"type": "video", "video": "clip.mp4", **options}
        line = json.dumps(row(messages=[{"role": "user", "content": [part, TEXT]}]))
        sample = load_media(Sample.from_row(json.loads(line)), tmp_path, MediaConfig())
        frames.append(len(encoder.encode(sample.messages, sample.id).grid_thw))
    assert frames[0] > 2 and frames[1:] == [2, 1]


def test_numbers_as_answers_and_unknown_columns():
    sample = Sample.from_row(row(answer=3, difficulty="hard", hints=None))
    assert sample.answer == "3" and sample.hints is None
    assert sample.extra == {"difficulty": "hard"}
    assert sample.to_row()["difficulty"] == "hard" and "hints" not in sample.to_row()


@pytest.mark.parametrize("task_type", TASKS)
def test_world_samples_survive_a_json_round_trip(task_type, tmp_path):
    sample = WorldStream({task_type: 1}, 5, modes={"auto_think": 1})[0].validate()
    again = Sample.from_row(json.loads(json.dumps(sample.to_row())))
    again = load_media(again, tmp_path, MediaConfig())
    for one, other in zip(sample.media(), again.media(), strict=True):
        kind = one["type"]
        np.testing.assert_array_equal(one.pop(kind), other.pop(kind))
    assert again == sample


def test_rows_for_reward_workers_carry_no_pixels():
    sample = WorldStream({"digits/sum": 1}, 5)[0]
    sample.media()[0]["image"] = Image.fromarray(sample.media()[0]["image"])
    light, full = (len(json.dumps(sample.to_row(media=media))) for media in (False, True))
    assert light < 1500 < full
