"""The W&B dashboard as code: one workspace with a section for each group of metrics.

`build_workspace("me", "keye-rl").save()` puts it online (needs a login); building it needs none.
Panels are drawn from metric names by patterns, so a new metric of a group appears by itself.
"""

from __future__ import annotations

import wandb_workspaces.reports.v2 as reports
import wandb_workspaces.workspaces as workspaces

# Per group: what it answers, and the panels (title, pattern of the metric names drawn together).
# The first section is what one looks at every day; the others are opened when it looks wrong.
SECTIONS: dict[str, list[tuple[str, str]]] = {
    "overview": [
        ("mean reward", r"reward/mean"),
        ("held-out accuracy", r"eval/.*_mean"),
        ("clip fraction", r"gspo/clip_fraction.*"),
        ("engine-learner mismatch", r"mismatch/.*"),
        ("response length", r"rollout/.*length.*"),
        ("seconds per phase", r"time/.*"),
    ],
    "reward": [
        ("whole reward", r"reward/[^/]+"),
        ("accuracy by mode", r"reward/accuracy/.+"),
        ("by rule", r"reward/.+/mean"),
        ("failures by rule", r"reward/.+/failed_share"),
        ("seconds by rule", r"reward/.+/seconds.*"),
    ],
    "gspo": [
        ("loss", r"gspo/.*loss.*"),
        ("sequence ratio", r"gspo/.*ratio.*"),
        ("clipped sequences", r"gspo/.*clip.*"),
        ("gradient norm", r"gspo/.*norm.*"),
        ("entropy", r"gspo/entropy"),
        ("sequences", r"gspo/sequences"),
        ("learning rate", r"gspo/lr"),
    ],
    "rollout": [("all", r"rollout/.*")],
    "tools": [("calls, errors, turns", r"tools/.*")],
    "alignment": [
        ("correct by source", r"alignment/.*/correct"),
        ("constraints satisfied", r"alignment/.*/satisfied"),
        ("answers well-formed by form", r"alignment/formats/.*"),
        ("all", r"alignment/.*"),
    ],
    "hints": [
        ("prompts by minimal level", r"hints/(L\d/share|unsolved_share)"),
        ("solve rate by level", r"hints/L\d/solve_rate"),
        ("asked without a hint", r"hints/(unhinted_share|all_wrong_share)"),
        ("tokens a solved prompt", r"hints/tokens_per_solved_prompt"),
        ("levels skipped", r"hints/(leaking|missing)"),
    ],
    "dynamic": [("prompts drawn, informative, kept", r"dynamic/.*")],
    "overlong": [("punished responses", r"overlong/.*")],
    "train": [
        ("loss", r"train/loss"),
        ("token accuracy and entropy", r"train/(token_accuracy|entropy)"),
        ("gradient norm", r"train/grad_norm"),
        ("learning rate", r"train/lr"),
    ],
    "mpo": [
        ("loss", r"mpo/loss"),
        ("implicit rewards", r"mpo/(.*reward|margin)"),
        ("log-probabilities", r"mpo/.*logprob"),
        ("accuracy", r"mpo/.*accuracy"),
    ],
    "mismatch": [("log-probabilities, engine against learner", r"mismatch/.*")],
    "data": [("all", r"data/.*")],
    "eval": [
        ("means over the tasks", r"eval/.*_mean"),
        ("answered at once, by task", r"eval/direct/.*"),
        ("with reasoning, by task", r"eval/think/.*"),
        ("reading, zero-shot, recall", r"eval/(reading|zero_shot|recall)"),
    ],
    "time": [("seconds", r"time/.*")],
    "perf": [("throughput and memory", r"perf/.*")],
}
SAMPLES = "samples"


def build_workspace(entity: str, project: str) -> workspaces.Workspace:
    """The workspace of a project, not yet saved; `entity` is the W&B user or team."""
    sections = [
        workspaces.Section(
            name=group,
            panels=[
                reports.LinePlot(title=title, metric_regex=pattern, x="Step")
                for title, pattern in panels
            ],
            is_open=group == "overview",
        )
        for group, panels in SECTIONS.items()
    ]
    samples = workspaces.Section(
        name=SAMPLES,
        panels=[reports.WeavePanelSummaryTable(table_name=SAMPLES)],
        is_open=True,
    )
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="keye-rl",
        sections=[sections[0], samples, *sections[1:]],
    )
