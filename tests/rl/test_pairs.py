"""Preference pairs: who is chosen, who is rejected, and what the statistics say."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.errors import ConfigError, KeyeError
from rewards.result import RewardResult, Score
from rl.groups import Group
from rl.mpo_config import MpoTrainConfig, PairConfig
from rl.pairs import PAIRS, PairExamples, make_pairs, pair_up, prompt_row
from rollout.trajectory import Trajectory

PROMPT = EncodedPrompt(np.arange(3, dtype=np.int32), [0, 1, 2])


def make_group(
    sample: Sample,
    texts: Sequence[str],
    rewards: Sequence[float | None],
    logprobs: Sequence[float],
    verifiers: tuple[str, ...] = ("math",),
) -> Group:
    trajectories = [
        Trajectory(sample.id, PROMPT, np.array([7, k], np.int32), np.full(2, p, np.float32),
                   0, 0, k, "stop")
        for k, p in enumerate(logprobs)
    ]  # fmt: skip
    scores = [score(reward, verifiers) for reward in rewards]
    return Group(sample, 0, PROMPT, trajectories, list(texts), scores)


def score(reward: float | None, verifiers: tuple[str, ...] = ("math",)) -> Score:
    part = RewardResult.failure("broken") if reward is None else RewardResult(min(reward, 1.0))
    return Score(reward, {"math": part}, verifiers)


def sample(name: str = "s") -> Sample:
    return Sample(name, [{"role": "user", "content": "1+1?"}], "2", "a/b", solution="1+1=2")


def test_the_best_correct_response_meets_the_likeliest_wrong_one():
    texts = ["2", "two", "3", "4", "5", "6"]
    group = make_group(sample(), texts, [1.0, 1.1, 0.0, 0.1, None, 0], [-1, -1, -3, -0.2, -0.1, -1])
    assert pair_up(group, 1, 0.0) == [(1, 3)]
    # The failed one is never used, and no response twice.
    assert pair_up(group, 5, 0.0) == [(1, 3), (0, 5)]
    assert pair_up(group, 1, margin=1.05) == [(1, 5)]
    row = prompt_row(4, group, PairConfig())
    assert row["index"] == 4 and row["accuracy"] == pytest.approx(2 / 6)
    assert row["pairs"][0]["chosen"] == {
        "text": "two", "ids": [7, 1], "reward": pytest.approx(1.1), "likelihood": -1.0,
    }  # fmt: skip


def test_equal_texts_and_equal_answers_make_no_pair():
    assert pair_up(make_group(sample(), ["2", "2"], [1, 1], [-1, -1]), 1, 0.0) == []
    assert pair_up(make_group(sample(), ["3", "4"], [0.0, 0.1], [-1, -1]), 1, 0.0) == []


def test_without_a_verifier_rewards_alone_decide():
    group = make_group(sample(), ["a", "b", "c"], [0.2, 0.9, 0.8], [-3, -1, -1], verifiers=())
    assert pair_up(group, 1, 0.0) == [(1, 2)]
    assert pair_up(group, 1, margin=0.5) == [(1, 0)]


class FakeRollouts:
    """Prompt i: i mod 3 = 0 all wrong, 1 mixed, 2 all right. `x` and `2` are the texts."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.calls, self.stop_after = 0, stop_after

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int) -> list[Group]:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        groups = []
        for asked in samples:
            kind = int(asked.id.rpartition("/")[2]) % 3
            right = [0, n // 2, n][kind]
            texts = ["2"] * right + ["wrong"] * (n - right)
            groups.append(make_group(asked, texts, [float(t == "2") for t in texts], [-1.0] * n))
        return groups

    def score(self, samples: Sequence[Sample], texts: Any) -> list[list[Score]]:
        return [
            [score(float(s.answer in t)) for t in g] for s, g in zip(samples, texts, strict=True)
        ]


def test_pairs_are_made_resumed_counted_and_read(tmp_path: Path):
    stream = WorldStream({"digits/sum": 1.0}, seed=1, modes={"think": 1.0})
    cfg = PairConfig(samples=4, chunk=5)
    rollouts: Any = FakeRollouts()
    summary = make_pairs(stream, 30, rollouts, cfg, tmp_path / "a", seed=0)
    assert summary["prompts"] == 30 and summary["pairs"] == 20
    assert summary["kinds"] == {"reference": 10, "sampled": 10} and summary["modes"] == {
        "think": 20
    }
    assert summary["all_wrong_share"] == summary["all_right_share"] == pytest.approx(1 / 3)
    assert summary["chosen_longer_share"] == 0.5  # a reference reasons, "2" is shorter than "wrong"
    assert (summary["chosen_reward"], summary["rejected_reward"]) == (1, 0)
    broken: Any = FakeRollouts(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        make_pairs(stream, 30, broken, cfg, tmp_path / "b", seed=0)
    assert make_pairs(stream, 30, rollouts, cfg, tmp_path / "b", seed=0) == summary
    assert (tmp_path / "a" / PAIRS).read_text() == (tmp_path / "b" / PAIRS).read_text()

    examples = PairExamples(stream, tmp_path / "a" / PAIRS, seed=0)
    epoch = [examples(k) for k in range(20)]
    assert len({prompt[0]["content"][0]["image"].tobytes() for prompt, _, _ in epoch}) == 20
    references = [chosen for _, chosen, _ in epoch if isinstance(chosen, str)]
    assert len(references) == 10 and all(text.startswith("<think>") for text in references)
    assert all(rejected.dtype == np.int32 for _, _, rejected in epoch)
    assert next(c for _, c, _ in epoch if not isinstance(c, str)).tolist() in ([7, 0], [7, 1])


def test_without_references_all_wrong_prompts_make_no_pair(tmp_path: Path):
    stream = WorldStream({"digits/sum": 1.0}, seed=1)
    rollouts: Any = FakeRollouts()
    summary = make_pairs(stream, 9, rollouts, PairConfig(samples=4, wrong="skip"), tmp_path, 0)
    assert summary["kinds"] == {"sampled": 3}
    with pytest.raises(KeyeError, match="not one pair from 1 prompts"):
        make_pairs(stream, 1, rollouts, PairConfig(samples=4, wrong="skip"), tmp_path / "b", 0)
    rows = [json.loads(line) for line in (tmp_path / PAIRS).read_text().splitlines()]
    assert [len(row["pairs"]) for row in rows] == [0, 1, 0] * 3


class Expert(BaseHTTPRequestHandler):
    """A stronger model: right for even sums, wrong for odd ones."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        left, right = body["messages"][0]["content"].partition("=")[0].split("+")
        total = int(left) + int(right)
        text = f"surely {total + total % 2}"
        answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


class Sums:
    """`i+1=?`, an endless source of prompts without media."""

    def __getitem__(self, index: int) -> Sample:
        messages = [{"role": "user", "content": f"{index}+1=?"}]
        return Sample(f"sum/{index}", messages, str(index + 1), "text/sum", mode="auto_think")


def test_a_stronger_model_answers_what_the_policy_gets_wrong_if_the_rules_accept_it(
    tmp_path: Path,
):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Expert)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    cfg = PairConfig(samples=4, wrong="endpoint", url=url, model="m", retries=0)
    rollouts: Any = FakeRollouts()
    summary = make_pairs(Sums(), 12, rollouts, cfg, tmp_path, seed=0)
    server.shutdown()
    server.server_close()
    # All wrong: prompts 0, 3, 6 and 9. The expert is right where the sum is even.
    rows = [json.loads(line) for line in (tmp_path / PAIRS).read_text().splitlines()]
    found = {row["index"]: row["pairs"][0] for row in rows if row["pairs"]}
    assert [index for index, pair in found.items() if pair["kind"] == "endpoint"] == [3, 9]
    assert found[3]["chosen"]["text"] == "surely 4" and found[3]["rejected"]["text"] == "wrong"
    assert summary["kinds"] == {"endpoint": 2, "sampled": 4}
    with pytest.raises(KeyeError, match="stronger model gave no answer"):
        make_pairs(
            Sums(), 1, rollouts, replace(cfg, url="http://127.0.0.1:9/v1"), tmp_path / "b", 0
        )


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="wrong='guess'"):
        PairConfig(wrong="guess")
    with pytest.raises(ConfigError, match=r"needs pairs\.url"):
        PairConfig(wrong="endpoint")
    with pytest.raises(ConfigError, match="'hinge' is none of"):
        MpoTrainConfig(loss_weights={"hinge": 1.0})
    with pytest.raises(ConfigError, match="beta=0"):
        MpoTrainConfig(beta=0)
