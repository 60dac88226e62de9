"""The pure parts of scripts/bench/gspo: equal work on both sides, lengths, arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rollout.engine import PromptRequest
from rollout.seeds import stable_seed
from scripts.bench.gspo_bench import report
from scripts.bench.gspo_bench.reward import checksum
from scripts.bench.gspo_bench.search import Trial
from scripts.bench.gspo_bench.timing import Phases, StepTime
from scripts.bench.gspo_bench.trl_side import MODES, Checkpoints, TrlJob
from scripts.bench.gspo_bench.workloads import SEED, WORKLOADS


@pytest.mark.parametrize("scale", ["full", "small"])
@pytest.mark.parametrize("name", WORKLOADS)
def test_every_step_has_the_same_lengths_in_another_order(name, scale):
    workload = WORKLOADS[name].scaled(scale)
    low, high = workload.lengths
    first, second = workload.response_lengths(0), workload.response_lengths(1)
    assert len(first) == workload.responses
    assert first.sum() == second.sum() == workload.tokens
    assert sorted(first) == sorted(second)
    assert (first >= low).all() and (first <= high).all()
    assert low == high or (first != second).any()
    assert (first == workload.response_lengths(0)).all()


def test_long_tailed_lengths_have_a_tail():
    lengths = WORKLOADS["long-tailed"].response_lengths(0)
    assert lengths.min() <= 9 and lengths.max() >= 500
    assert 1.5 < lengths.mean() / np.median(lengths) < 3


def test_prompts_are_a_function_of_the_step():
    workload = WORKLOADS["images"].scaled("small")
    one, same, other = workload.samples(3), workload.samples(3), workload.samples(4)
    assert [s.id for s in one] == [s.id for s in same] != [s.id for s in other]
    pixels = [[s.messages[0]["content"][0]["image"] for s in samples] for samples in (one, same)]
    assert all((a == b).all() for a, b in zip(*pixels, strict=True))
    assert len({image.shape for image in pixels[0]}) > 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WORKLOADS)
def test_micro_batches_of_trl_fill_its_update(name, mode):
    workload = WORKLOADS[name]
    for size in workload.micro_batches:
        job = TrlJob(MODES[mode], workload, size, Checkpoints(None, None), None)
        assert job.rank_micro_batch * job.mode.ranks == size
        assert job.per_update % job.rank_micro_batch == 0
        updates = job.per_update * job.mode.ranks * workload.mini_batches
        assert updates == workload.responses


def test_a_response_of_ours_gets_the_length_of_its_place():
    from scripts.bench.gspo_bench.ours import Ours

    workload = WORKLOADS["long-tailed"].scaled("small")
    samples, seed = workload.samples(2), stable_seed(SEED, 2)
    forced = Ours._forced(SimpleNamespace(workload=workload), samples, seed, 2)
    prompt = SimpleNamespace(ids=np.arange(3), engine_ids=[], engine_media={}, engine_kwargs={})
    lengths = [
        forced.by_seed[response]
        for sample in samples
        for response in PromptRequest.of(
            prompt, sample.id, stable_seed(seed, sample.id, sample.mode, 0), workload.group_size
        ).seeds
    ]
    assert lengths == workload.response_lengths(2).tolist()
    assert forced.max_tokens == max(lengths)


def test_hugging_face_rows_end_exactly_at_their_length():
    from scripts.bench.gspo_bench.trl_models import ForceLengths

    lengths, start = torch.tensor([1, 3, 4]), 5
    force = ForceLengths(lengths, start, end_ids=[7, 8], forbidden=[2])
    ids = torch.zeros(3, start, dtype=torch.long)
    ended = []
    for _ in range(4):
        scores = torch.arange(10.0).repeat(3, 1)
        chosen = force(ids, scores).argmax(1)
        ended.append((chosen == 7).tolist())
        assert not set(chosen.tolist()) & {2, 8}
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    assert ended == [
        [True, False, False],
        [False] * 3,
        [False, True, False],
        [False, False, True],
    ]


def test_images_are_decoded_from_a_cache_as_in_one_pass(tiny_checkpoint):
    """TRL's side samples from the model it trains: cached logits are the plain ones."""
    from transformers import DynamicCache

    from pretrain.keye_vl.checkpoint import load_processor
    from scripts.bench.gspo_bench.trl_models import ForcedKeye

    processor = load_processor(tiny_checkpoint)
    model = ForcedKeye.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, 84, 3), dtype=np.uint8) for side in (56, 140)]
    text = ["<|vision_start|><|image_pad|><|vision_end|>" + words for words in ("a b", "c")]
    processor.tokenizer.padding_side = "left"
    batch = processor(text=text, images=images, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert mask[:, 0].tolist() == [0, 1], "the first row must be padded on the left"
    media = {key: batch[key] for key in ("pixel_values", "image_grid_thw")}
    sampled = torch.tensor([[300, 301, 302], [303, 304, 305]])
    whole = torch.cat([ids, sampled], dim=1)
    ones = torch.ones_like(sampled)
    with torch.no_grad():
        plain = model(whole, torch.cat([mask, ones], dim=1), **media).logits
        cache, cached = DynamicCache(), []
        for step in range(4):
            stop = ids.shape[1] + step
            seen = torch.cat([mask, ones], dim=1)[:, :stop]
            inputs = model.prepare_inputs_for_generation(
                whole[:, :stop], past_key_values=cache, attention_mask=seen, **media
            )
            cached.append(model(**inputs).logits[:, -1])
    assert inputs["input_ids"].shape == (2, 1)
    expected = plain[:, ids.shape[1] - 1 :]
    assert (torch.stack(cached, dim=1) - expected).abs().max() <= 1e-4


def test_runs_of_image_tokens_become_one():
    from scripts.bench.gspo_bench.trl_vllm import collapsed

    assert collapsed([9, 9, 1, 9, 9, 9, 2, 2, 9], 9) == [9, 1, 9, 2, 2, 9]
    assert collapsed([1, 1, 2], 9) == [1, 1, 2]


def test_reward_reads_texts_and_conversations_alike():
    plain = checksum(["a", "b"])
    assert plain == checksum([[{"content": "a"}], [{"content": "b"}]])
    assert 0 <= plain[0] != plain[1] < 1


def test_a_phase_inside_another_is_counted_once(monkeypatch):
    ticks = iter(range(0, 100, 10))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    phases = Phases()
    with phases("generate"), phases("sync"):
        pass
    assert phases.take() == {"sync": 10, "generate": 20}
    assert phases.take() == {}


def step_time(wall, cpu, tokens, rms=0.93):
    numbers = dict.fromkeys(report.NUMBERS, 0.5) | {"advantage rms": rms}
    return StepTime(wall, cpu, {"generate": 1.0, "learn": 0.5}, tokens, numbers)


def comparison(**ours):
    workload = WORKLOADS["short"]
    mine = {"wall": 2.0, "cpu": 3.0, "tokens": workload.tokens} | ours
    job = TrlJob(MODES["hf-2"], workload, 128, Checkpoints(None, None), None)
    theirs = [step_time(wall, 8.0, workload.tokens) for wall in (4.0, 5.0, 90.0)]
    return report.Comparison(workload, [Trial(job, 5.0)], theirs, [step_time(**mine)])


def test_ratio_and_split():
    measured = comparison()
    report.check(measured)
    assert measured.ratio == 2.5 and measured.cpu_ratio == pytest.approx(8 / 3)
    header, trl, ours = report.table(measured)
    trl, ours = dict(zip(header, trl, strict=True)), dict(zip(header, ours, strict=True))
    assert (trl["step"], trl["other"], trl["idle"]) == ("5.00", "3.50", "1.00")
    assert (ours["step"], ours["generate"], ours["other"], ours["idle"]) == (
        *("2.00", "1.00"),
        *("0.50", "0.50"),
    )


@pytest.mark.parametrize("wrong", [{"tokens": 1}, {"rms": 0.8}])
def test_unequal_work_is_refused(wrong):
    with pytest.raises(RuntimeError, match=r"response tokens, not 18432|differ in kind"):
        report.check(comparison(**wrong))


def test_report_holds_the_command_the_tables_and_the_differences():
    text = report.markdown("scripts/bench/gspo --out", {"TRL": "x"}, [comparison()], 3.2)
    assert "`scripts/bench/gspo --out` in 3 minutes" in text
    assert "| short | 2.50× | 2.67× |" in text
    assert all(line in text for line in report.DIFFERENCES)
