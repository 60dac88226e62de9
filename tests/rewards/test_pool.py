"""The pool: results, time-outs, deaths, bounds and bookkeeping of killable workers."""

import math
import os
import time
from pathlib import Path

import pytest

from rewards.config import RewardConfig
from rewards.pool import RewardError, RewardFailureError, RewardPool, without_pixels
from rewards.result import RewardResult, Score, is_correct

HELPERS = """
import os, time, asyncio, ctypes
def half(response, sample): return 0.5
def hang(response, sample):
    if "hang" in response:
        while True: pass
    return 1.0
def sleepy(response, sample):
    time.sleep(0.01); return 1.0
def stop_sleeping(response, sample):
    if "hang" in response: time.sleep(1000)
    return float(len(response))
def die(response, sample):
    if "die" in response: os._exit(7)
    if "crash" in response: ctypes.string_at(0)
    return 1.0
def leave(response, sample): raise SystemExit(3)
def raises(response, sample): raise ValueError("bad luck " + response)
def returns(response, sample, what): return eval(what)
def greedy(response, sample):
    if "big" in response: return float(len(bytearray(600 << 20)) * 0)
    return 1.0
def pid(response, sample): return os.getpid()
def linger(response, sample):
    if os.fork() == 0:
        while True: time.sleep(1)
    if "hang" in response: time.sleep(1000)
    return 1.0
async def slow(response, sample):
    await asyncio.sleep(0.2); return 1.0
async def stuck(response, sample):
    if "hang" in response: time.sleep(1000)
    if "late" in response: await asyncio.sleep(1000)
    return 1.0
def sees(response, sample):
    return float(all("image" not in part for part in sample["messages"][0]["content"]))
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("plug") / "helpers.py"
    file.write_text(HELPERS)
    return file


@pytest.fixture(scope="module")
def pool():
    config = RewardConfig(workers=2, deadline_s=1.0, memory_mb=256, max_failed_share=1.0)
    with RewardPool(config) as pool:
        yield pool


def sample(rule: str, **extra) -> dict:
    return {"id": "s", "answer": "1", "mode": "think", "rewards": [{"rule": rule, **extra}]}


def think(answer: object) -> str:
    return f"<think>because</think><answer>\\boxed{{{answer}}}</answer>"


def only(score: Score) -> RewardResult:
    (result,) = score.parts.values()
    return result


def test_nothing_to_score_is_no_error(pool):
    assert pool.score([]) == []


def test_values_and_order(pool):
    rewards = [{"rule": "math"}, {"rule": "format", "weight": 0.25}]
    items = [
        (think(i), {"id": i, "answer": str(i - i % 2), "mode": "think", "rewards": rewards})
        for i in range(300)
    ]
    scores = pool.score(items)
    assert [s.total for s in scores] == [1.25 if i % 2 == 0 else 0.25 for i in range(300)]
    assert [is_correct(s) for s in scores] == [i % 2 == 0 for i in range(300)]
    assert scores[0].verifiers == ("math",)
    assert 0 < scores[0].parts["math"].seconds < 1.0


def test_hanging_rule_is_a_timeout_and_hurts_nobody(pool, rules):
    row = sample(f"{rules}:hang")
    items = [("hang" if i in (3, 4) else "fine", row) for i in range(40)]
    scores = pool.score(items)
    assert [only(s).status for s in scores].count("timeout") == 2
    assert only(scores[3]).value is None and scores[3].total is None
    assert all(s.total == 1.0 for i, s in enumerate(scores) if i not in (3, 4))


def test_more_hangs_than_workers_cost_one_deadline_a_round(pool, rules):
    row = sample(f"{rules}:stop_sleeping")
    pool.check([f"{rules}:stop_sleeping"])
    items = [("hang" if i % 10 == 0 else "x" * i, row) for i in range(50)]
    started = time.monotonic()
    scores = pool.score(items)
    elapsed = time.monotonic() - started
    rounds = math.ceil(5 / 2)
    assert elapsed < rounds * (1.0 + 0.2) + 1.0  # the last second is for a loaded machine
    assert [s.total for s in scores] == [None if i % 10 == 0 else float(i) for i in range(50)]


def test_dead_worker_is_an_error_of_its_call_only(pool, rules):
    row = sample(f"{rules}:die")
    items = [({5: "die", 9: "crash"}.get(i, "fine"), row) for i in range(20)]
    scores = pool.score(items)
    assert "exit code 7" in only(scores[5]).details["message"]
    assert "SIGSEGV" in only(scores[9]).details["message"]
    assert all(s.total == 1.0 for i, s in enumerate(scores) if i not in (5, 9))


def test_exceptions_are_errors_with_their_place(pool, rules):
    result = only(pool.score([("x", sample(f"{rules}:raises"))])[0])
    assert result.status == "error" and result.value is None
    assert "ValueError: bad luck x" in result.details["message"]
    assert "helpers.py" in result.details["message"]
    assert "SystemExit" in only(pool.score([("", sample(f"{rules}:leave"))])[0]).details["message"]


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        ("1", 1.0),
        ("True", 1.0),
        ("0.25", 0.25),
        ("float('nan')", None),
        ("float('inf')", None),
        ("None", None),
        ("'1'", None),
        ("[1.0]", None),
        ("10**400", None),
        ("{}", None),
    ],
)
def test_returned_values(pool, rules, returned, value):
    result = only(pool.score([("", sample(f"{rules}:returns", what=returned))])[0])
    assert result.value == value
    assert result.status == ("ok" if value is not None else "error")


def test_memory_limit_is_an_error_and_the_pool_goes_on(pool, rules):
    row = sample(f"{rules}:greedy")
    scores = pool.score([("big", row), ("small", row)])
    assert "MemoryError" in only(scores[0]).details["message"]
    assert scores[1].total == 1.0


def test_children_of_a_killed_worker_die_with_it(pool, rules):
    row = sample(f"{rules}:linger", deadline_s=0.3)
    assert only(pool.score([("hang", row)])[0]).status == "timeout"
    group = _running("helpers.py", pool)
    assert group == []


def _running(_: str, pool) -> list[int]:
    """Processes whose parent is neither alive nor the template: orphans of workers."""
    template = pool._dispatcher._template._process.pid
    known = {w.pid for w in pool._dispatcher._workers} | {template}
    spare = pool._dispatcher._spare
    known |= {spare.pid} if spare else set()
    orphans = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in known:
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
                state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if b"rewards.worker" in command and state[1] == "1" and state[0] != "Z":
                orphans.append(int(entry))
    return orphans


def test_async_rules_run_concurrently_with_their_own_deadlines(pool, rules):
    started = time.monotonic()
    scores = pool.score([("x", sample(f"{rules}:slow"))] * 60)
    assert all(s.total == 1.0 for s in scores)
    assert time.monotonic() - started < 3.0  # one by one: 12 s
    row = sample(f"{rules}:stuck")
    items = [({2: "late", 4: "hang"}.get(i, "fine"), row) for i in range(6)]
    statuses = [only(s).status for s in pool.score(items)]
    assert statuses == ["ok", "ok", "timeout", "ok", "timeout", "ok"]


def test_unknown_rule_is_named_with_the_nearest(pool):
    score = pool.score([("x", sample("mahts"))])[0]
    assert score.total is None
    assert "no reward rule named 'mahts'; did you mean 'math'" in only(score).details["message"]
    with pytest.raises(RewardError, match="did you mean 'math'"):
        pool.check(["mahts"])


def test_row_without_rewards_fails_alone(pool, rules):
    scores = pool.score([("x", {"id": "r1", "task_type": "a/b"}), ("x", sample(f"{rules}:half"))])
    assert "'r1'" in scores[0].parts["rewards"].details["message"]
    assert scores[1].total == 0.5


def test_pathological_responses(pool):
    row = {"id": "p", "answer": "12", "mode": "think", "rewards": [{"rule": "math"}]}
    responses = [
        think("1" * 10_000_000),
        "<think>" * 1_000_000,
        "\x00" * 1000 + think("12"),
        think("{" * 100_000),
        think(r"10^{10^{10^{10}}}"),
        think("12"),
    ]
    scores = pool.score([(response, row) for response in responses])
    assert [s.total for s in scores[:2]] == [0.0, 0.0]
    assert scores[2].total in (0.0, 1.0)
    assert scores[3].total == 0.0
    assert only(scores[4]).status == "timeout" or scores[4].total == 0.0
    assert scores[5].total == 1.0


def test_too_many_failures_stop_with_the_scores_kept(rules):
    with RewardPool(RewardConfig(max_failed_share=0.25)) as strict:
        row = sample(f"{rules}:raises")
        good = sample(f"{rules}:half")
        assert len(strict.score([("x", good)] * 3 + [("x", row)])) == 4
        with pytest.raises(RewardFailureError, match="'raises' failed on 2 of 4") as caught:
            strict.score([("x", good)] * 2 + [("x", row)] * 2)
        assert [s.total for s in caught.value.scores] == [0.5, 0.5, None, None]


def test_submit_is_held_back_while_the_queue_is_full(rules):
    with RewardPool(RewardConfig(max_pending=20)) as narrow:
        narrow.check([f"{rules}:sleepy"])
        started = time.monotonic()
        future = narrow.submit([("x", sample(f"{rules}:sleepy"))] * 80)
        assert time.monotonic() - started > 0.5  # 10 ms each, the last 20 may still be waiting
        assert len(future.result(30)) == 80


def test_submit_hides_behind_other_work(pool, rules):
    pool.check([f"{rules}:sleepy"])
    started = time.monotonic()
    future = pool.submit([("x", sample(f"{rules}:sleepy"))] * 50)
    assert time.monotonic() - started < 0.1
    assert all(s.total == 1.0 for s in future.result(20))


def test_closed_pool_says_so(rules):
    closed = RewardPool(RewardConfig())
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.score([("x", sample(f"{rules}:half"))])


def test_rules_see_no_pixels(pool, rules):
    import numpy as np

    pixels = np.zeros((4, 4, 3), np.uint8)
    content = [{"type": "image", "image": pixels}, {"type": "text", "text": "sum?"}]
    row = {**sample(f"{rules}:sees"), "messages": [{"role": "user", "content": content}]}
    assert pool.score([("x", row)])[0].total == 1.0
    assert content[0]["image"] is pixels  # the caller's sample is untouched
    path_row = {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]}
    assert without_pixels(path_row) is path_row
