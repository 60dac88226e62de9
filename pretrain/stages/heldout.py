"""Held-out evaluation without an inference engine: greedy decoding of short answers.

An answer that is right at every position under teacher forcing is exactly what greedy decoding
gives, so one forward pass settles all samples whose only right answer is the reference. Where
other answers count too (boxes, spans of time), the remaining samples are decoded token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from pretrain.data.answers import has_other_answers, is_correct
from pretrain.data.render import conversation
from pretrain.data.sample import Sample
from pretrain.data.stream import heldout
from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder, pack
from pretrain.keye_vl.tokenizer import END_OF_TURN
from pretrain.stages.accuracy import READING, Outcome
from pretrain.stages.config import HeldOutConfig

READ_TASK = "digits/read"


def heldout_samples(cfg: HeldOutConfig, think: bool) -> Iterator[tuple[str, Sample]]:
    """(what it counts for, sample) of the whole evaluation: `no_think`, `think` or `reading`."""
    for task in cfg.tasks:
        for sample in heldout({task: 1.0}, cfg.samples, cfg.seed):
            yield "no_think", sample
            if think and sample.solution is not None:
                yield "think", replace(sample, mode="think")
    if READ_TASK in cfg.tasks:
        for sample in single_digits(cfg):
            yield READING, sample


def single_digits(cfg: HeldOutConfig) -> list[Sample]:
    """Held-out images of one digit, twice as many as a task has samples."""
    # About a quarter of the reading samples show one digit only.
    many = heldout({READ_TASK: 1.0}, 12 * cfg.samples, cfg.seed + 1)
    return [sample for sample in many if len(sample.answer) == 1][: 2 * cfg.samples]


@torch.no_grad()
def evaluate_heldout(
    model: torch.nn.Module,
    encoder: PromptEncoder,
    samples: Sequence[tuple[str, Sample]],
    batch_size: int,
) -> list[Outcome]:
    """Greedy accuracy of `model` on `samples`, one outcome per sample."""
    was_training = model.training
    model.eval()
    outcomes = []
    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        correct = greedy_correct(model, encoder, [sample for _, sample in chunk])
        outcomes += [
            Outcome(sample.task_type, kind, right)
            for (kind, sample), right in zip(chunk, correct, strict=True)
        ]
    model.train(was_training)
    return outcomes


def greedy_correct(
    model: torch.nn.Module, encoder: PromptEncoder, samples: Sequence[Sample]
) -> list[bool]:
    """Whether greedy decoding answers each sample correctly."""
    examples = [encoder.encode_example(conversation(s), s.id) for s in samples]
    predicted = _predict(model, [p for p, _ in examples], [r for _, r in examples])
    correct = [
        bool(np.array_equal(guess, answer))
        for guess, (_, answer) in zip(predicted, examples, strict=True)
    ]
    open_ = [
        i
        for i, s in enumerate(samples)
        if not correct[i] and s.mode == "no_think" and has_other_answers(s)
    ]
    if open_:
        limits = [len(examples[i][1]) + 8 for i in open_]
        texts = _decode(model, encoder, [examples[i][0] for i in open_], limits)
        for i, text in zip(open_, texts, strict=True):
            correct[i] = is_correct(samples[i], text)
    return correct


def _predict(
    model: torch.nn.Module, prompts: list[EncodedPrompt], replies: list[np.ndarray]
) -> list[np.ndarray]:
    """The likeliest token at every position of every reply."""
    device = next(model.parameters()).device
    packed = pack(prompts, replies, model.config).to(device)
    best = model(**packed.model_inputs()).logits.argmax(-1).cpu().numpy()
    return np.split(best, np.cumsum([len(r) for r in replies])[:-1])


def _decode(
    model: torch.nn.Module, encoder: PromptEncoder, prompts: list[EncodedPrompt], limits: list[int]
) -> list[str]:
    """Greedy replies as text. Each token runs the whole prefix: meant for a few short answers."""
    end = encoder.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    replies = [np.zeros(0, np.int32) for _ in prompts]
    running = list(range(len(prompts)))
    while running:
        # A reply's last position predicts its next token, so a filler stands where that comes.
        filled = [np.append(replies[i], np.int32(end)) for i in running]
        predicted = _predict(model, [prompts[i] for i in running], filled)
        for i, guess in zip(running, predicted, strict=True):
            replies[i] = np.append(replies[i], np.int32(guess[-1]))
        running = [i for i in running if replies[i][-1] != end and len(replies[i]) < limits[i]]
    return [encoder.tokenizer.decode(reply[reply != end]) for reply in replies]
