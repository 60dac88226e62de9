"""Preference pairs: who is chosen, who is rejected, and what the statistics say."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from rewards.config import RewardConfig
from rewards.result import RewardResult, Score
from rl.groups import Group
from rl.mpo.config import MpoConfig, MpoTrainConfig, PairConfig
from rl.mpo.pairs import (
    PAIRS,
    REVIEW,
    PairExamples,
    _reference,
    make_pairs,
    pair_up,
    prompt_row,
)
from rl.mpo.rankings import add_rankings, ranked_pairs, read_rankings
from rl.review.decisions import DecisionLog, decide
from rl.review.items import ReviewItem
from rl.review_rows import ranking_id
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
    assert row["index"] == 4 and row["accuracy"] == pytest.approx(2 / 5)
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


def model_score(value: float) -> Score:
    """As the reward model's parts are merged where no rule verifies: it is the verifier then."""
    parts = {"keye_rm": RewardResult(value), "format": RewardResult(1.0)}
    return Score(value + 0.1, parts, ("keye_rm",), by_model=True)


def judged_group() -> Group:
    group = make_group(sample(), ["a", "b", "c", "d"], [0] * 4, [-3, -1, -2, -1.5])
    group.scores = [model_score(value) for value in (0.9, 0.7, 0.1, 0.3)]
    return group


def test_where_only_the_reward_model_scores_it_chooses_and_calls_nothing_correct():
    group = judged_group()
    assert not group.correct.any()  # a win rate is never quite 1
    row = prompt_row(0, group, PairConfig(margin=0.5, per_prompt=2))
    assert row["accuracy"] is None
    assert [
        (pair["kind"], pair["chosen"]["text"], pair["rejected"]["text"]) for pair in row["pairs"]
    ] == [("reward_model", "a", "d"), ("reward_model", "b", "c")]


class FakeRollouts:
    """Prompt i: i mod 3 = 0 all wrong, 1 mixed, 2 all right. `x` and `2` are the texts."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.calls, self.stop_after = 0, stop_after
        self.rewards = SimpleNamespace(config=RewardConfig())

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


def test_a_reference_that_calls_tools_is_passed_over():
    sample = Sample("q", [], "2", "a/b", extra={"response": "two"})
    assert _reference(sample) == "two"
    sample.extra["response"] = '<tool_call>{"name": "search"}</tool_call>'
    assert _reference(sample) is None


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


class JudgedRollouts(FakeRollouts):
    """Four responses to each prompt; on odd prompts the reward model finds the first the best."""

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int) -> list[Group]:
        groups = []
        for asked in samples:
            group = judged_group()
            if int(asked.id.rpartition("/")[2]) % 2 == 0:
                group.scores = [model_score(0.5) for _ in group.scores]
            groups.append(replace(group, sample=asked))
        return groups


def test_pairs_of_the_reward_model_are_made_and_counted(tmp_path: Path):
    rollouts: Any = JudgedRollouts()
    summary = make_pairs(Sums(), 6, rollouts, PairConfig(samples=4), tmp_path, seed=0)
    assert summary["kinds"] == {"reward_model": 3}
    assert summary["no_truth"] == 6 and "all_wrong_share" not in summary
    assert summary["chosen_reward"] == pytest.approx(1.0)


def export(folder: Path, **settings: Any) -> tuple[list[dict[str, Any]], PairConfig]:
    """The items of six prompts' responses, and the settings that gave them."""
    cfg = PairConfig(samples=4, chunk=2, **settings)
    rollouts: Any = JudgedRollouts()
    make_pairs(Sums(), 6, rollouts, cfg, folder, seed=0)
    return [json.loads(line) for line in (folder / REVIEW).read_text().splitlines()], cfg


def test_responses_are_exported_for_ranking(tmp_path: Path):
    items, _ = export(tmp_path, review=3, review_candidates=3)
    assert [item["candidates"] for item in items] == [["a", "b", "c"]] * 3
    assert len({item["id"] for item in items}) == 3 and items[0]["id"].startswith("sum/0@")
    read = [ReviewItem.from_row(item) for item in items]
    assert read[1].candidates == ("a", "b", "c") and read[1].sample.answer == "2"
    # Other responses to a prompt are another item, so an old ranking can't be read as theirs.
    assert ranking_id("sum/0", ["a", "b"]) != items[0]["id"]
    make_pairs(Sums(), 6, JudgedRollouts(), PairConfig(samples=4), tmp_path / "none", 0)  # type: ignore[arg-type]
    assert not (tmp_path / "none" / REVIEW).exists()


def test_peoples_rankings_take_the_place_of_the_prompts_pairs(tmp_path: Path):
    items, cfg = export(tmp_path / "pairs", review=5)
    log = DecisionLog(tmp_path / "decisions.jsonl")
    for item, decision in zip(items, ([2, 1, 4, 3], None, [1, 1, 1, 1]), strict=False):
        action = "rank" if decision else "drop"
        log.append(decide(item["id"], 0, action, "ann", ranking=decision))
    log.append(decide("elsewhere@0", 0, "rank", "ann", ranking=[1, 2]))
    rankings = read_rankings([str(log.path)])
    summary = add_rankings(tmp_path / "pairs", rankings, tmp_path / "human", 2, only_round=True)
    assert summary["rankings"] == {"ranked": 2, "dropped": 1, "tied": 1, "unmatched": 1}
    assert summary["kinds"] == {"human": 2, "reward_model": 2}  # prompts 0, and 3 and 5
    rows = {row["index"]: row["pairs"] for row in read_rows(tmp_path / "human" / PAIRS)}
    assert [(p["chosen"]["text"], p["rejected"]["text"]) for p in rows[0]] == [
        ("b", "c"),
        ("a", "d"),
    ]
    assert rows[0][0]["chosen"]["ids"] == [7, 1]  # as sampled, not tokenised anew
    assert rows[1] == rows[2] == []
    assert cfg.per_prompt == 1 and len(rows[3]) == 1


def test_rankings_of_something_else_are_refused(tmp_path: Path):
    items, _ = export(tmp_path / "pairs", review=1)
    wrong = {items[0]["id"]: decide(items[0]["id"], 0, "rank", "ann", ranking=[1, 2])}
    with pytest.raises(KeyeError, match="ann ranked 2 candidates, but it has 4"):
        add_rankings(tmp_path / "pairs", wrong, tmp_path / "h", 1, only_round=True)
    other = {"x": decide("x", 0, "rank", "ann", ranking=[1, 2])}
    with pytest.raises(KeyeError, match="none of 1 rankings is of an item in"):
        add_rankings(tmp_path / "pairs", other, tmp_path / "h", 1, only_round=True)
    found = add_rankings(tmp_path / "pairs", other, tmp_path / "h", 1, only_round=False)
    assert found["rankings"]["unmatched"] == 1
    for name in ("a", "b"):
        DecisionLog(tmp_path / name).append(decide("x", 0, "rank", "ann", ranking=[1, 2]))
    with pytest.raises(ConfigError, match="'x' is ranked in"):
        read_rankings([str(tmp_path / "a"), str(tmp_path / "b")])


def test_ranks_become_pairs_from_the_outside_in():
    candidates = [{"text": name} for name in "abcde"]

    def pairs(*ranks: int) -> list[str]:
        found = ranked_pairs(candidates, ranks, 9)
        return [pair["chosen"]["text"] + pair["rejected"]["text"] for pair in found]

    assert pairs(1, 2, 3, 4, 5) == ["ae", "bd"]
    assert pairs(3, 3, 1, 3, 3) == ["ce"]
    assert pairs(1, 1, 1, 1, 1) == []
    assert len(ranked_pairs(candidates, (1, 2, 3, 4, 5), 1)) == 1


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"mpo\.rankings needs mpo\.pairs\.review"):
        MpoConfig(rankings=["decisions.jsonl"])
    with pytest.raises(ConfigError, match=r"^mpo\.pairs\.review_candidates=1 must be at least 2"):
        PairConfig(review_candidates=1)
    with pytest.raises(ConfigError, match=r"^mpo\.pairs\.wrong='guess'"):
        PairConfig(wrong="guess")
    with pytest.raises(ConfigError, match=r"needs mpo\.pairs\.url"):
        PairConfig(wrong="endpoint")
    with pytest.raises(ConfigError, match="'hinge' is none of"):
        MpoTrainConfig(loss_weights={"hinge": 1.0})
    with pytest.raises(ConfigError, match="beta=0"):
        MpoTrainConfig(beta=0)
