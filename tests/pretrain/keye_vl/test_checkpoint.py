"""Checkpoints: released names and shapes, loading, the Auto classes, creation."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pretrain.keye_vl import checkpoint_shapes, checkpoint_tensors, full_size_config
from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.create import ModelConfig, create_checkpoint, model_configuration
from pretrain.keye_vl.tokenizer import train_tokenizer
from pretrain.run.command import compose
from pretrain.run.errors import KeyeError
from pretrain.stages.config import PretrainConfig

CORPUS = ["what color is the circle? red green blue"] * 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny")
    return path, create_checkpoint(path, ModelConfig(), CORPUS, seed=0)


def test_saved_names_and_shapes_are_checkpoint_shapes(tiny):
    path, model = tiny
    saved = {name: tuple(t.shape) for name, t in load_file(path / "model.safetensors").items()}
    assert saved == checkpoint_shapes(model.config)
    assert saved == {name: tuple(t.shape) for name, t in checkpoint_tensors(model)}
    assert "lm_head.weight" not in saved
    untied = KeyeVL1_5Config.from_pretrained(path, tie_word_embeddings=False)
    assert set(checkpoint_shapes(untied)) - set(saved) == {"lm_head.weight"}


def test_the_tiny_model_has_1_to_3_million_parameters(tiny):
    _, model = tiny
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 3_000_000


def test_auto_classes_load_what_was_saved(tiny):
    path, model = tiny
    assert type(AutoConfig.from_pretrained(path)) is KeyeVL1_5Config
    loaded = AutoModelForImageTextToText.from_pretrained(path)
    assert type(loaded) is type(model)
    for (name, tensor), (other, expected) in zip(
        checkpoint_tensors(loaded), checkpoint_tensors(model), strict=True
    ):
        assert name == other and torch.equal(tensor, expected), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    processor = AutoProcessor.from_pretrained(path)
    assert processor.image_processor.size == {"min_pixels": 4 * 784, "max_pixels": 64 * 784}
    assert len(processor.tokenizer) == model.config.vocab_size
    ids = processor.tokenizer.convert_tokens_to_ids
    assert model.config.image_token_id == ids("<|image_pad|>")
    assert model.config.eos_token_id == ids("<|im_end|>")


def test_equal_seeds_give_equal_checkpoints(tiny, tmp_path):
    path, _ = tiny
    for seed in (0, 1):
        create_checkpoint(tmp_path / str(seed), ModelConfig(), CORPUS, seed=seed)
    read = lambda p: (p / "model.safetensors").read_bytes()  # noqa: E731
    assert read(tmp_path / "0") == read(path)
    assert read(tmp_path / "1") != read(path)
    assert (tmp_path / "0/tokenizer.json").read_text() == (path / "tokenizer.json").read_text()


def test_siglip_style_names_and_a_pooling_head_are_accepted(tiny, tmp_path):
    path, model = tiny
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(path / "model.safetensors")
    renamed = {name.replace("visual.vision_model.", "visual."): t for name, t in state.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(tmp_path)
    for (name, tensor), (_, expected) in zip(
        checkpoint_tensors(loaded), checkpoint_tensors(model), strict=True
    ):
        assert torch.equal(tensor, expected), name
    loaded.save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() == state.keys()

    state["visual.vision_model.head.probe"] = torch.zeros(1, 1, 96)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(KeyeError, match="nowhere: the directory does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(KeyeError, match=r"no config\.json there"):
        load_processor(tmp_path)


def test_legacy_rope_fields_are_understood(tmp_path):
    config = full_size_config().to_dict()
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["rope_theta"]
    config["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    loaded = KeyeVL1_5Config.from_dict(config)
    assert loaded.rope_parameters["rope_theta"] == 8_000_000
    assert loaded.mrope_section == [16, 24, 24]


def siglip_shapes(width: int, mlp: int, layers: int, positions: int) -> dict[str, tuple]:
    """Parameters of the encoder as the released checkpoint names them."""
    shapes = {
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": (positions, width),
        "embeddings.packing_position_embedding.weight": (32768, width),
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
    }
    for i in range(layers):
        layer = f"encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for proj in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}self_attn.{proj}.weight"] = (width, width)
            shapes[f"{layer}self_attn.{proj}.bias"] = (width,)
        for name, (out, into) in {"fc1": (mlp, width), "fc2": (width, mlp)}.items():
            shapes[f"{layer}mlp.{name}.weight"] = (out, into)
            shapes[f"{layer}mlp.{name}.bias"] = (out,)
    return {f"visual.vision_model.{name}": shape for name, shape in shapes.items()}


def qwen3_shapes() -> dict[str, tuple]:
    """Parameters of Qwen3-8B."""
    shapes = {
        "model.embed_tokens.weight": (151936, 4096),
        "lm_head.weight": (151936, 4096),
        "model.norm.weight": (4096,),
    }
    per_layer = {
        "input_layernorm": (4096,),
        "post_attention_layernorm": (4096,),
        "self_attn.q_proj": (4096, 4096),
        "self_attn.k_proj": (1024, 4096),
        "self_attn.v_proj": (1024, 4096),
        "self_attn.o_proj": (4096, 4096),
        "self_attn.q_norm": (128,),
        "self_attn.k_norm": (128,),
        "mlp.gate_proj": (12288, 4096),
        "mlp.up_proj": (12288, 4096),
        "mlp.down_proj": (4096, 12288),
    }
    for i in range(36):
        shapes |= {f"model.layers.{i}.{name}.weight": s for name, s in per_layer.items()}
    return shapes


def test_full_size_names_and_shapes_are_the_released_ones():
    projector = {
        "mlp_AR.pre_norm.weight": (4608,),
        "mlp_AR.pre_norm.bias": (4608,),
        "mlp_AR.linear_1.weight": (4608, 4608),
        "mlp_AR.linear_1.bias": (4608,),
        "mlp_AR.linear_2.weight": (4096, 4608),
        "mlp_AR.linear_2.bias": (4096,),
    }
    shapes = checkpoint_shapes(full_size_config())
    assert shapes == siglip_shapes(1152, 4304, 27, 729) | projector | qwen3_shapes()
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    print(f"Keye-VL-1.5-8B: {len(shapes)} tensors, {total:,} values")
    assert 8.6e9 < total < 8.8e9
    assert not any(re.search(r"\bhead\.", name) for name in shapes)


def test_a_text_only_model_is_loaded_too(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    config = Qwen3Config(vocab_size=32, num_attention_heads=2, num_key_value_heads=1, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    assert type(load_model(tmp_path)) is Qwen3ForCausalLM


def test_the_full_size_yaml_is_the_full_size_configuration():
    sizes = compose("pretrain", PretrainConfig, ["model=keye_vl_1_5_8b"]).model
    assert (sizes.image.min_tokens, sizes.image.max_tokens) == (4, 20_480)
    tokenizer = train_tokenizer(CORPUS, 320)
    ours = model_configuration(sizes, tokenizer, sizes.text.vocab_size).to_dict()
    full = full_size_config().to_dict()
    named = {key for key in full if key.endswith("_token_id")} | {"dtype", "max_window_layers"}
    differing = {key for key in full.keys() | ours.keys() if full.get(key) != ours.get(key)}
    assert differing - named == set()
