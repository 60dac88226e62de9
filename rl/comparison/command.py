"""`python -m rl compare` and `python -m rl rubric`: two policies side by side, one policy by marks.

Everything is kept in stages of the output folder, so the same command goes on after an interruption
and asks nobody twice.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.data.sample import MODES, Sample
from pretrain.run.console import say, table
from pretrain.run.directory import RunDir, StageDir, atomic_write, checkpoint_identity
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from pretrain.run.ray_cluster import ray_session
from pretrain.run.stages import run_stage
from rewards.config import RewardConfig
from rewards.judge.client import JudgeError
from rewards.keye_rm.config import RewardModelConfig
from rewards.keye_rm.model import KeyeRewardModel
from rewards.keye_rm.templates import MODES as REWARD_MODES
from rl.answering import answer_all
from rl.comparison.gsb import OUTCOMES, Record, grouped
from rl.comparison.judges import Pair, by_endpoint, by_reward_model, by_rules
from rl.comparison.rubric import (
    RubricConfig,
    read_marks,
    rubric_change,
    rubric_request,
    rubric_table,
)
from rl.evaluate import EvaluationConfig
from rl.identity import data_identity, reward_model_identity, route_identity
from rl.judging import JudgeConfig, ask_all
from rl.session import Session
from rl.stages import heldout_samples
from rollout.config import EngineConfig, SamplingConfig

RECORDS = "records.jsonl"


def _evaluation() -> EvaluationConfig:
    return EvaluationConfig(samples=128, modes=["think"])


@dataclass
class RubricCommandConfig:
    """Everything `python -m rl rubric` can be told."""

    checkpoint: str = ""
    """Policy A: a Hugging Face directory."""
    out: str = ""
    """Folder for the responses, the verdicts and the tables; by default beside the checkpoint."""
    evaluation: EvaluationConfig = field(default_factory=_evaluation)
    """What is asked, and in which modes; answers are greedy."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """A language model that gives marks and verdicts."""
    rubric: RubricConfig = field(default_factory=RubricConfig)
    """What is marked."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM engines of the policies."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Limits of a response."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """How responses are scored by rules."""

    def __post_init__(self) -> None:
        wrong = [mode for mode in self.evaluation.modes if mode not in MODES]
        if wrong or not self.evaluation.modes:
            raise ConfigError(f"evaluation.modes={self.evaluation.modes}: use {', '.join(MODES)}")


@dataclass
class CompareConfig(RubricCommandConfig):
    """Everything `python -m rl compare` can be told."""

    other: str = ""
    """Policy B: a Hugging Face directory. Good means that A is better."""
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """A Keye reward model that judges pairs."""
    reward_mode: str = "no_think"
    """Its mode: no_think, or think."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reward_mode not in REWARD_MODES:
            raise ConfigError(
                f"reward_mode={self.reward_mode!r} is not one of {', '.join(REWARD_MODES)}"
            )


class Comparing:
    """The stages of one output folder."""

    def __init__(self, cfg: RubricCommandConfig, folder: RunDir, session: Session) -> None:
        self.cfg, self.folder, self.session = cfg, folder, session
        samples = heldout_samples(cfg.evaluation, folder.path)
        self.samples = [replace(s, mode=mode) for mode in cfg.evaluation.modes for s in samples]

    def stage(
        self, name: str, identity: Any, inputs: list[str], body: Callable[[StageDir], list[Record]]
    ) -> list[Record]:
        """The records of a stage, made if it is not complete."""

        def made(stage: StageDir) -> dict[str, Any]:
            rows = body(stage)
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            atomic_write(stage.path / RECORDS, text)
            return {"records": len(rows)}

        run_stage(self.folder, name, identity, made, inputs=inputs)
        return read_rows(self.folder.stage(name).path / RECORDS)

    def answers(self, name: str, checkpoint: str) -> list[str]:
        """A policy's greedy responses to all samples, in order."""
        cfg = self.cfg

        def body(stage: StageDir) -> list[Record]:
            found = answer_all(self.session.rollouts(Path(checkpoint)), self.samples)
            return [
                {"id": sample.id, "mode": sample.mode, "response": answer.text if answer else ""}
                for sample, answer in zip(self.samples, found, strict=True)
            ]

        identity = [*data_identity(cfg.evaluation), cfg.sampling, cfg.engine]
        identity.append(checkpoint_identity(checkpoint))
        return [row["response"] for row in self.stage(name, identity, [], body)]

    def marks(self, name: str, answers: str, texts: Sequence[str]) -> list[Record]:
        """The judge's marks of the responses of stage `answers`."""
        cfg = self.cfg

        def body(stage: StageDir) -> list[Record]:
            bodies = [
                rubric_request(sample, text, cfg.rubric, cfg.judge)
                for sample, text in zip(self.samples, texts, strict=True)
            ]
            replies = ask_all(cfg.judge.client(), bodies)
            failed = [reply for reply in replies if isinstance(reply, JudgeError)]
            if failed:
                raise KeyeError(
                    f"the judge did not mark {len(failed)} of {len(replies)} responses "
                    f"({failed[0]}). Mend that and run the same command again; judge.cache=FILE "
                    "keeps what it did answer."
                )
            return [
                self._marked(sample, str(reply))
                for sample, reply in zip(self.samples, replies, strict=True)
            ]

        return self.stage(name, [cfg.rubric, cfg.judge], [answers], body)

    def _marked(self, sample: Sample, reply: str) -> Record:
        return {
            "id": f"{sample.id} {sample.mode}",
            "capability": self.cfg.rubric.capability(sample),
            "marks": read_marks(reply, self.cfg.rubric),
        }


def run_rubric(cfg: RubricCommandConfig) -> None:
    """Mark one policy's responses; print and write the table."""
    _check(cfg.checkpoint, "checkpoint")
    if not cfg.judge.on:
        raise ConfigError("the rubric needs a judge: give judge.url=URL judge.model=NAME")
    out = Path(cfg.out) if cfg.out else Path(cfg.checkpoint).parent / "rubric"
    folder = RunDir(out)
    with (
        folder.exclusive(),
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling) as session,
    ):
        comparing = Comparing(cfg, folder, session)
        texts = comparing.answers("answers", cfg.checkpoint)
        records = comparing.marks("marks", "answers", texts)
    found = _rubric_report(records, cfg.rubric)
    atomic_write(out / "rubric.json", json.dumps({"checkpoint": cfg.checkpoint, **found}, indent=2))
    _show_rubric(f"Rubric: {cfg.checkpoint}", found["table"], cfg.rubric)
    say(f"responses, marks and tables: {out} ({found['unread']} marks could not be read)")


def _rubric_report(records: Sequence[Record], rubric: RubricConfig) -> dict[str, Any]:
    return {
        "table": rubric_table(records, list(rubric.dimensions)),
        "unread": sum(record["marks"] is None for record in records),
    }


def _show_rubric(title: str, found: dict[str, Any], rubric: RubricConfig) -> None:
    names = [*rubric.dimensions, "overall"]
    rows = [
        [group, *(f"{own[name]['value']:.2f}" for name in names), own["overall"]["n"]]
        for group, own in found.items()
    ]
    if rows:
        table(f"{title} (means of 1…5)", ["capability", *names, "n"], rows)


def run_compare(cfg: CompareConfig) -> None:
    """Good/Same/Bad of A against B by every judge there is; print and write the tables."""
    _check(cfg.checkpoint, "checkpoint")
    _check(cfg.other, "other")
    out = Path(cfg.out) if cfg.out else Path(cfg.checkpoint).parent / "comparison"
    folder = RunDir(out)
    found: dict[str, Any] = {"checkpoint": cfg.checkpoint, "other": cfg.other, "judges": {}}
    with (
        folder.exclusive(),
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling) as session,
    ):
        comparing = Comparing(cfg, folder, session)
        texts = [
            comparing.answers("answers_a", cfg.checkpoint),
            comparing.answers("answers_b", cfg.other),
        ]
        pairs = [Pair(*both) for both in zip(comparing.samples, *texts, strict=True)]
        for judge, records in _judged(cfg, comparing, pairs).items():
            if records:
                found["judges"][judge] = grouped(records, lambda r: f"{r['mode']} {r['task_type']}")
        if cfg.judge.on:
            marked = [
                comparing.marks(f"marks_{side}", f"answers_{side}", own)
                for side, own in zip("ab", texts, strict=True)
            ]
            reports = [_rubric_report(records, cfg.rubric) for records in marked]
            change = rubric_change(marked[0], marked[1], list(cfg.rubric.dimensions))
            found["rubric"] = {"a": reports[0], "b": reports[1], "a_minus_b": change}
    if not found["judges"]:
        raise KeyeError(
            "nobody can compare the responses: no row has a verifying rule. Give rows with "
            "rewards, judge.url=URL judge.model=NAME, or reward_model.checkpoint=DIRECTORY"
        )
    atomic_write(out / "comparison.json", json.dumps(found, indent=2) + "\n")
    _show(found, cfg)
    say(f"responses, verdicts and tables: {out}")


def _judged(cfg: CompareConfig, comparing: Comparing, pairs: list[Pair]) -> dict[str, list[Record]]:
    """Records of each judge, the rules first; the reward model gets the cores to itself."""
    both = ["answers_a", "answers_b"]
    session = comparing.session

    def rules(stage: StageDir) -> list[Record]:
        return by_rules(pairs, session.rollouts(Path(cfg.checkpoint)))

    def endpoint(stage: StageDir) -> list[Record]:
        return by_endpoint(pairs, cfg.judge, cfg.judge.client())

    def reward_model(stage: StageDir) -> list[Record]:
        session.close_engines()
        model = KeyeRewardModel.open(cfg.reward_model)
        try:
            return by_reward_model(pairs, model, cfg.reward_mode)
        finally:
            model.close()

    judged = {"rules": comparing.stage("rules", route_identity(cfg.rewards), both, rules)}
    if cfg.judge.on:
        judged["judge"] = comparing.stage("judge", cfg.judge, both, endpoint)
    if cfg.reward_model.checkpoint:
        identity = [cfg.reward_mode, *reward_model_identity(cfg.reward_model)]
        judged["reward_model"] = comparing.stage("reward_model", identity, both, reward_model)
    return judged


def _check(checkpoint: str, key: str) -> None:
    if not checkpoint:
        raise ConfigError(f"no policy: give {key}=DIRECTORY, a Hugging Face directory")
    if not (Path(checkpoint) / "config.json").is_file():
        raise KeyeError(f"{key}={checkpoint} holds no checkpoint (no config.json)")


def _show(found: dict[str, Any], cfg: CompareConfig) -> None:
    rows = []
    for judge, groups in found["judges"].items():
        for group, own in groups.items():
            shares = [_leaf(own, name, name == "win_rate") for name in _SHOWN]
            rows.append([judge, group, *shares, own["n"], own["unread"]])
    columns = ["judge", "prompts", *OUTCOMES, "win rate [95 %]", "orders differ", "n", "unread"]
    table(f"Good/Same/Bad: {cfg.checkpoint} against {cfg.other}", columns, rows)
    if "rubric" in found:
        for side, name in (("a", cfg.checkpoint), ("b", cfg.other)):
            _show_rubric(f"Rubric: {name}", found["rubric"][side]["table"], cfg.rubric)


_SHOWN = (*OUTCOMES, "win_rate", "inconsistent")


def _leaf(own: dict[str, Any], name: str, interval: bool) -> str:
    """A share, with its interval where there is room; all intervals are in the file."""
    leaf = own.get(name)
    if leaf is None:
        return ""
    return f"{leaf['value']:.2f}" + (f" [{leaf['low']:.2f}, {leaf['high']:.2f}]" * interval)
