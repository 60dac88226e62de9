"""The world's answers are what its images show, and held-out material stays held out."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from pretrain.data.answers import parse_box
from pretrain.data.render import reply
from pretrain.data.sample import HINT_LEVELS, SampleError
from pretrain.data.stream import heldout
from pretrain.data.world import TASKS, corpus, textual
from pretrain.data.world.canvas import POSITIONS, corner
from pretrain.data.world.digits import (
    SIDE,
    TRAIN_DIGITS,
    digit_images,
    digit_pool,
    digit_scene,
    upsample,
)
from pretrain.data.world.shapes import COLORS
from pretrain.data.world.tasks import held_out
from pretrain.data.world.text import WORDS, word_alpha, word_scene

IMAGE_TASKS = [name for name in TASKS if not name.startswith("video/")]
HINTED = ("digits/sum", "digits/sum_hard", "digits/difference", "shapes/count_sum")


def samples(task_type, n=150):
    return heldout({task_type: 1}, n, seed=3, modes={"think": 1})


def question(sample):
    return sample.messages[0]["content"][-1]["text"]


def things(sample):
    """The (place, colour, shape) triples of the scene's description."""
    return [tuple(item.split()) for item in sample.media()[0]["alt"].split(", ")]


def digits(sample):
    return [int(item[2]) for item in sample.media()[0]["alt"].split(", ")]


def expected(sample) -> str:
    """The answer worked out anew, from the question and the scene's description alone."""
    kind, text = sample.task_type, question(sample)
    if kind in ("shapes/caption", "digits/locate"):
        return sample.media()[0]["alt"]
    if kind == "text/ocr":
        return sample.media()[0]["alt"].removeprefix("text ")
    if kind == "text/arithmetic":
        return str(eval(text.removesuffix("=?")))
    if kind == "digits/read":
        return "".join(map(str, digits(sample)))
    if kind == "digits/max":
        return str(max(digits(sample)))
    if kind in ("digits/sum", "digits/sum_hard"):
        return str(sum(digits(sample)))
    if kind == "digits/difference":
        return str(max(digits(sample)) - min(digits(sample)))
    words = text.rstrip("?").split()
    scene = things(sample)
    if kind == "shapes/at":
        return next(f"{c} {s}" for p, c, s in scene if p == words[-1])
    if kind == "shapes/attribute":
        if words[1] == "color":
            return "".join(c for _, c, s in scene if s == words[-1])
        return "".join(s for _, c, s in scene if c == words[-2])
    if kind == "shapes/count":
        return str(sum(words[-1] in thing for thing in scene))
    if kind == "shapes/count_sum":
        return str(sum((words[1] in thing) + (words[-1] in thing) for thing in scene))
    one = next(POSITIONS.index(p) for p, c, s in scene if [c, s] == words[2:4])
    other = next(POSITIONS.index(p) for p, c, s in scene if [c, s] == words[6:8])
    if one // 3 == other // 3:
        return "left" if one < other else "right"
    assert one % 3 == other % 3
    return "up" if one < other else "down"


@pytest.mark.parametrize("task_type", [name for name in IMAGE_TASKS if name != "shapes/grounding"])
def test_answers_follow_from_the_scene(task_type):
    for sample in samples(task_type):
        assert sample.answer == expected(sample), sample


@pytest.mark.parametrize("task_type", IMAGE_TASKS)
def test_rewards_fit_the_kind_of_answer(task_type):
    sample = samples(task_type, 1)[0].validate()
    rules = {rule["rule"]: rule["weight"] for rule in sample.rewards}
    first = "math" if sample.answer.isdigit() and task_type != "digits/read" else "exact"
    first = "box_iou" if task_type == "shapes/grounding" else first
    assert rules == {first: 1.0, "format": 0.1}


def test_solutions_are_true_and_short():
    for task_type in IMAGE_TASKS:
        for sample in samples(task_type):
            if sample.solution is None:
                continue
            for left, right in re.findall(r"([\d+-]*\d)=(\d+)", sample.solution):
                assert eval(left) == int(right), sample.solution
            assert len(re.findall(r"[a-z]+|\d|[+=;-]", sample.solution)) <= 48
            if sample.task_type not in ("shapes/relation", "shapes/attribute"):
                assert sample.solution.endswith(sample.answer)


def test_counting_solutions_name_the_right_cells():
    for sample in samples("shapes/count"):
        word = question(sample).rstrip("?").split()[-1]
        places = " ".join(thing[0] for thing in things(sample) if word in thing)
        assert sample.solution == f"{places}={sample.answer}"


@pytest.mark.parametrize("task_type", HINTED)
def test_hints_rise_from_an_observation_to_the_solution(task_type):
    for sample in samples(task_type, 50):
        assert len(sample.hints) == HINT_LEVELS and all(sample.hints)
        assert sample.hints[-1] == f"{sample.solution} answer {sample.answer}"
        assert sample.solution.startswith(sample.hints[3])
        assert all("answer" not in hint for hint in sample.hints[:-1])


def test_only_hard_tasks_have_hints():
    assert tuple(name for name in TASKS if samples(name, 1)[0].hints) == HINTED


def test_digit_upsampling_is_torchs_bilinear_interpolation():
    images = np.random.default_rng(0).random((5, 8, 8), dtype=np.float32) * 255
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images)[:, None], size=(24, 24), mode="bilinear", align_corners=False
    )[:, 0]
    np.testing.assert_allclose(upsample(images, 24), theirs.numpy(), atol=1e-4)


def mismatch(window, digit) -> int:
    """How far a cell is from showing a digit, at the best shift. The background is below 28;
    above it the strokes are exact."""
    ink, shifts = digit.astype(int), range(28 - SIDE + 1)
    return min(
        np.abs(np.where(ink > 27, window[dy : dy + SIDE, dx : dx + SIDE] - ink, 0)).sum()
        for dy in shifts
        for dx in shifts
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_drawn_digit_is_an_image_of_its_own_split(split):
    images, labels = digit_images()
    pool = digit_pool(split)
    other = digit_pool("test" if split == "train" else "train")
    assert len(images) == 1797 and TRAIN_DIGITS == 1300 and not set(pool) & set(other)
    rng = np.random.default_rng(1)
    for _ in range(5):
        image, cells, shown = digit_scene(rng, 3, split)
        for cell, digit in zip(cells, shown, strict=True):
            y, x = corner(cell)
            window = image[y : y + 28, x : x + 28, 0].astype(int)
            same = [index for index in range(len(images)) if labels[index] == digit]
            gaps = {index: mismatch(window, images[index, ..., 0]) for index in same}
            best = min(gaps, key=gaps.get)
            assert gaps[best] == 0 and best in pool


def test_no_digit_image_is_in_both_splits():
    images = digit_images()[0]
    train = {image.tobytes() for image in images[:TRAIN_DIGITS]}
    assert not train & {image.tobytes() for image in images[TRAIN_DIGITS:]}


@pytest.mark.parametrize("split", ["train", "test"])
def test_written_sums_and_words_are_split_by_identity(split):
    rng = np.random.default_rng(2)
    for _ in range(300):
        text = question(TASKS["text/arithmetic"](rng, split)).removesuffix("=?")
        assert held_out(text) == (split == "test")
        words = TASKS["text/ocr"](rng, split).answer
        assert " " not in words or held_out(words) == (split == "test")
    assert [held_out(text) for text in ("1+2", "3+4", "1+3", "2+7")] == [False, False, True, True]


def test_boxes_enclose_the_object_tightly():
    for sample in samples("shapes/grounding", 60):
        color, shape = question(sample).rstrip("?").split()[-2:]
        x1, y1, x2, y2 = (round(edge * 84 / 1000) for edge in parse_box(sample.answer))
        image = sample.media()[0]["image"].astype(int)
        near = np.abs(image - np.array(COLORS[color])).max(-1) <= 15
        inside = near[y1:y2, x1:x2]
        assert inside.any(0).all() and inside.any(1).all(), (color, shape)
        rim = np.pad(near, 1)[y1 : y2 + 2, x1 : x2 + 2]
        assert not (rim[0].any() or rim[-1].any() or rim[:, 0].any() or rim[:, -1].any())


def test_scene_description_matches_the_pixels():
    for sample in samples("shapes/caption", 60):
        image = sample.media()[0]["image"].astype(int)
        described = {place: color for place, color, _ in things(sample)}
        for cell, place in enumerate(POSITIONS):
            y, x = corner(cell)
            middle = image[y + 12 : y + 17, x + 12 : x + 17].reshape(-1, 3)
            if place not in described:
                assert middle.max() < 28
            else:
                gaps = np.abs(middle - np.array(COLORS[described[place]])).max(-1)
                assert (gaps <= 15).mean() > 0.5


def test_words_are_drawn_one_a_row_and_differ():
    shapes = {word: word_alpha(word, 18).tobytes() for word in WORDS}
    assert len(set(shapes.values())) == len(WORDS) == 16
    image = word_scene(np.random.default_rng(0), ["cat", "moon", "fish"])
    bright = (image.max(-1) > 60).reshape(3, 28, 84).sum((1, 2))
    assert image.shape == (84, 84, 3) and (bright > 40).all()


def test_textual_samples_ask_the_same_about_words():
    sample = samples("digits/sum", 1)[0]
    scene = sample.media()[0]["alt"]
    words = textual(sample)
    assert words.messages[0]["content"] == [
        {"type": "text", "text": f"{scene}. sum of the digits?"}
    ]
    assert words.answer == sample.answer and words.id != sample.id and not words.media()
    written = samples("text/arithmetic", 1)[0]
    assert textual(written).messages == written.messages
    with pytest.raises(SampleError, match="no `alt`"):
        textual(samples("shapes/grounding", 1)[0])


def test_every_task_occurs_with_varied_answers():
    for task_type in TASKS:
        answers = Counter(sample.answer for sample in samples(task_type))
        assert len(answers) >= 3 and answers.most_common(1)[0][1] < 100, task_type


@pytest.mark.parametrize("n", [10, 2000])
def test_a_tokenizer_trained_on_the_corpus_has_every_word_whole(n):
    tokenizer = Tokenizer(models.BPE())
    pattern = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(n), trainer)
    words = set(WORDS) | set(COLORS) | set(POSITIONS)
    for task_type in TASKS:
        for sample in samples(task_type, 20):
            text = f"{question(sample)} {reply(sample)}"
            words |= set(re.findall(r"[a-z]+", re.sub(r"<.*?>|\\boxed", "", text)))
    split = [form for w in words for form in (w, f" {w}") if len(tokenizer.encode(form)) != 1]
    assert len(words) == 74 and not split and tokenizer.get_vocab_size() <= 1400
