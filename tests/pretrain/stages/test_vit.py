"""The contrastive loss against its definition, and over ranks."""

import math

import pytest
import torch

from pretrain.run.directory import RunDir
from pretrain.run.errors import ConfigError
from pretrain.stages.config import PretrainConfig, StageConfig
from pretrain.stages.pipeline import Pretraining
from pretrain.stages.vit import MAX_CAPTION, TextTower, sigmoid_loss
from pretrain.training.engine import TrainConfig


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(x, dim=-1)


def by_definition(images: torch.Tensor, captions: torch.Tensor, scale: float, bias: float) -> float:
    """SigLIP's equation 1, pair by pair."""
    total = 0.0
    for i, image in enumerate(images):
        for j, caption in enumerate(captions):
            logit = scale * float(image @ caption) + bias
            label = 1.0 if i == j else -1.0
            total += -math.log(1.0 / (1.0 + math.exp(-label * logit)))
    return total / len(images)


def test_sigmoid_loss_equals_its_definition():
    images, captions = unit(6, 0), unit(6, 1)
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    loss = sigmoid_loss(images, captions, scale, bias, 0)
    assert float(loss) == pytest.approx(by_definition(images, captions, 7.0, -3.0), rel=1e-12)


def test_losses_and_gradients_of_two_ranks_add_up():
    images, captions = unit(6, 0).requires_grad_(), unit(6, 1).requires_grad_()
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    whole = sigmoid_loss(images, captions, scale, bias, 0)
    expected = torch.autograd.grad(whole, (images, captions))
    parts = [
        sigmoid_loss(images[first : first + 3], captions, scale, bias, first) for first in (0, 3)
    ]
    gradients = torch.autograd.grad(sum(parts), (images, captions))
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


def test_text_tower_ignores_padding():
    torch.manual_seed(0)
    tower = TextTower(vocab_size=50, size=24, heads=3, hidden=32).eval()
    ids = torch.tensor([[5, 6, 7, 0, 0]])
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    alone = tower(ids[:, :3], mask[:, :3])
    torch.testing.assert_close(tower(ids, mask), alone, rtol=1e-5, atol=1e-6)
    assert tower.positions.shape[0] == MAX_CAPTION


@pytest.mark.parametrize(
    ("key", "cfg"),
    [
        (
            "train.gradient_checkpointing",
            StageConfig(train=TrainConfig(gradient_checkpointing=True)),
        ),
        ("think_share", StageConfig(think_share=0.5)),
        ("length_power", StageConfig(length_power=0.5)),
    ],
)
def test_settings_that_the_stage_does_not_read_are_refused(tmp_path, key, cfg):
    with pytest.raises(ConfigError, match=rf"^vit\.{key}="):
        Pretraining(PretrainConfig(vit=cfg), RunDir(tmp_path))
    Pretraining(PretrainConfig(vit=cfg, stages=["text"]), RunDir(tmp_path))
