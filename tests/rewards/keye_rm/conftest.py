"""A reward model for the tests: the tiny checkpoint, taught the form of judgements in seconds."""

import numpy as np
import pytest

from rewards.keye_rm.pairs import example
from rewards.keye_rm.templates import Template
from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig

STEPS, BATCH = 150, 8


@pytest.fixture(scope="session")
def short_template():
    """Two dimensions and few words: a random model learns to write it in a hundred steps."""
    return Template(
        task="which is right?",
        before="{task}\n",
        after="\n{A}:{a}\n{B}:{b}",
        dimensions=dict.fromkeys(Template().dimensions, "") | {"safety": "s", "clarity": "l"},
        opening="{label}:",
        mark="{name}{mark}",
        between="",
        join=";",
    )


@pytest.fixture(scope="session")
def taught(tiny_checkpoint, encoder, short_template, tmp_path_factory):
    """A checkpoint that judges in the right form, in both modes; how well doesn't matter."""
    import torch
    import torch.nn.functional as F

    from pretrain.keye_vl.checkpoint import load_model
    from pretrain.keye_vl.prompt import pack
    from pretrain.training.checkpoint import write_checkpoint

    torch.manual_seed(0)
    model = load_model(tiny_checkpoint, torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    tasks = {"text/arithmetic": 1.0}
    pairs = WorldPairs(WorldPairsConfig(tasks=tasks, defects={"safety": 1.0, "clarity": 1.0}))
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 10) * (1 - step / STEPS)
        encoded = [
            encoder.encode_example(
                example(
                    pairs[step * BATCH + k],
                    short_template,
                    ("think", "no_think")[k % 2],
                    bool(rng.integers(2)),
                ),
                "test",
            )
            for k in range(BATCH)
        ]
        prompts, replies = zip(*encoded, strict=True)
        packed = pack(prompts, replies, model.config)
        logits = model(**packed.model_inputs()).logits.reshape(-1, model.config.vocab_size)
        loss = F.cross_entropy(logits, packed.targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("reward_model") / "checkpoint"
    write_checkpoint(model, path, tiny_checkpoint)
    short_template.save(path)
    return path
