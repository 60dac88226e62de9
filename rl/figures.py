"""Pictures of a run, drawn from the files it wrote: nothing is computed here that is not in them.

`overview.png` shows the stages, the GSPO curve and the evaluation before and after; `samples.png`
shows held-out prompts with the policy's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.run.metrics import read_rows

CAPTION_WIDTH = 42
"""Characters of a caption's line above a picture of three inches."""
LINE_INCHES = 0.13
"""Height of such a line."""
BEFORE, AFTER, ACCENT = "#9aa5b1", "#2166ac", "#d6604d"


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Centred moving average `[n] -> [n]`; the window shrinks at the ends."""
    ones = np.ones(min(width, len(values)))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def _draw_stages(axes: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    timed = [stage for stage in stages if stage.get("seconds")]
    names = [stage["name"] for stage in timed]
    axes.barh(names, [stage["seconds"] for stage in timed], color=AFTER)
    for row, stage in enumerate(timed):
        score = stage.get("metrics", {}).get("direct_mean")
        label = f" {stage['seconds']:.0f} s"
        if score is not None:
            label += f", held-out {score:.2f}"
        axes.text(stage["seconds"], row, label, va="center", fontsize=8)
    axes.margins(x=0.35)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.set_title("Stages")


def _draw_curve(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    colours = {"think": AFTER, "auto_think": ACCENT, "no_think": BEFORE}
    for mode, colour in colours.items():
        key = f"reward/accuracy/{mode}"
        points = [(row["step"], row[key]) for row in rows if key in row]
        if not points:
            continue
        steps, values = (np.asarray(column, float) for column in zip(*points, strict=True))
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, _smooth(values, 9), color=colour, label=mode)
    axes.set_xlabel("GSPO step")
    axes.set_ylabel("accuracy of rollouts (temperature 1)")
    axes.set_title("Training rollouts")
    if axes.lines:
        axes.legend(fontsize=8)


def _draw_evaluation(axes: Axes, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    groups = [(mode, kind) for mode in before for kind in before[mode]]
    for shift, (table, colour, label) in zip(
        (-0.2, 0.2), ((before, BEFORE, "before RL"), (after, AFTER, "after RL")), strict=True
    ):
        leaves = [table[mode][kind] for mode, kind in groups]
        value = np.array([leaf["value"] for leaf in leaves])
        error = np.array(
            [
                [max(0.0, leaf["value"] - leaf["low"]) for leaf in leaves],
                [max(0.0, leaf["high"] - leaf["value"]) for leaf in leaves],
            ]
        )
        at = np.arange(len(groups)) + shift
        axes.bar(at, value, 0.38, yerr=error, color=colour, label=label, capsize=2)
    axes.set_xticks(
        np.arange(len(groups)),
        [f"{mode} {kind}" for mode, kind in groups],
        fontsize=7,
        rotation=30,
        ha="right",
    )
    axes.set_ylim(0, 1)
    axes.set_title("Held-out accuracy, 95 % intervals")
    axes.legend(fontsize=8)


def _draw_optimisation(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    keys = {
        "gspo/clip_fraction": ("clip fraction", ACCENT),
        "reward/zero_variance_share": ("groups without spread", BEFORE),
        "rollout/reasoned_share/auto_think": ("auto-think prompts reasoned on", AFTER),
    }
    for key, (label, colour) in keys.items():
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=colour)
    axes.set_xlabel("GSPO step")
    axes.set_ylim(0, 1)
    axes.set_title("Optimisation")
    if axes.lines:
        axes.legend(fontsize=8)


def draw_overview(summary: Mapping[str, Any], metrics: Path, out: Path) -> Path:
    """Draw `overview.png` of a run from its summary and the GSPO stage's metrics file."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    rows = read_rows(metrics)
    _draw_stages(axes[0, 0], summary["stages"])
    _draw_curve(axes[0, 1], rows)
    evaluation = summary["evaluation"]
    _draw_evaluation(axes[1, 0], evaluation["before"], evaluation["after"])
    _draw_optimisation(axes[1, 1], rows)
    figure.savefig(out, dpi=110)
    return out


def draw_samples(
    images: Sequence[np.ndarray], captions: Sequence[str], out: Path, *, columns: int = 4
) -> Path:
    """Draw a sheet of `images` (uint8 `[H, W, 3]`) with a caption above each."""
    texts = [
        [part for line in caption.splitlines() for part in wrap(line, CAPTION_WIDTH)]
        for caption in captions
    ]
    rows = -(-len(images) // columns)
    height = 3.1 + LINE_INCHES * max(map(len, texts))
    figure = Figure(figsize=(3 * columns, height * rows))
    figure.set_layout_engine("constrained", h_pad=0.12)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, lines in zip(grid.flat, images, texts, strict=False):
        axes.imshow(image, interpolation="nearest")
        # `$` and `\` in a response are text here, never mathematics for matplotlib to parse.
        axes.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
    figure.savefig(out, dpi=110)
    return out
