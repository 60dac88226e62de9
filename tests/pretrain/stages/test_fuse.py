"""Averaging checkpoints."""

import pytest
import torch
from safetensors.torch import load_file

from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.run.errors import ConfigError
from pretrain.stages.fuse import fuse_checkpoints, fuse_weights
from pretrain.training.checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def two_models(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint, and one whose weights are shifted by a different number each."""
    shifted = load_model(tiny_checkpoint, torch.float32)
    with torch.no_grad():
        for i, parameter in enumerate(shifted.parameters()):
            parameter.add_(0.25 * (i % 3 + 1))
    other = tmp_path_factory.mktemp("fuse") / "other"
    write_checkpoint(shifted, other, tiny_checkpoint)
    return tiny_checkpoint, other


@pytest.mark.parametrize(("weights", "shares"), [([], (0.5, 0.5)), ([3.0, 1.0], (0.75, 0.25))])
def test_fused_weights_are_the_weighted_average(two_models, tmp_path, weights, shares):
    fuse_checkpoints(two_models, weights, tmp_path / "fused")
    first, second, fused = (
        load_file(path / "model.safetensors") for path in (*two_models, tmp_path / "fused")
    )
    assert fused.keys() == first.keys()
    assert any(not torch.equal(first[n], second[n]) for n in first)
    for name in fused:
        expected = shares[0] * first[name].double() + shares[1] * second[name].double()
        torch.testing.assert_close(fused[name].double(), expected, rtol=1e-6, atol=1e-7)


def test_fused_checkpoint_brings_its_processor(two_models, tmp_path):
    fuse_checkpoints(two_models, [], tmp_path / "fused")
    tokenizer = load_processor(tmp_path / "fused").tokenizer
    assert tokenizer.get_vocab() == load_processor(two_models[0]).tokenizer.get_vocab()
    assert not (tmp_path / "fused.partial").exists()


def test_weights_must_fit():
    assert fuse_weights(4, []) == [0.25] * 4
    with pytest.raises(ConfigError, match="2 entries for 3 models"):
        fuse_weights(3, [1.0, 1.0])
    with pytest.raises(ConfigError, match="negative"):
        fuse_weights(2, [1.5, -0.5])
    with pytest.raises(ConfigError, match=r"fuse\.experts or fuse\.checkpoints"):
        fuse_checkpoints([], [], None)  # type: ignore[arg-type]
