"""World streams: pure in the index, exact to resume, with the mix that was asked for."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import pytest

from pretrain.data.stream import WorldStream, heldout
from pretrain.data.world import TASKS
from pretrain.run.errors import ConfigError, KeyeError

MIX = {"digits/sum": 2, "shapes/count": 1, "digits/read": 1}


def same(one, other) -> bool:
    pixels = (sample.media()[0]["image"] for sample in (one, other))
    facts = [(sample.id, sample.answer, sample.mode) for sample in (one, other)]
    return facts[0] == facts[1] and np.array_equal(*pixels)


def test_a_sample_depends_on_its_index_only():
    stream, again = WorldStream(MIX, 7), WorldStream(dict(reversed(MIX.items())), 7)
    stream.take(5)
    assert all(same(stream[i], again[i]) for i in (99, 3, 0))
    assert len({sample.id for sample in stream.take(500)}) == 500


def test_seed_split_and_mix_give_other_samples():
    streams = [
        WorldStream({"digits/read": 1}, 7),
        WorldStream({"digits/read": 1}, 8),
        WorldStream({"digits/read": 1}, 7, "test"),
        WorldStream({"digits/read": 1, "digits/sum": 1e-9}, 7),
    ]
    images = {stream[0].media()[0]["image"].tobytes() for stream in streams}
    assert len(images) == 4 == len({stream[0].id for stream in streams})
    assert len({stream.fingerprint() for stream in streams}) == 4


def test_the_same_questions_in_another_mode():
    think, auto = (heldout(MIX, 40, 1, {mode: 1}) for mode in ("think", "auto_think"))
    assert [s.answer for s in think] == [s.answer for s in auto]
    assert {s.mode for s in auto} == {"auto_think"}
    # Without a solution there is nothing to think about.
    assert {s.mode for s in think if s.task_type == "digits/read"} == {"no_think"}
    assert {s.mode for s in think if s.task_type != "digits/read"} == {"think"}


def test_resume_goes_on_exactly_where_it_stopped():
    whole = WorldStream(MIX, 7).take(20)
    first = WorldStream(MIX, 7)
    head = first.take(13)
    state = json.loads(json.dumps(first.state()))
    second = WorldStream(MIX, 7)
    second.load_state(state)
    tail = second.take(7)
    assert all(same(a, b) for a, b in zip(whole, head + tail, strict=True))
    with pytest.raises(KeyeError, match=r"cannot resume.*seed 8"):
        WorldStream(MIX, 8).load_state(state)


def test_shares_of_tasks_and_modes():
    modes = {"think": 3, "auto_think": 1}
    got = WorldStream({"digits/sum": 3, "shapes/count": 1}, 0, modes=modes).take(2000)
    tasks = Counter(sample.task_type for sample in got)
    by_mode = Counter(sample.mode for sample in got)
    # Four standard deviations of a binomial with p = 1/4 are 0.039.
    assert tasks["shapes/count"] / 2000 == pytest.approx(0.25, abs=0.039)
    assert by_mode["auto_think"] / 2000 == pytest.approx(0.25, abs=0.039)
    both = sum(s.task_type == "shapes/count" and s.mode == "auto_think" for s in got)
    assert both / 2000 == pytest.approx(1 / 16, abs=0.022)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"digits/summ": 1}, 0), "'digits/summ'"),
        (({"digits/sum": -1}, 0), "≥ 0"),
        (({"digits/sum": float("nan")}, 0), "≥ 0"),
        (({"digits/sum": 0}, 0), "no weight"),
        (({}, 0), "no weight"),
        ((MIX, 0, "dev"), "split='dev'"),
        ((MIX, -1), "seed=-1"),
        ((MIX, 0, "train", {"fast": 1}), "'fast'"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        WorldStream(*arguments)


def test_drawing_is_faster_than_two_thousand_samples_a_second():
    images = [name for name in TASKS if not name.startswith("video/")]
    stream = WorldStream(dict.fromkeys(images, 1.0), 0)
    stream.take(200)  # fills the caches of stamps, words and digits
    rates = []
    for _ in range(3):
        start = time.process_time()
        stream.take(500)
        rates.append(500 / (time.process_time() - start))
    assert max(rates) > 2000
