"""The answer loss against its definition."""

import pytest
import torch

from pretrain.stages.supervised import answer_loss, token_weights

LENGTHS = torch.tensor([1, 4, 9])


@pytest.mark.parametrize(
    ("power", "totals"), [(0.0, [1, 4, 9]), (0.5, [1, 2, 3]), (1.0, [1, 1, 1])], ids=str
)
def test_an_answer_of_n_tokens_counts_n_to_the_power(power, totals):
    weights = token_weights(LENGTHS, power)
    assert [float(part.sum()) for part in weights.split(LENGTHS.tolist())] == pytest.approx(totals)


def test_power_zero_is_the_sum_over_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(14, 7, generator=generator, dtype=torch.float32)
    targets = torch.randint(7, (14,), generator=generator)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    loss = answer_loss(logits, targets, token_weights(LENGTHS, 0.0))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_weighted_loss_equals_its_definition():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(14, 7, generator=generator)
    targets = torch.randint(7, (14,), generator=generator)
    expected, row = 0.0, 0
    for n in LENGTHS.tolist():
        for _ in range(n):
            nats = -torch.log_softmax(logits[row].double(), -1)[targets[row]]
            expected += float(nats) / n**0.5
            row += 1
    loss = answer_loss(logits, targets, token_weights(LENGTHS, 0.5))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
