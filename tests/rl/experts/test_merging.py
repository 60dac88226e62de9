"""Merging: cases computed by hand, and what holds between the methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain.keye_vl.checkpoint import load_model
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.training.checkpoint import write_checkpoint
from rl.experts.merging import merge_checkpoints, task_arithmetic, task_vector, ties, trim

BASE = {"a": torch.tensor([1.0, 1.0, 1.0]), "b": torch.tensor([0.0, 0.0])}
FIRST = {"a": torch.tensor([5.0, 1.5, 0.0]), "b": torch.tensor([2.0, -3.0])}
SECOND = {"a": torch.tensor([3.0, 1.0, 4.0]), "b": torch.tensor([-1.0, -1.0])}
"""Task vectors: [4, 0.5, −1 | 2, −3] and [2, 0, 3 | −1, −1]."""


def same(found: dict[str, Any], a: list[float], b: list[float]) -> bool:
    wanted = {"a": torch.tensor(a, dtype=torch.float32), "b": torch.tensor(b, dtype=torch.float32)}
    return all(torch.allclose(found[name], tensor) for name, tensor in wanted.items())


def test_task_arithmetic_adds_scaled_task_vectors():
    assert same(task_vector(BASE, FIRST), [4, 0.5, -1], [2, -3])
    merged = task_arithmetic(BASE, [FIRST, SECOND], [0.5, 1.0])
    assert same(merged, [5, 1.25, 3.5], [0, -2.5])
    assert same(task_arithmetic(BASE, [FIRST], [-1.0]), [-3, 0.5, 2], [-2, 3])  # forgetting
    assert same(BASE, [1, 1, 1], [0, 0])  # nothing is changed in place


def test_trimming_keeps_the_largest_of_the_whole_vector():
    vector = task_vector(BASE, FIRST)
    assert same(trim(vector, 0.4), [4, 0, 0], [0, -3])
    assert same(trim(vector, 0.8), [4, 0, -1], [2, -3])
    assert same(trim(vector, 1.0), [4, 0.5, -1], [2, -3])
    assert same(trim(vector, 0.0), [0, 0, 0], [0, 0])


def test_ties_trims_elects_and_averages_what_agrees():
    # Everything kept. Signs of the sums [6, 0.5, 2 | 1, −4]; the mean of those that agree:
    # [(4 + 2) / 2, 0.5 / 1, 3 / 1 | 2 / 1, (−3 − 1) / 2].
    merged = ties(BASE, [FIRST, SECOND], density=1.0)
    assert same(merged, [4, 1.5, 4], [2, -2])
    # Three of five kept: [4, 0, 0 | 2, −3] and [2, 0, 3 | −1, −1] (a tie at the threshold stays).
    merged = ties(BASE, [FIRST, SECOND], density=0.6, scale=0.5)
    assert same(merged, [2.5, 1, 2.5], [1, -1])
    # Weighted: the sum of the fourth is 0.2·2 − 1 < 0, so the other sign is elected.
    merged = ties(BASE, [FIRST, SECOND], density=1.0, weights=[0.2, 1.0])
    assert same(merged, [1 + (0.8 + 2) / 1.2, 1.5, 4], [-1, (-0.6 - 1) / 1.2])


def test_ties_of_one_expert_is_the_expert():
    assert same(ties(BASE, [FIRST], density=1.0), [5, 1.5, 0], [2, -3])


def test_models_of_other_shapes_are_refused():
    with pytest.raises(KeyeError, match="they differ in b"):
        task_vector(BASE, {"a": BASE["a"]})
    with pytest.raises(KeyeError, match="they differ in b"):
        task_vector(BASE, BASE | {"b": torch.zeros(3)})


@pytest.fixture(scope="module")
def models(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two experts of the tiny checkpoint: its weights with noise."""
    folder, paths = tmp_path_factory.mktemp("experts"), {}
    for seed, name in enumerate(("ocr", "math")):
        model = load_model(tiny_checkpoint)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        paths[name] = folder / name
        write_checkpoint(model, paths[name], tiny_checkpoint)
    return paths


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_checkpoints_are_merged_and_load(
    models: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
):
    used = merge_checkpoints("uniform", tiny_checkpoint, models, tmp_path / "u", weights={})
    assert used == pytest.approx({"base": 1 / 3, "ocr": 1 / 3, "math": 1 / 3})
    merge_checkpoints(
        "task_arithmetic", tiny_checkpoint, models, tmp_path / "t", weights={}, scale=1 / 3
    )
    average, arithmetic = weights_of(tmp_path / "u"), weights_of(tmp_path / "t")
    given = [weights_of(path) for path in (tiny_checkpoint, *models.values())]
    for name, tensor in average.items():  # (base + a + b) / 3 = base + (τa + τb) / 3
        assert torch.allclose(tensor, arithmetic[name], atol=1e-6)
        assert torch.allclose(tensor, sum(w[name] for w in given) / 3, atol=1e-6)
    assert set(average) == set(given[0])
    load_model(tmp_path / "t")


def test_weights_and_ties_reach_the_checkpoint(
    models: dict[str, Path], tiny_checkpoint: Path, tmp_path: Path
):
    merge_checkpoints(
        "weighted", tiny_checkpoint, models, tmp_path / "w", weights={"base": 1, "ocr": 3}
    )
    base, ocr = weights_of(tiny_checkpoint), weights_of(models["ocr"])
    for name, tensor in weights_of(tmp_path / "w").items():
        assert torch.allclose(tensor, 0.25 * base[name] + 0.75 * ocr[name], atol=1e-6)
    only = {"ocr": models["ocr"]}
    merge_checkpoints("ties", tiny_checkpoint, only, tmp_path / "x", weights={}, density=0.1)
    changed = sum(
        int((tensor != base[name]).sum()) for name, tensor in weights_of(tmp_path / "x").items()
    )
    # The positions that no forward pass reads are in every checkpoint, but are no weights.
    total = sum(p.numel() for p in load_model(tiny_checkpoint).parameters())
    assert changed == pytest.approx(0.1 * total, rel=0.02)


@pytest.mark.parametrize(
    ("method", "weights", "message"),
    [
        ("slerp", {}, "'slerp' is none of uniform"),
        ("uniform", {"ocr": 1.0}, "isn't read by method=uniform"),
        ("weighted", {}, "needs merge.weights"),
        ("weighted", {"base": -1.0, "ocr": 2.0}, "no negative weight"),
        ("ties", {"ocr": -1.0}, "no negative weight; method=task_arithmetic subtracts"),
        ("ties", {"base": 1.0}, r"'base' is no model of this merge \(ocr, math\)"),
    ],
)
def test_impossible_merges_are_named(
    models: dict[str, Path],
    tiny_checkpoint: Path,
    tmp_path: Path,
    method: str,
    weights: dict[str, float],
    message: str,
):
    with pytest.raises(ConfigError, match=message):
        merge_checkpoints(method, tiny_checkpoint, models, tmp_path, weights=weights)
