"""`python -m pretrain init` from small random SigLIP and Qwen3 models."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from pretrain.keye_vl import shards
from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.create import ImageSize
from pretrain.keye_vl.init import InitConfig, init_checkpoint
from pretrain.keye_vl.tokenizer import CONTENT_TOKENS, SPECIAL_TOKENS
from pretrain.run.errors import KeyeError

KNOWN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def save_qwen(path, tie: bool, rows: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=rows,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tie,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(path, max_shard_size="40KB")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=KNOWN, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["what is the sum"] * 5, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=KNOWN[0]).save_pretrained(path)
    return model


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    qwen = save_qwen(root / "qwen", tie=False, rows=275)
    torch.manual_seed(1)
    siglip = SiglipVisionModel(SiglipVisionConfig(**VISION)).eval()
    siglip.save_pretrained(root / "siglip")
    return root, qwen, siglip


def config(root, path, **changes) -> InitConfig:
    given = {"vision": str(root / "siglip"), "text": str(root / "qwen"), "output": str(path)}
    return InitConfig(**given | changes)


def test_logits_and_features_are_the_sources(sources, tmp_path, monkeypatch):
    root, qwen, siglip = sources
    sizes = []
    save = shards.save_file

    def recording(tensors, *args, **kwargs):
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))
        save(tensors, *args, **kwargs)

    monkeypatch.setattr(shards, "save_file", recording)
    init_checkpoint(config(root, tmp_path / "out", shard_gb=80e3 / 1e9, image=ImageSize(4, 64)))
    largest = 32768 * 32 * 4
    assert len(sizes) > 5 and max(sizes) <= max(80_000, largest)
    assert sum(size > 80_000 for size in sizes) == 1
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    assert len(set(index["weight_map"].values())) == len(sizes)

    model = load_model(tmp_path / "out").eval()
    ids = torch.randint(5, 270, (2, 17), generator=torch.Generator().manual_seed(2))
    expected = qwen(ids).logits
    assert expected.std() > 0.1
    assert (model(ids).logits[..., :275] - expected).abs().max() <= 1e-5
    assert model.config.mrope_section == [2, 3, 3]
    assert model.config.rope_parameters["rope_theta"] == 5e5

    model.config.vision_config.use_2d_rope = False
    image = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    patches = image.view(3, 4, 14, 4, 14).permute(1, 3, 0, 2, 4).reshape(16, 3, 14, 14)
    features = model.model.visual(patches, [(4, 4)])
    assert (features - siglip(image).last_hidden_state[0]).abs().max() <= 1e-5


def test_tokenizer_is_extended_and_new_rows_are_near_the_mean(sources, tmp_path):
    root, qwen, _ = sources
    init_checkpoint(config(root, tmp_path / "out"))
    processor, model = load_processor(tmp_path / "out"), load_model(tmp_path / "out")
    tokenizer = processor.tokenizer
    for token in (*SPECIAL_TOKENS, *CONTENT_TOKENS):
        assert len(tokenizer.encode(token)) == 1, token
    assert model.config.vocab_size == len(tokenizer) > 275
    assert tokenizer.encode("<think>") == [KNOWN.index("<think>")]
    assert model.config.eos_token_id == KNOWN.index("<|im_end|>")
    assert processor.image_processor.size == {"min_pixels": 4 * 784, "max_pixels": 20_480 * 784}
    table = model.model.embed_tokens.weight
    mean = qwen.model.embed_tokens.weight.mean(0)
    assert torch.equal(table[:275], qwen.model.embed_tokens.weight)
    assert (table[275:] - mean).abs().max() <= 0.1 * 5 * table.std()


def test_tied_qwen_and_whole_siglip(tmp_path):
    qwen = save_qwen(tmp_path / "qwen", tie=True, rows=400)
    whole = SiglipConfig(
        vision_config=VISION,
        text_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 50,
        },
    )
    siglip = SiglipModel(whole)
    siglip.save_pretrained(tmp_path / "siglip")
    init_checkpoint(config(tmp_path, tmp_path / "out"))
    model = load_model(tmp_path / "out")
    assert model.config.vocab_size == 400
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.arange(5, 20)[None]
    assert (model(ids).logits - qwen(ids).logits).abs().max() <= 1e-5
    ours = model.model.visual.vision_model.embeddings.position_embedding.weight
    assert torch.equal(ours, siglip.vision_model.embeddings.position_embedding.weight)


def test_bad_sources_are_named(sources, tmp_path):
    root, _, _ = sources
    cases = [
        ({"vision": ""}, "vision is missing: give vision=DIRECTORY"),
        ({"text": str(tmp_path / "no")}, "no: the directory does not exist"),
        ({"vision": str(root / "qwen")}, "a qwen3 model, but SigLIP is needed"),
        ({"text": str(root / "siglip")}, "a siglip_vision_model model, but Qwen3 is needed"),
        ({"output": str(root)}, "exists already"),
    ]
    for changes, words in cases:
        with pytest.raises(KeyeError, match=words):
            init_checkpoint(config(root, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
