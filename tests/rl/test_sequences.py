"""How one update's sequences are checked, shuffled and shared out."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.run.errors import KeyeError
from pretrain.training.balancing import CostModel
from rl.sequences import TrainingSequence, check_sequences, plan_ranks, split_mini_batches


def group(group_id, lengths, prompt_length=10, patches=36, **fields):
    grid = np.array([[1, 6, patches // 6]]) if patches else None
    prompt = SimpleNamespace(ids=np.full(prompt_length, group_id, np.int32), grid_thw=grid)
    return [
        TrainingSequence(
            prompt=prompt,
            response_ids=np.arange(n, dtype=np.int32),
            engine_logprobs=np.zeros(n, np.float32),
            advantage=0.5,
            group_id=group_id,
            sample_id=f"s{group_id}",
            **fields,
        )
        for n in lengths
    ]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=12),
    mini_batches=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_mini_batches_partition_whole_groups(sizes, mini_batches, seed):
    groups = [g for g, size in enumerate(sizes) for _ in range(size)]
    rng = np.random.default_rng(seed)
    if len(groups) < mini_batches:
        with pytest.raises(KeyeError, match=f"mini_batches={mini_batches}"):
            split_mini_batches(groups, mini_batches, rng)
        return
    parts = split_mini_batches(groups, mini_batches, rng)
    assert sorted(i for part in parts for i in part) == list(range(len(groups)))
    assert all(parts)
    if len(sizes) >= mini_batches:
        homes = [{groups[i] for i in part} for part in parts]
        assert sum(len(home) for home in homes) == len(sizes)
        assert max(map(len, homes)) - min(map(len, homes)) <= 1


def test_the_seed_decides_the_mini_batches():
    groups = list(np.repeat(np.arange(16), 4))
    first = split_mini_batches(groups, 2, np.random.default_rng([0, 3]))
    again = split_mini_batches(groups, 2, np.random.default_rng([0, 3]))
    other = split_mini_batches(groups, 2, np.random.default_rng([0, 4]))
    assert first == again
    assert first != other


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), groups=st.integers(1, 10), world=st.integers(1, 3))
def test_ranks_share_every_sequence_within_the_budget(seed, groups, world):
    rng = np.random.default_rng(seed)
    batch = [s for g in range(groups) for s in group(g, rng.integers(1, 60, 4).tolist())]
    plan = plan_ranks(batch, range(len(batch)), world, 200, CostModel())
    assert sorted(i for rank in plan for micro in rank for i in micro) == list(range(len(batch)))
    assert len({len(rank) for rank in plan}) == 1
    for rank in plan:
        for micro in rank:
            assert sum(batch[i].num_tokens for i in micro) > 0
    loads = [sum(batch[i].num_tokens for micro in rank for i in micro) for rank in plan]
    if groups >= 2 * world:
        assert max(loads) <= 1.8 * sum(loads) / world


def test_groups_stay_together_so_that_images_are_encoded_once():
    batch = [s for g in range(8) for s in group(g, [20] * 4)]
    plan = plan_ranks(batch, range(32), 2, 480, CostModel())
    micros = [micro for rank in plan for micro in rank]
    assert sum(len({batch[i].group_id for i in micro}) for micro in micros) == 8
    assert all(sum(batch[i].num_tokens for i in micro) <= 480 for micro in micros)


def test_too_few_sequences_for_the_ranks():
    with pytest.raises(KeyeError, match="world_size=2"):
        plan_ranks(group(0, [3]), [0], 2, 100, CostModel())


def test_bad_sequences_are_refused_by_name():
    check_sequences(group(0, [3, 4]) + group(1, [2], hint_level=1))
    short = group(4, [3])[0]
    short.engine_logprobs = np.zeros(2, np.float32)
    with pytest.raises(KeyeError, match="sample s4, group 4: a response of 3 tokens with 2"):
        check_sequences([short])
    with pytest.raises(KeyeError, match="a response of 0 tokens"):
        check_sequences(group(0, [0]))
    failed = group(5, [3])[0]
    failed.advantage = float("nan")
    with pytest.raises(KeyeError, match=r"sample s5.*advantage nan"):
        check_sequences([failed])
    with pytest.raises(KeyeError, match="mixes prompts or hint levels 0 and 2"):
        check_sequences(group(0, [3]) + group(0, [3], hint_level=2))
    with pytest.raises(KeyeError, match="mixes prompts"):
        check_sequences(group(0, [3]) + group(0, [3], prompt_length=11))
