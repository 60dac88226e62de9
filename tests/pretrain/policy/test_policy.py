"""Policies of other families: prompts, padded rows and names, against the models themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pretrain.keye_vl.checkpoint import load_model
from pretrain.policy import model as policy
from pretrain.policy.encoder import open_encoder
from pretrain.run.errors import KeyeError

TEXT = [{"role": "user", "content": [{"type": "text", "text": "how many red?"}]}]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def with_images(*seeds: int) -> list[dict]:
    images = [{"type": "image", "image": picture(seed)} for seed in seeds]
    return [{"role": "user", "content": [*images, {"type": "text", "text": "how many red?"}]}]


def replies_of(*lengths: int) -> list[np.ndarray]:
    return [np.arange(30, 30 + length, dtype=np.int32) for length in lengths]


@torch.no_grad()
def test_padded_rows_give_the_logits_of_single_sequences(tiny_qwen3):
    model = load_model(tiny_qwen3).eval()
    encoder = open_encoder(tiny_qwen3, 64)
    short = encoder.encode(TEXT, "a")
    long = encoder.encode([*TEXT, {"role": "assistant", "content": "3"}, *TEXT], "b")
    replies = replies_of(5, 9, 1)
    batch = policy.lay_out([short, long, long], replies, model.config)
    inputs = batch.model_inputs()
    index = inputs.pop("logits_index")
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[index]
    logits = model.lm_head(hidden)
    alone = []
    for prompt, reply in zip([short, long, long], replies, strict=True):
        ids = torch.tensor([[*prompt.ids, *reply]])
        alone.append(model(input_ids=ids).logits[0, len(prompt.ids) - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-5)
    assert batch.targets.tolist() == np.concatenate(replies).tolist()
    assert batch.response_lengths.tolist() == [5, 9, 1]


@torch.no_grad()
def test_images_of_padded_rows_reach_their_own_prompts(tiny_llava):
    model = load_model(tiny_llava).eval()
    encoder = open_encoder(tiny_llava, 128)
    prompts = [encoder.encode(with_images(*seeds), "x") for seeds in ((0,), (1, 2))]
    prompts.append(encoder.encode(TEXT, "y"))
    replies = replies_of(4, 2, 3)
    inputs = policy.lay_out(prompts, replies, model.config).model_inputs()
    index = inputs.pop("logits_index")
    logits = model.lm_head(model.base_model(**inputs).last_hidden_state.flatten(0, 1)[index])
    alone = []
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([[*prompt.ids, *reply]])
        pixels = None if prompt.pixel_values is None else torch.from_numpy(prompt.pixel_values)
        out = model(input_ids=ids, pixel_values=pixels).logits
        alone.append(out[0, len(prompt.ids) - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-5)
    other = encoder.encode(with_images(5), "x")
    assert other.ids.tolist() == prompts[0].ids.tolist()
    assert not np.array_equal(other.pixel_values, prompts[0].pixel_values)


@pytest.mark.parametrize("family", ["tiny_qwen3", "tiny_llava", "tiny_checkpoint"])
def test_names_and_tensors_are_those_of_save_pretrained(family, request):
    path = request.getfixturevalue(family)
    saved = load_file(path / "model.safetensors")
    sent = dict(policy.checkpoint_tensors(load_model(path)))
    assert sent.keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, sent[name]), name
    unused = sum(t.numel() for name, t in saved.items() if policy.NOT_TRAINED in name)
    assert policy.parameter_count(path) == sum(t.numel() for t in saved.values()) - unused


def test_what_a_policy_cannot_be_given_is_named(tiny_qwen3, tiny_llava):
    with pytest.raises(KeyeError, match=r"sample q7: the message has image parts.* text only"):
        open_encoder(tiny_qwen3, 64).encode(with_images(0), "q7")
    video = [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]
    with pytest.raises(KeyeError, match=r"has video parts.* text and images"):
        open_encoder(tiny_llava, 64).encode(video, "q8")
    with pytest.raises(KeyeError, match=r"sample q9: \d+ tokens, but at most 4 fit"):
        open_encoder(tiny_qwen3, 4).encode(TEXT, "q9")


def test_a_template_is_needed(tiny_qwen3, tmp_path):
    for file in tiny_qwen3.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(KeyeError, match=r"no chat template.*chat_template\.jinja"):
        open_encoder(tmp_path, 64)


def test_a_family_that_caps_its_logits_is_refused(tiny_qwen3):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    policy.check_output_layer(load_model(tiny_qwen3))
    config = Gemma2Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.01,
    )  # fmt: skip
    with pytest.raises(KeyeError, match="Gemma2ForCausalLM does more than a linear layer"):
        policy.check_output_layer(Gemma2ForCausalLM(config))
