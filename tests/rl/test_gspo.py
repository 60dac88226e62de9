"""The policy losses against TRL's own loss, closed forms, and every way of cutting a batch."""

import itertools
import statistics
import types
from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.gspo import (
    ALGORITHMS,
    group_advantages,
    grpo_loss,
    gspo_loss,
    gspo_token_loss,
    rejection_sampling_loss,
)

CLIP = {"clip_low": 3e-4, "clip_high": 4e-4}
TOKEN_CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def random_batch(seed, rows=8, tokens=16, spread=2e-3):
    """Old and new log-probs, advantages and a ragged right-padded mask, in float64."""
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(rows, tokens, generator=g, dtype=torch.float64) * 3
    new = old + torch.randn(rows, tokens, generator=g, dtype=torch.float64) * spread
    advantages = torch.randn(rows, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=g)
    return new, old, advantages, (torch.arange(tokens)[None] < lengths[:, None])


def value_and_gradient(loss, new, *args, **kwargs):
    new = new.detach().clone().requires_grad_(True)
    result = loss(new, *args, **kwargs)
    result.loss.backward()
    return result, new.grad


def trl_loss(new, old, advantages, mask, *, clip_low, clip_high, level):
    """GRPOTrainer._compute_loss called unbound on a stub: TRL's loss without a model."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    stub = types.SimpleNamespace
    new = new.detach().clone().requires_grad_(True)
    trainer = stub(
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=0.0,
        loss_type="grpo",
        epsilon_low=clip_low,
        epsilon_high=clip_high,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        max_completion_length=new.shape[1],
        current_gradient_accumulation_steps=1,
        model=stub(training=True),
        use_adaptive_entropy=False,
        _tp_size=1,
        args=stub(delta=None, use_bias_correction_kl=False),
        accelerator=stub(
            num_processes=1,
            gather=lambda x: x,
            gather_for_metrics=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.zeros_like(new), None),
    )
    rows = len(new)
    loss = GRPOTrainer._compute_loss(
        trainer,
        None,
        {
            "prompt_ids": torch.zeros(rows, 1, dtype=torch.long),
            "prompt_mask": torch.ones(rows, 1, dtype=torch.long),
            "completion_ids": torch.zeros(new.shape, dtype=torch.long),
            "completion_mask": mask.long(),
            "advantages": advantages,
            "old_per_token_logps": old,
            "num_items_in_batch": mask.sum(),
        },
    )
    loss.backward()
    return loss.detach(), new.grad


@pytest.mark.parametrize(
    ("loss", "level", "clip", "spread"),
    [
        (gspo_loss, "sequence", CLIP, 2e-3),
        (gspo_token_loss, "sequence", CLIP, 2e-3),
        (grpo_loss, "token", TOKEN_CLIP, 0.3),
    ],
)
def test_value_and_gradient_equal_trl(loss, level, clip, spread):
    clipped = 0.0
    for seed in range(100):
        batch = random_batch(seed, spread=spread)
        ours, gradient = value_and_gradient(loss, *batch, **clip)
        theirs, their_gradient = trl_loss(*batch, level=level, **clip)
        assert abs(ours.loss - theirs) <= 1e-9
        assert (gradient - their_gradient).abs().max() <= 1e-9
        clipped += float(ours.clip_fraction) / 100
    assert 0.1 < clipped < 0.6  # the comparison covers both sides of the clip


def test_gspo_closed_form():
    """One row, by hand: s = exp((0.02 + 0.04) / 2), A = 1, held at 1.01; with A = -1 not held."""
    old = torch.tensor([[-1.0, -2.0, -9.0]], dtype=torch.float64)
    new = old + torch.tensor([[0.02, 0.04, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0]])
    s = torch.tensor(0.03, dtype=torch.float64).exp()
    good, good_gradient = value_and_gradient(
        gspo_loss, new, old, torch.tensor([1.0]), mask, clip_low=0.01, clip_high=0.01
    )
    bad, bad_gradient = value_and_gradient(
        gspo_loss, new, old, torch.tensor([-1.0]), mask, clip_low=0.01, clip_high=0.01
    )
    assert good.loss.item() == pytest.approx(-1.01, abs=1e-12)
    assert good_gradient.abs().sum() == 0
    assert good.clip_fraction_high == 1
    assert good.clip_fraction_low == 0
    assert good.ratio.item() == pytest.approx(s.item(), abs=1e-12)
    assert bad.loss.item() == pytest.approx(s.item(), abs=1e-12)
    assert bad.clip_fraction == 0
    assert torch.allclose(bad_gradient, torch.tensor([[s / 2, s / 2, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("loss", ALGORITHMS.values())
def test_invariant_to_padding(loss):
    """More columns, poisoned padding and whole padding rows change nothing at all."""
    new, old, advantages, mask = random_batch(3)
    reference, gradient = value_and_gradient(loss, new, old, advantages, mask, **CLIP)
    wide_new = torch.full((10, 23), torch.nan, dtype=torch.float64)
    wide_old = torch.full((10, 23), -torch.inf, dtype=torch.float64)
    wide_mask = torch.zeros(10, 23, dtype=torch.long)
    for row in range(8):
        length = int(mask[row].sum())
        columns = slice(23 - length, 23) if row % 2 else slice(2, 2 + length)
        wide_new[row, columns] = new[row, :length]
        wide_old[row, columns] = old[row, :length]
        wide_mask[row, columns] = 1
    wide_advantages = torch.cat([advantages, torch.tensor([4.0, -3.0], dtype=torch.float64)])
    padded, wide_gradient = value_and_gradient(
        loss, wide_new, wide_old, wide_advantages, wide_mask, **CLIP
    )
    assert padded.loss.item() == pytest.approx(reference.loss.item(), abs=1e-15)
    assert padded.clip_fraction.item() == pytest.approx(reference.clip_fraction.item(), abs=1e-15)
    assert padded.ratio[8:].tolist() == [1, 1]
    assert wide_gradient[wide_mask == 0].abs().sum() == 0
    for row in range(8):
        ours = wide_gradient[row][wide_mask[row] == 1]
        assert (ours - gradient[row][mask[row]]).abs().max() <= 1e-15


@pytest.mark.parametrize("loss", ALGORITHMS.values())
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 8), max_size=4))
def test_invariant_to_micro_batches_and_ranks(loss, seed, cuts):
    """Whatever the cut, parts divided by the whole count add up to the whole."""
    new, old, advantages, mask = random_batch(seed)
    whole, gradient = value_and_gradient(loss, new, old, advantages, mask, **CLIP)
    edges = [0, *sorted(cuts), 8]
    total, clipped, parts = 0.0, 0.0, []
    for start, end in itertools.pairwise(edges):
        rows = slice(start, end)
        if start == end:
            continue
        part, part_gradient = value_and_gradient(
            loss, new[rows], old[rows], advantages[rows], mask[rows], num_sequences=8, **CLIP
        )
        total += part.loss.item()
        clipped += part.clip_fraction.item()
        parts.append(part_gradient)
    assert total == pytest.approx(whole.loss.item(), abs=1e-14)
    assert clipped == pytest.approx(whole.clip_fraction.item(), abs=1e-14)
    assert (torch.cat(parts) - gradient).abs().max() <= 1e-15


def test_every_response_weighs_the_same():
    """A long and a short response of equal ratio pull equally: no re-weighting by length."""
    old = torch.zeros(2, 40, dtype=torch.float64)
    mask = torch.arange(40)[None] < torch.tensor([[40], [2]])
    _, gradient = value_and_gradient(
        gspo_loss, old, old, torch.tensor([-1.0, -1.0], dtype=torch.float64), mask, **CLIP
    )
    assert gradient.sum(1).tolist() == pytest.approx([0.5, 0.5], abs=1e-12)


def test_gspo_token_takes_per_token_advantages():
    """Eq. 13 at ratio 1: the gradient of token t is -A_t / (N |y|)."""
    old = torch.zeros(2, 3, dtype=torch.float64)
    advantages = torch.tensor([[1.0, -2.0, 9.0], [0.5, 0.25, 4.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    result, gradient = value_and_gradient(gspo_token_loss, old, old, advantages, mask, **CLIP)
    expected = torch.tensor([[-0.25, 0.5, 0], [-0.5 / 6, -0.25 / 6, -4 / 6]], dtype=torch.float64)
    assert (gradient - expected).abs().max() <= 1e-15
    assert result.loss.item() == pytest.approx((0.25 - 4.75 / 6), abs=1e-15)


def test_gspo_and_grpo_share_the_gradient_on_policy():
    new, old, advantages, mask = random_batch(11, spread=0.0)
    _, ours = value_and_gradient(gspo_loss, new, old, advantages, mask, **CLIP)
    _, theirs = value_and_gradient(grpo_loss, new, old, advantages, mask, **TOKEN_CLIP)
    assert (ours - theirs).abs().max() <= 1e-15


def test_half_precision_is_widened():
    """A ratio of 1 + 2e-3 drowns in bf16's spacing of 8e-3; the loss must see it."""
    old = torch.full((1, 4), -0.5, dtype=torch.bfloat16)
    new = torch.tensor([[-0.5, -0.5, -0.5, -0.4921875]], dtype=torch.bfloat16)
    result = gspo_loss(
        new, old, torch.tensor([1.0]), torch.ones(1, 4), clip_low=1e-2, clip_high=1e-2
    )
    assert result.loss.dtype == torch.float32
    assert -result.loss.item() == pytest.approx(torch.tensor(0.0078125 / 4).exp().item(), abs=1e-7)


def test_mismatched_shapes_are_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"old_logprobs \(2, 4\)"):
        gspo_loss(x, torch.zeros(2, 4), torch.zeros(2), torch.ones(2, 3), **CLIP)
    with pytest.raises(ValueError, match=r"\(3,\) advantages"):
        gspo_loss(x, x, torch.zeros(3), torch.ones(2, 3), **CLIP)


def test_group_advantages_equal_the_sample_statistics():
    rewards = [0.0, 1.0, 1.0, 0.5, 3.0, -1.0, 0.0, 0.25]
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), 4).tolist()
    for start in (0, 4):
        group = rewards[start : start + 4]
        mean, std = statistics.mean(group), statistics.stdev(group)
        expected = [(r - mean) / std for r in group]
        assert advantages[start : start + 4] == pytest.approx(expected, abs=1e-12)


def test_a_group_without_spread_is_exactly_zero():
    rewards = torch.tensor([0.1] * 7 + [1.0] * 7 + [0.0] * 6 + [1.0])
    advantages = group_advantages(rewards, 7)
    assert advantages[:14].tolist() == [0.0] * 14
    assert advantages[-1] > 2
    assert group_advantages(torch.tensor([3.0, 4.0]), 1).tolist() == [0, 0]


def test_a_response_without_reward_leaves_the_statistics():
    nan = float("nan")
    advantages = group_advantages(torch.tensor([1.0, nan, 0.0, 0.5, nan, nan, 2.0, nan]), 4)
    three = group_advantages(torch.tensor([1.0, 0.0, 0.5]), 3)
    assert advantages[[0, 2, 3]].tolist() == three.tolist() == [1, -1, 0]
    assert advantages.isnan().tolist() == [False, True, False, False, True, True, False, True]
    assert advantages[6] == 0


def test_rewards_that_do_not_divide_into_groups_are_refused():
    with pytest.raises(ValueError, match="groups of 4"):
        group_advantages(torch.zeros(6), 4)


def test_rejection_sampling_is_maximum_likelihood_of_the_accepted():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(0, 7, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], dtype=torch.bool)
    logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    result = rejection_sampling_loss(
        logprobs, logprobs.detach(), torch.ones(3), mask, clip_low=1e-3, clip_high=1e-3
    )
    expected = sum(
        torch.nn.functional.cross_entropy(logits[i][mask[i]], tokens[i][mask[i]]) for i in range(3)
    )
    assert abs(result.loss.item() - (expected / 3).item()) < 1e-12
    assert result.clip_fraction == 0
