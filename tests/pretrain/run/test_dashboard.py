"""The W&B workspace is built offline and covers every group of metrics."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pretrain.run.dashboard import SECTIONS, build_workspace
from pretrain.stages.accuracy import READING, Outcome, summarise
from pretrain.stages.driver import flat_metrics
from rewards.result import RewardResult, Score
from rl.alignment.marks import observe

ROOT = Path(__file__).resolve().parents[3]
GROUPS = {
    "reward", "gspo", "rollout", "hints", "data", "mismatch", "time", "perf", "eval", "dynamic",
    "overlong", "tools", "alignment", "train", "mpo",
}  # fmt: skip


def test_workspace_is_built_without_a_login(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    view = json.loads(
        build_workspace("team", "keye-rl")._to_model().spec.model_dump_json(by_alias=True)
    )
    sections = view["section"]["panelBankConfig"]["sections"]
    names = [section["name"] for section in sections]
    assert names[:2] == ["overview", "samples"]
    assert set(names) >= GROUPS
    patterns = {
        panel["config"]["metricRegex"]
        for section in sections
        for panel in section["panels"]
        if panel["config"].get("metricRegex")
    }
    assert patterns == {pattern for panels in SECTIONS.values() for _, pattern in panels}


def test_every_group_draws_its_own_metrics_only():
    for group, panels in SECTIONS.items():
        if group == "overview":
            continue
        for _, pattern in panels:
            assert pattern.startswith(f"{group}/")
    rule = next(p for title, p in SECTIONS["reward"] if title == "by rule")
    assert re.fullmatch(rule, "reward/math/mean") and not re.fullmatch(rule, "reward/mean")


def written_names() -> set[str]:
    """Metric names as they stand in the code; what an f-string fills in is a 1."""
    found = set()
    for package in ("pretrain", "rollout", "rewards", "rl"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "dashboard.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", "1") for part in node.values]
                    found.add("".join(p if isinstance(p, str) else "1" for p in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def composed_names() -> set[str]:
    """Names that are put together in several places."""
    kinds = ("no_think", "think", READING)
    outcomes = [Outcome("digits/read", kind, True) for kind in kinds]
    constraints = RewardResult(1.0, details={"followed": {"title": True}})
    score = Score(1.0, {"constraints": constraints, "format": RewardResult(1.0)}, ("constraints",))
    about = {"alignment": {"source": "formats", "kind": "json"}}
    group: Any = SimpleNamespace(
        sample=SimpleNamespace(extra=about),
        scores=[score],
        trajectories=[SimpleNamespace(tool_use=None)],
    )
    return set(flat_metrics(summarise(outcomes))) | set(observe([group]))


def test_every_panel_draws_a_metric_that_is_logged():
    names = written_names() | composed_names()
    empty = {
        pattern
        for panels in SECTIONS.values()
        for _, pattern in panels
        if not any(re.fullmatch(pattern, name) for name in names)
    }
    assert not empty
