"""Stage `vit`: the vision encoder learns what captions say, against a small text tower.

SigLIP's sigmoid loss (arXiv 2303.15343, eq. 1) at native resolution: every image–caption pair of
the global batch is a yes/no question. Only the encoder goes on; the tower stays in this stage's
folder.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream, heldout
from pretrain.data.world.canvas import POSITIONS
from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.prompt import PromptEncoder
from pretrain.run.errors import ConfigError
from pretrain.stages.accuracy import RECALL, ZERO_SHOT, Outcome
from pretrain.stages.heldout import single_digits
from pretrain.stages.stage import Stage, StageJob
from pretrain.training.engine import TrainingEngine

MAX_CAPTION = 64
"""Longest caption in tokens."""


class TextTower(nn.Module):
    """One transformer layer and a mean over tokens: caption → embedding."""

    def __init__(self, vocab_size: int, size: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, size)
        self.positions = nn.Parameter(torch.randn(MAX_CAPTION, size) * 0.02)
        self.layer = nn.TransformerEncoderLayer(
            size, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, ids: Int[Tensor, "B L"], mask: Float[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Embedding of each caption; `mask` is 1 on tokens and 0 on padding."""
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        x = self.norm(self.layer(x, src_key_padding_mask=mask == 0))
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class ContrastiveModel(nn.Module):
    """The vision encoder, a head that pools it, and the text tower."""

    def __init__(self, visual: nn.Module, size: int, heads: int, hidden: int, vocab: int) -> None:
        super().__init__()
        self.visual = visual
        # Pooling 2×2 blocks keeps the four places apart that the projector will merge.
        self.head = nn.Linear(4 * size, size)
        self.text = TextTower(vocab, size, heads, hidden)
        self.scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.bias = nn.Parameter(torch.tensor([-4.0]))

    def forward(
        self,
        pixels: Float[Tensor, "N 3 14 14"],
        grids: list[tuple[int, int]],
        ids: Int[Tensor, "B L"],
        mask: Float[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"], Tensor, Tensor]:
        """Unit embeddings of B images and B captions, the logits' scale and bias."""
        patches = self.visual(pixels, grids).split([h * w for h, w in grids])
        blocks = [
            p.view(h // 2, 2, w // 2, 2, -1).mean((0, 2)).flatten()
            for p, (h, w) in zip(patches, grids, strict=True)
        ]
        images = F.normalize(self.head(torch.stack(blocks)), dim=-1)
        captions = F.normalize(self.text(ids, mask), dim=-1)
        return images, captions, self.scale.exp(), self.bias


def sigmoid_loss(
    images: Float[Tensor, "B D"],
    captions: Float[Tensor, "G D"],
    scale: Tensor,
    bias: Tensor,
    first: int,
) -> Float[Tensor, ""]:
    """SigLIP loss summed over this rank's B × G pairs, divided by the global batch G.

    Image i belongs to caption `first + i`; the ranks' losses add up to the loss of the whole batch.
    """
    logits = images @ captions.T * scale + bias
    labels = -torch.ones_like(logits)
    rows = torch.arange(len(images), device=images.device)
    labels[rows, first + rows] = 1.0
    return -F.logsigmoid(labels * logits).sum() / len(captions)


class VitStage(Stage):
    """Contrastive training of the ViT."""

    parts = frozenset({"vision"})

    def __init__(self, job: StageJob, rank: int, world_size: int) -> None:
        super().__init__(job, rank, world_size)
        if job.cfg.batch_size % world_size:
            raise ConfigError(
                f"vit.batch_size={job.cfg.batch_size} is not a multiple of world_size={world_size}"
            )
        self.keye = load_model(job.source, torch.float32)
        self.encoder = PromptEncoder(load_processor(job.source), job.cfg.context)
        vision = self.keye.config.vision_config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)  # the same tower on every rank
            self.model = ContrastiveModel(
                self.keye.model.visual,
                vision.hidden_size,
                vision.num_attention_heads,
                vision.intermediate_size,
                self.keye.config.vocab_size,
            )
        self.stream = WorldStream(job.cfg.mix, seed=job.seed, split="train")

    def trainable(self, name: str) -> bool:
        """The encoder, and everything that exists for this stage only."""
        return True

    def indices(self, step: int) -> range:
        """A contiguous share, so that captions gathered from all ranks are in global order."""
        share = self.job.cfg.batch_size // self.world_size
        first = step * self.job.cfg.batch_size + self.rank * share
        return range(first, first + share)

    def accumulate(self, engine: TrainingEngine, step: int) -> dict[str, float]:
        """See `Stage.accumulate`."""
        started = time.perf_counter()
        samples = [self.stream[i] for i in self.indices(step)]
        inputs = self._inputs(samples, [s.answer for s in samples], engine.device)
        data_s = time.perf_counter() - started
        images, captions, scale, bias = engine(*inputs)
        everyone = torch.cat(dist_nn.all_gather(captions)) if self.world_size > 1 else captions
        loss = sigmoid_loss(images, everyone, scale, bias, self.rank * len(samples))
        engine.backward(loss, last=True)
        tokens = len(inputs[0]) + float(inputs[3].sum())
        return {
            "loss": loss.item(),
            "tokens": tokens,
            "samples": float(len(samples)),
            "data_s": data_s,
        }

    def _inputs(
        self, samples: list[Sample], captions: list[str], device: torch.device
    ) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
        """Patches and grids of the samples' images; token ids and mask of the captions."""
        prompts = [self.encoder.encode(render(s), s.id) for s in samples]
        for sample, prompt in zip(samples, prompts, strict=True):
            if prompt.pixel_values is None:
                raise ConfigError(f"vit.mix: {sample.task_type} has no image to learn from")
        pixels = torch.from_numpy(np.concatenate([p.pixel_values for p in prompts])).to(device)
        rows = np.concatenate([p.grid_thw for p in prompts])
        grids = [(int(h), int(w)) for _, h, w in rows]
        ids, mask = self._captions(captions)
        return pixels, grids, ids.to(device), mask.to(device)

    def _captions(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        # A leading space makes the first word the same token as inside a sentence.
        rows = [self.encoder.tokenizer.encode(f" {text}")[:MAX_CAPTION] for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros(ids.shape)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1.0
        return ids, mask

    @torch.no_grad()
    def evaluate(self) -> list[Outcome]:
        """Zero-shot digit classification, and caption recall within batches of the training size.

        Every rank does all of it and reports its share: both are cheap.
        """
        device = next(self.model.parameters()).device
        self.model.eval()
        outcomes = [*self._zero_shot(device), *self._recall(device)]
        self.model.train()
        return outcomes[self.rank :: self.world_size]

    def _zero_shot(self, device: torch.device) -> list[Outcome]:
        """Which digit is it? Its image against the mean caption of every digit."""
        samples = single_digits(self.job.evaluation)
        captions = [f"{place} {digit}" for digit in range(10) for place in POSITIONS]
        ids, mask = self._captions(captions)
        classes = F.normalize(self.model.text(ids.to(device), mask.to(device)), dim=-1)
        classes = classes.view(10, len(POSITIONS), -1).mean(1)
        inputs = self._inputs(samples, ["0"], device)
        images, *_ = self.model(*inputs)
        best = (images @ F.normalize(classes, dim=-1).T).argmax(1)
        return [
            Outcome("digits/read", ZERO_SHOT, str(int(guess)) == sample.answer)
            for guess, sample in zip(best, samples, strict=True)
        ]

    def _recall(self, device: torch.device) -> list[Outcome]:
        size = self.job.cfg.batch_size
        samples = heldout(self.job.cfg.mix, 2 * size, self.job.evaluation.seed)
        outcomes = []
        for start in range(0, len(samples), size):
            chunk = samples[start : start + size]
            inputs = self._inputs(chunk, [s.answer for s in chunk], device)
            images, captions, *_ = self.model(*inputs)
            best = (images @ captions.T).argmax(1)
            outcomes += [
                Outcome(s.task_type, RECALL, chunk[int(j)].answer == s.answer)
                for s, j in zip(chunk, best, strict=True)
            ]
        return outcomes

    def exported(self) -> nn.Module:
        """The whole Keye model, whose encoder was trained in place."""
        return self.keye

    def save_extras(self, directory: Path) -> None:
        """Keeps head and text tower: zero-shot classification and image–text filters need them."""
        rest = {k: v for k, v in self.model.state_dict().items() if not k.startswith("visual.")}
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in rest.items()},
            directory / "text_tower.safetensors",
        )
