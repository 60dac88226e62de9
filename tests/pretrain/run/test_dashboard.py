"""The W&B workspace is built offline and covers every group of metrics."""

from __future__ import annotations

import json
import re

from pretrain.run.dashboard import SECTIONS, build_workspace

GROUPS = {
    "reward", "gspo", "rollout", "hints", "data", "verifier", "mismatch", "time", "perf", "eval",
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
