"""Tools' results in the learner: read by the policy, in neither the sum nor |y|, images too."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.keye_vl.prompt import pack
from pretrain.run.errors import KeyeError
from rl.gspo import gspo_loss
from rl.learner_rank import LearnerRank
from rl.logprobs import ResponseLogprobs
from rl.sequences import TrainingSequence, check_sequences
from rl.sft.rank import Collator
from rollout.tokens import forbidden_ids
from rollout.tools import ToolResult
from rollout.tools.traces import ToolTrace

CALL = '<tool_call>{"name": "crop", "arguments": {"box": [0, 0, 499, 499]}}</tool_call>'


def trace(encoder, seed, image=True, prompt=None):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (84, 84, 3), dtype=np.uint8)
    content = [{"type": "image", "image": pixels}, {"type": "text", "text": f"what is {seed}?"}]
    shown = Image.fromarray(rng.integers(0, 256, (56, 84, 3), dtype=np.uint8))
    results = [[ToolResult("found 3", shown if image else None)]]
    made = ToolTrace(f"s{seed}", [{"role": "user", "content": content}], [CALL, "4 5"], results)
    encoded = made.encode(encoder)
    return replace(encoded, prompt=prompt) if prompt is not None else encoded


def sequence(encoded, group_id, advantage=1.0):
    return TrainingSequence(
        prompt=encoded.prompt,
        response_ids=encoded.ids,
        engine_logprobs=np.zeros(len(encoded.ids), np.float32),
        advantage=advantage,
        group_id=group_id,
        sample_id=f"s{group_id}",
        sampled=encoded.sampled,
        media=encoded.media,
    )


@pytest.fixture
def batch(encoder):
    """Two responses to one prompt with an image inside each, one with text only, one without."""
    first = trace(encoder, 0)
    other = trace(encoder, 1, prompt=first.prompt)
    text = trace(encoder, 2, image=False)
    plain = sequence(text, 3)
    plain.sampled = None
    return [sequence(first, 0), sequence(other, 0, -0.7), sequence(text, 2, 0.3), plain]


def alone(model, forbidden, one):
    """Log-probs of a sequence's sampled tokens, its response made part of the prompt.

    The independent way: every placeholder stands in a prompt, nothing is shared or packed.
    """
    media = [one.prompt, *([one.media] if one.media else [])]
    whole = replace(
        one.prompt,
        ids=np.concatenate([one.prompt.ids, one.response_ids]),
        pixel_values=np.concatenate([m.pixel_values for m in media]),
        grid_thw=np.concatenate([m.grid_thw for m in media]),
    )
    inputs = pack([whole], [np.zeros(0, np.int32)], model.config).model_inputs()
    del inputs["logits_index"]
    logits = model(**inputs).logits[0].index_fill(-1, torch.tensor(forbidden), -torch.inf)
    logprobs = logits.log_softmax(-1)[len(one.prompt.ids) - 1 : -1]
    chosen = logprobs.gather(-1, torch.from_numpy(one.response_ids).long()[:, None])[:, 0]
    return chosen[
        torch.from_numpy(np.ones(len(chosen), bool) if one.sampled is None else one.sampled)
    ]


@pytest.fixture
def rank(tiny_model, processor):
    """A rank without its process group: what it makes of a micro-batch."""
    made = LearnerRank.__new__(LearnerRank)
    made.model = tiny_model
    made.engine = SimpleNamespace(device="cpu")
    made.policy = ResponseLogprobs(tiny_model, forbidden_ids(processor.tokenizer))
    return made


def test_the_learner_learns_from_sampled_tokens_only(rank, batch, processor):
    micro = rank._micro_batch(batch, 1, len(batch))
    logprobs, _ = rank.policy(micro.inputs, micro.targets, 1.0, 1, False)
    forbidden = forbidden_ids(processor.tokenizer)
    with torch.no_grad():
        wanted = [alone(rank.model, forbidden, one) for one in batch]
    assert micro.mask.sum(1).tolist() == [len(w) for w in wanted]
    assert micro.mask.sum(1).tolist() == [one.num_sampled for one in batch]
    assert micro.inputs["feature_index"] is None or len(micro.inputs["feature_index"]) > 0
    assert (logprobs.detach() - torch.cat(wanted)).abs().max() < 2e-5


def test_gspos_length_is_that_of_the_sampled_tokens(rank, batch, processor):
    micro = rank._micro_batch(batch, 1, len(batch))
    logprobs, _ = rank.policy(micro.inputs, micro.targets, 1.0, 1, False)
    old = logprobs.detach() - 0.01
    loss = gspo_loss(
        micro.padded(logprobs),
        micro.padded(old),
        micro.advantages,
        micro.mask,
        clip_low=0.5,
        clip_high=0.5,
    )
    assert loss.ratio.tolist() == pytest.approx([np.exp(0.01)] * 4, rel=1e-5)
    advantages = np.array([one.advantage for one in batch])
    assert loss.loss.item() == pytest.approx(-np.exp(0.01) * advantages.mean(), rel=1e-4)


def test_what_a_tool_said_changes_the_log_probs_after_it(rank, encoder):
    shown = [trace(encoder, 0), trace(encoder, 0)]
    shown[1].media.pixel_values[:] = 0.0
    logprobs = []
    for encoded in shown:
        micro = rank._micro_batch([sequence(encoded, 0)], 1, 1)
        logprobs.append(rank.policy(micro.inputs, micro.targets, 1.0, 1, False)[0].detach())
    call = encoder.tokenizer(CALL)["input_ids"]
    assert torch.equal(logprobs[0][: len(call)], logprobs[1][: len(call)])
    assert (logprobs[0][len(call) + 1 :] - logprobs[1][len(call) + 1 :]).abs().max() > 1e-3


def test_fine_tuning_labels_the_policys_turns(encoder, tiny_model, processor):
    traces = [trace(encoder, 0), trace(encoder, 1, image=False)]
    raw = [
        ToolTrace("a", [{"role": "user", "content": "x?"}], [CALL, "1"], [[ToolResult("r")]]),
        [
            {"role": "user", "content": "y?"},
            {"role": "assistant", "content": "2"},
        ],
        (traces[0].prompt, traces[0].ids[:5]),
    ]
    collate = Collator(lambda index: raw[index], encoder, pad_id=0)
    labels = collate([{"index": k} for k in range(3)])["labels"]
    tokenizer = encoder.tokenizer
    learned = [tokenizer.decode(row[row >= 0].tolist()) for row in labels]
    assert learned[0] == f"{CALL}<|im_end|>1<|im_end|>"
    assert learned[1] == "2<|im_end|>"
    assert labels[2][labels[2] >= 0].tolist() == traces[0].ids[:5].tolist()


def test_fine_tuning_sees_images_in_results(encoder, tiny_model, processor):
    """TRL's padded path gives the loss of the packed one, image in the reply included."""
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    content = [{"type": "image", "image": pixels}, {"type": "text", "text": "?"}]
    results = [[ToolResult("", Image.fromarray(pixels[:56]))]]
    made = ToolTrace("s", [{"role": "user", "content": content}], [CALL, "4"], results)
    collated = Collator(lambda _: made, encoder, pad_id=0)([{"index": 0}])
    encoded = made.encode(encoder)
    with torch.no_grad():
        loss = tiny_model(**collated).loss.item()
        packed = pack(
            [encoded.prompt], [encoded.ids], tiny_model.config, reply_media=[encoded.media]
        )
        logits = tiny_model(**packed.model_inputs()).logits
    losses = torch.nn.functional.cross_entropy(logits, packed.targets, reduction="none")
    assert loss == pytest.approx(losses[torch.from_numpy(encoded.sampled)].mean().item(), rel=1e-4)


def test_a_mask_that_does_not_fit_is_refused(encoder):
    one = sequence(trace(encoder, 0), 7)
    check_sequences([one])
    with pytest.raises(KeyeError, match=r"sample s7.*needs one entry a token"):
        check_sequences([replace(one, sampled=one.sampled[:-1])])
    with pytest.raises(KeyeError, match=r"0 of them sampled"):
        check_sequences([replace(one, sampled=np.zeros_like(one.sampled))])
