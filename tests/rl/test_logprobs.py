"""Chunked log-probs of response tokens against torch's own log-softmax."""

import pytest
import torch
import torch.nn.functional as F

from rl.logprobs import token_logprobs


def reference(hidden, head, targets, temperature):
    full = F.log_softmax(head(hidden) / temperature, dim=-1)
    entropy = torch.distributions.Categorical(logits=full).entropy()
    return full.gather(-1, targets[:, None])[:, 0], entropy


@pytest.mark.parametrize("parts", [1, 2, 5, 14])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_gradients_and_entropy_equal_log_softmax(parts, temperature):
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 17, dtype=torch.float64)
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 17, (11,))
    weights = torch.randn(11, dtype=torch.float64)
    expected, expected_entropy = reference(hidden, head, targets, temperature)
    expected_gradients = torch.autograd.grad(
        (expected * weights).sum(), [hidden, head.weight, head.bias]
    )
    logprobs, entropy = token_logprobs(
        hidden, head, targets, temperature=temperature, parts=parts, entropy=True
    )
    gradients = torch.autograd.grad((logprobs * weights).sum(), [hidden, head.weight, head.bias])
    assert (logprobs - expected).abs().max() <= 1e-14
    assert (entropy - expected_entropy).abs().max() <= 1e-14
    assert not entropy.requires_grad
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-13


def test_no_logits_are_kept_for_the_backward_pass():
    head = torch.nn.Linear(4, 1000)
    hidden = torch.randn(64, 4, requires_grad=True)
    targets = torch.zeros(64, dtype=torch.long)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        token_logprobs(hidden, head, targets, parts=8)
    assert max(saved) < 1000  # neither [64, 1000] nor [8, 1000]


def test_half_precision_logits_are_widened():
    """In bf16 the log-softmax of two close logits is off by 1e-3; here only the logits round."""
    head = torch.nn.Linear(8, 50, dtype=torch.bfloat16)
    hidden = torch.randn(5, 8, dtype=torch.bfloat16)
    targets = torch.arange(5)
    logprobs, _ = token_logprobs(hidden, head, targets)
    expected, _ = reference(head(hidden).double(), torch.nn.Identity(), targets, 1.0)
    assert logprobs.dtype == torch.float32
    assert (logprobs - expected).abs().max() <= 1e-6


def test_forbidden_ids_get_probability_zero():
    torch.manual_seed(1)
    head = torch.nn.Linear(6, 9, dtype=torch.float64)
    hidden = torch.randn(4, 6, dtype=torch.float64)
    targets = torch.tensor([0, 3, 8, 5])
    allowed = [0, 2, 3, 5, 6, 8]
    logprobs, entropy = token_logprobs(
        hidden, head, targets, forbidden=torch.tensor([1, 4, 7]), entropy=True
    )
    without = torch.distributions.Categorical(logits=head(hidden)[:, allowed])
    expected = without.log_prob(torch.tensor([allowed.index(t) for t in targets.tolist()]))
    assert (logprobs - expected).abs().max() <= 1e-14
    assert (entropy - without.entropy()).abs().max() <= 1e-14
