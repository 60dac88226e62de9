"""The model against Qwen3, SigLIP, Qwen2-VL's M-RoPE, and itself one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding

from pretrain.keye_vl import modeling
from pretrain.keye_vl.checkpoint import checkpoint_tensors
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.modeling import KeyeVL1_5ForConditionalGeneration
from pretrain.keye_vl.prompt import EncodedPrompt, pack
from pretrain.keye_vl.vision import _rotate, rope_table
from pretrain.run.errors import KeyeError

IMAGE = 5


def small_model(tie: bool = True, rope: bool = True, seed: int = 0):
    config = KeyeVL1_5Config(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tie,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        image_token_id=IMAGE,
        video_token_id=6,
        pad_token_id=0,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "use_2d_rope": rope,
        },
    )
    torch.manual_seed(seed)
    model = KeyeVL1_5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def prompt(rng: np.random.Generator, before: int, grids: list[tuple[int, int]], after: int):
    """Random text around images of the given patch grids."""
    ids = [rng.integers(10, 64, before)]
    for h, w in grids:
        ids += [np.full(h * w // 4, IMAGE), rng.integers(10, 64, 2)]
    ids.append(rng.integers(10, 64, after))
    patches = sum(h * w for h, w in grids)
    return EncodedPrompt(
        ids=np.concatenate(ids).astype(np.int32),
        engine_ids=[],
        pixel_values=rng.standard_normal((patches, 3, 14, 14), dtype=np.float32) if grids else None,
        grid_thw=np.array([(1, h, w) for h, w in grids]) if grids else None,
    )


def reply(rng: np.random.Generator, length: int) -> np.ndarray:
    return rng.integers(10, 64, length).astype(np.int32)


@pytest.fixture
def mixed_batch():
    rng = np.random.default_rng(0)
    grids = [[(4, 4)], [], [(2, 6), (4, 4)], [(6, 4)], []]
    prompts = [prompt(rng, 3 + i, g, 2) for i, g in enumerate(grids)]
    return prompts, [reply(rng, n) for n in (4, 9, 1, 12, 3)]


def test_text_only_forward_equals_qwen3():
    model = small_model(tie=False)
    fields = Qwen3Config().to_dict().keys() - {"model_type", "architectures", "dtype"}
    shared = {k: v for k, v in model.config.to_dict().items() if k in fields}
    qwen = Qwen3ForCausalLM(Qwen3Config(**shared)).eval()
    state = {k: v for k, v in checkpoint_tensors(model) if k.startswith(("model.", "lm_head"))}
    qwen.load_state_dict(state)
    ids = torch.randint(10, 64, (3, 21), generator=torch.Generator().manual_seed(1))
    ours = model(ids).logits
    assert ours.std() > 0.1
    assert (ours - qwen(ids).logits).abs().max() <= 1e-5


def test_vision_without_2d_rope_at_native_size_equals_siglip():
    model = small_model(rope=False)
    vision = model.config.vision_config
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(vision, name) for name in fields}
    siglip = SiglipVisionModel(
        SiglipVisionConfig(**sizes, image_size=56, patch_size=14, vision_use_head=False)
    ).eval()
    ours = model.model.visual.vision_model.state_dict()
    prefix = "vision_model." if hasattr(siglip, "vision_model") else ""
    state = {prefix + k: v for k, v in ours.items() if "packing_position" not in k}
    siglip.load_state_dict(state, strict=False)
    images = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(2))
    patches = images.view(3, 3, 4, 14, 4, 14).permute(0, 2, 4, 1, 3, 5).reshape(48, 3, 14, 14)
    features = model.model.visual(patches, [(4, 4)] * 3)
    expected = siglip(pixel_values=images).last_hidden_state.reshape(48, -1)
    assert (features - expected).abs().max() <= 1e-5


def test_images_of_mixed_sizes_equal_the_images_one_by_one():
    model = small_model()
    grids = [(4, 4), (2, 6), (4, 4), (6, 2), (2, 2), (2, 6)]
    rng = np.random.default_rng(3)
    sizes = [h * w for h, w in grids]
    pixels = torch.from_numpy(rng.standard_normal((sum(sizes), 3, 14, 14), dtype=np.float32))
    together = model.model.encode_media(pixels, np.array([(1, h, w) for h, w in grids]))
    alone = [
        model.model.encode_media(part, np.array([(1, h, w)]))
        for part, (h, w) in zip(pixels.split(sizes), grids, strict=True)
    ]
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def test_2d_rope_turns_pairs_by_row_and_by_column():
    dim, rows, columns = 16, 3, 5
    x = torch.randn(1, rows * columns, 2, dim, generator=torch.Generator().manual_seed(4))
    rotated = _rotate(x, rope_table(rows, columns, dim, x.device))
    pairs = torch.complex(x[..., : dim // 2], x[..., dim // 2 :])
    frequency = 10000.0 ** (-torch.arange(dim // 4) / (dim // 4))
    for patch in range(rows * columns):
        row, column = divmod(patch, columns)
        angle = torch.cat([row * frequency, column * frequency])
        turned = pairs[0, patch] * torch.polar(torch.ones_like(angle), angle)
        assert torch.allclose(rotated[0, patch, :, : dim // 2], turned.real, atol=1e-5)
        assert torch.allclose(rotated[0, patch, :, dim // 2 :], turned.imag, atol=1e-5)


def test_mrope_equals_qwen2_vl():
    model = small_model()
    config = model.config
    positions = torch.randint(0, 50, (3, 1, 11), generator=torch.Generator().manual_seed(5))
    theirs = Qwen2VLRotaryEmbedding(
        Qwen2VLTextConfig(
            hidden_size=48,
            num_attention_heads=3,
            rope_parameters=dict(config.rope_parameters),
        )
    )
    cos, sin = theirs(torch.zeros(1), positions)
    ours = model.model._rope(positions, torch.float32)
    assert cos.shape == (1, 11, 16)
    assert torch.allclose(ours[0], cos, atol=1e-6)
    assert torch.allclose(ours[1], sin, atol=1e-6)


def response_logits(model, prompts, replies):
    return model(**pack(prompts, replies, model.config).model_inputs()).logits


def test_packed_equals_one_by_one(mixed_batch):
    model = small_model()
    prompts, replies = mixed_batch
    together = response_logits(model, prompts, replies)
    alone = [response_logits(model, [p], [r]) for p, r in zip(prompts, replies, strict=True)]
    assert together.shape == (sum(map(len, replies)), 64)
    assert (together - torch.cat(alone)).abs().max() <= 1e-5


def padded_inputs(prompts, replies):
    rows = [np.concatenate([p.ids, r]) for p, r in zip(prompts, replies, strict=True)]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        mask[i, : len(row)] = 1
    media = [p for p in prompts if p.grid_thw is not None]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.from_numpy(np.concatenate([p.pixel_values for p in media])),
        "image_grid_thw": torch.from_numpy(np.concatenate([p.grid_thw for p in media])),
    }


def test_packed_equals_right_padded_in_loss_and_gradient(mixed_batch):
    model = small_model()
    prompts, replies = mixed_batch
    packed = pack(prompts, replies, model.config)
    logits = model(**packed.model_inputs()).logits
    loss = torch.nn.functional.cross_entropy(logits, packed.targets)
    loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    inputs = padded_inputs(prompts, replies)
    labels = torch.full_like(inputs["input_ids"], -100)
    for i, (p, r) in enumerate(zip(prompts, replies, strict=True)):
        labels[i, len(p.ids) : len(p.ids) + len(r)] = torch.from_numpy(r)
    out = model(**inputs, labels=labels)
    out.loss.backward()
    assert out.logits.shape == (*labels.shape, 64)
    assert abs(out.loss.item() - loss.item()) <= 1e-6
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-5), name
    model.zero_grad()

    # Packed labels: the same loss, from the learnt positions' logits only.
    flat = torch.full_like(packed.input_ids, -100)
    flat[0, packed.response_index + 1] = packed.targets
    media = {k: v for k, v in packed.model_inputs().items() if k != "logits_index"}
    out = model(**media, labels=flat)
    assert out.logits.shape == logits.shape
    assert abs(out.loss.item() - loss.item()) <= 1e-6


def test_labels_never_cross_a_sequence_boundary():
    model = small_model()
    ids = torch.randint(10, 64, (1, 10), generator=torch.Generator().manual_seed(6))
    cu_seqlens = torch.tensor([0, 4, 10], dtype=torch.int32)
    packed = model(ids, cu_seqlens=cu_seqlens, labels=ids)
    first, second = (model(part, labels=part).loss for part in (ids[:, :4], ids[:, 4:]))
    assert packed.logits.shape[0] == 8
    assert abs(packed.loss.item() - (3 * first + 5 * second).item() / 8) <= 1e-6
    halved = model(ids, cu_seqlens=cu_seqlens, labels=ids, num_items_in_batch=16).loss
    assert abs(halved.item() - packed.loss.item() / 2) <= 1e-6


def test_gradient_checkpointing_gives_the_same_gradients(mixed_batch):
    prompts, replies = mixed_batch
    gradients = []
    for checkpointing in (False, True):
        model = small_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.model.visual.vision_model.encoder.layers[0].gradient_checkpointing
            assert model.model.layers[0].gradient_checkpointing
        response_logits(model, prompts, replies).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-7), name


def test_a_group_shares_its_prompt_and_its_image():
    model = small_model()
    rng = np.random.default_rng(7)
    image, other = prompt(rng, 3, [(4, 4), (2, 2)], 2), prompt(rng, 2, [(2, 4)], 1)
    replies = [reply(rng, n) for n in (3, 5, 2, 4)]
    shared = pack([image, other, image, image], replies, model.config)
    assert shared.pixel_values.shape[0] == 16 + 4 + 8
    copies = [EncodedPrompt(p.ids, [], p.pixel_values, p.grid_thw) for p in (image, image)]
    apart = pack([image, other, *copies], replies, model.config)
    assert apart.pixel_values.shape[0] == 3 * 20 + 8
    assert apart.feature_index is None and apart.token_rows is None
    assert shared.input_ids.shape[1] == apart.input_ids.shape[1] - 2 * len(image.ids)
    assert torch.equal(shared.input_ids[0, shared.token_rows], apart.input_ids[0])
    assert torch.equal(shared.position_ids[:, 0, shared.token_rows], apart.position_ids[:, 0])
    assert torch.equal(shared.targets, apart.targets)
    by_key = pack([image, other, *copies], replies, model.config, share=[0, 1, 0, 0])
    assert by_key.pixel_values.shape[0] == 16 + 4 + 8
    logits, gradients = [], []
    for packed in (apart, shared, by_key):
        model.zero_grad()
        logits.append(model(**packed.model_inputs()).logits)
        (logits[-1].log_softmax(-1).gather(1, packed.targets[:, None]).sum()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other_logits, other_gradients in zip(logits[1:], gradients[1:], strict=True):
        assert (other_logits - logits[0]).abs().max() <= 1e-5
        for ours, theirs in zip(other_gradients, gradients[0], strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_sampled_placeholder_is_plain_text():
    model = small_model()
    rng = np.random.default_rng(8)
    image = prompt(rng, 3, [(4, 4)], 2)
    sampled = np.array([11, IMAGE, 12], dtype=np.int32)
    packed = pack([image], [sampled], model.config)
    assert packed.position_ids[0, 0, -3:].diff().tolist() == [1, 1]
    assert model(**packed.model_inputs()).logits.shape == (3, 64)
    inputs = packed.model_inputs() | {"prompt_lengths": None}
    with pytest.raises(KeyeError, match="5 visual placeholder tokens, but 4 visual features"):
        model(**inputs)


def test_placeholders_must_match_the_media():
    model = small_model()
    ids = torch.tensor([[10, IMAGE, IMAGE, 11]])
    with pytest.raises(KeyeError, match="2 visual placeholder tokens"):
        model(ids, pixel_values=torch.zeros(4, 3, 14, 14), grid_thw=torch.tensor([[1, 2, 2]]))
    with pytest.raises(KeyeError, match="the media have 0"):
        model(ids)


def test_a_rank_without_images_still_runs_the_encoder(monkeypatch):
    model = small_model().train()
    ids = torch.randint(10, 64, (2, 7), generator=torch.Generator().manual_seed(9))
    alone = model(ids).logits
    monkeypatch.setattr(modeling, "_has_peers", lambda: True)
    logits = model(ids).logits
    assert torch.equal(logits, alone)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "visual" in name:
            assert parameter.grad.abs().max() == 0, name


def test_left_and_ragged_padding_are_packed_away():
    model = small_model()
    ids = torch.randint(10, 64, (1, 6), generator=torch.Generator().manual_seed(10))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    hidden = model(padded, attention_mask=mask).last_hidden_state
    assert hidden[0, :3].abs().max() == 0
    assert torch.allclose(hidden[:, 3:], model(ids).last_hidden_state, atol=1e-6)
