"""Loaders of preference files, on small files of the public datasets' own forms."""

import json

import numpy as np
import pytest
from PIL import Image

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import SampleError
from pretrain.run.errors import KeyeError
from rewards.keye_rm.files import FilePairs, open_pairs, read_pair
from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig

R1_PROMPT = (
    "You are a highly skilled and impartial evaluator tasked with comparing two responses.\n\n"
    "###### **Input:**  \n###### [Question]:\nHow many cats?  \n\n"
    "###### [Response 1]:\nOne cat.\nIt sleeps.  \n\n###### [Response 2]:\nTwo cats.  \n\n"
    "###### **Output Format (strictly follow):**  \n<think>analysis</think><answer>1/2</answer>"
)
MMPR = {
    "id": 7,
    "image": "cat.png",
    "question": "<image>\nHow many cats?",
    "chosen": "There are two cats.",
    "rejected": "There is one cat.",
}
R1_REWARD = {
    "message": json.dumps(
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": R1_PROMPT},
                    {"type": "image", "image": "cat.png"},
                ],
            }
        ]
    ),
    "question": "How many cats?",
    "answer": ["<answer>2</answer>"],
}
REWARDBENCH = {
    "id": "30",
    "prompt": "Name a colour.",
    "chosen": "Red.",
    "rejected": "Dog.",
    "chosen_model": "x",
    "rejected_model": "y",
    "subset": "alpacaeval-easy",
}
VL_REWARDBENCH = {
    "id": "v1",
    "query": "How many cats?",
    "image": "cat.png",
    "response": ["One cat.", "Two cats."],
    "human_ranking": [1, 0],
    "query_source": "reasoning",
}
OWN = {
    "id": "own",
    "messages": [{"role": "user", "content": "1+1=?"}],
    "good": "2",
    "bad": "3",
    "violated": "correctness",
    "good_marks": {},
    "bad_marks": {"correctness": 1},
    "task": "Which sum is right?",
}


def parts(pair):
    return pair.query.messages[0]["content"]


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(np.full((56, 56, 3), 90, np.uint8)).save(tmp_path / "cat.png")
    return tmp_path


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mmpr():
    pair = read_pair(MMPR, "f:1")
    assert (pair.id, pair.good, pair.bad) == ("7", "There are two cats.", "There is one cat.")
    assert parts(pair) == [
        {"type": "image", "image": "cat.png"},
        {"type": "text", "text": "How many cats?"},
    ]
    several = read_pair(MMPR | {"image": ["a.png", "b.png"]}, "f:1")
    assert [p.get("image") for p in parts(several)] == ["a.png", "b.png", None]
    assert not pair.marked and pair.violated == "unknown"
    text_only = read_pair({k: v for k, v in MMPR.items() if k != "image"} | {"image": None}, "f:1")
    assert [p["type"] for p in parts(text_only)] == ["text"]


def test_r1_reward():
    pair = read_pair(R1_REWARD, "f:3")
    assert (pair.id, pair.good, pair.bad) == ("f:3", "Two cats.", "One cat.\nIt sleeps.")
    assert parts(pair)[0]["image"] == "cat.png" and parts(pair)[1]["text"] == "How many cats?"
    other = read_pair(R1_REWARD | {"answer": "1"}, "f:3")
    assert (other.good, other.bad) == ("One cat.\nIt sleeps.", "Two cats.")
    chat = R1_REWARD | {"message": json.loads(R1_REWARD["message"])}
    assert read_pair(chat, "f:3").good == "Two cats."
    no_question = {k: v for k, v in R1_REWARD.items() if k != "question"}
    assert parts(read_pair(no_question, "f:3"))[1]["text"] == "How many cats?"


def test_rewardbench():
    pair = read_pair(REWARDBENCH, "f:1")
    assert (pair.good, pair.bad, pair.violated) == ("Red.", "Dog.", "alpacaeval-easy")
    chat = REWARDBENCH | {
        "prompt": [{"role": "user", "content": "Name a colour."}],
        "chosen": [{"role": "assistant", "content": "Red."}],
        "rejected": [{"role": "assistant", "content": "Dog."}],
    }
    assert read_pair(chat, "f:1").good == "Red."
    lists = REWARDBENCH | {"chosen": ["Red."], "rejected": ["Dog.", "Cat."]}
    assert read_pair(lists, "f:1").bad == "Dog."


def test_vl_rewardbench():
    pair = read_pair(VL_REWARDBENCH, "f:1")
    assert (pair.good, pair.bad, pair.violated) == ("Two cats.", "One cat.", "reasoning")
    turned = read_pair(VL_REWARDBENCH | {"human_ranking": [0, 1]}, "f:1")
    assert turned.good == "One cat."


def test_own_rows():
    pair = read_pair(OWN, "f:1")
    assert pair.marked and pair.bad_marks == {"correctness": 1}
    assert pair.task == "Which sum is right?" and pair.violated == "correctness"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "x"}, "no form"),
        (MMPR | {"chosen": ""}, "better response is no text"),
        (MMPR | {"chosen": None}, "no form"),
        (MMPR | {"rejected": 5}, "worse response is no text"),
        (MMPR | {"rejected": MMPR["chosen"]}, "same"),
        (MMPR | {"chosen": "a <|image_pad|>"}, "image_pad"),
        (R1_REWARD | {"answer": "3"}, "answer"),
        (R1_REWARD | {"message": "{"}, "JSON"),
        (R1_REWARD | {"message": "[]"}, "Response 1"),
        (VL_REWARDBENCH | {"human_ranking": [0, 0]}, "ranking"),
        (VL_REWARDBENCH | {"response": ["a"]}, "two responses"),
        (VL_REWARDBENCH | {"human_ranking": 3}, "wrong type"),
        (OWN | {"bad_marks": {"correctness": "low"}}, "whole numbers"),
        (OWN | {"messages": []}, "messages"),
    ],
)
def test_bad_rows_say_what_is_wrong(row, reason):
    with pytest.raises(SampleError, match=reason):
        read_pair(row, "f:1")


def test_files_are_read_once_an_epoch_with_their_media(folder):
    rows = [MMPR | {"id": k} for k in range(3)] + [VL_REWARDBENCH, OWN, R1_REWARD, REWARDBENCH]
    pairs = FilePairs(FileDataConfig([str(write(folder / "p.jsonl", *rows))]), seed=1)
    epochs = [[pairs[e * 7 + k].id for k in range(7)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 7
    assert epochs[0] != epochs[1]
    place = epochs[0].index("0")
    image = parts(pairs[place])[0]["image"]
    assert image.shape == (56, 56, 3) and image[0, 0, 0] == 90


def test_bad_rows_are_put_aside_and_too_many_stop(folder):
    path = write(folder / "p.jsonl", MMPR, MMPR | {"image": "missing.png"}, REWARDBENCH)
    aside = folder / "quarantine.jsonl"
    config = FileDataConfig([str(path)], quarantine=str(aside), max_bad_share=0.5)
    pairs = FilePairs(config, seed=0)
    assert len(pairs) == 2
    entry = json.loads(aside.read_text())
    assert entry["line"] == 2 and "missing.png" in entry["reason"]
    config.max_bad_share = 0.01
    with pytest.raises(KeyeError, match=r"missing\.png"):
        FilePairs(config, seed=0)


def test_lengths_are_filtered(folder):
    long = OWN | {"id": "long", "good": "2" * 30, "bad": "3"}
    short = OWN | {"id": "short", "good": "2", "bad": "33"}
    path = str(write(folder / "p.jsonl", OWN, long, short))
    gap = open_pairs(FileDataConfig([path]), WorldPairsConfig(max_length_gap=0.6), folder)
    assert {gap[k].id for k in range(len(gap))} == {"own", "short"}
    shorter = open_pairs(FileDataConfig([path]), WorldPairsConfig(prefer="shorter"), folder)
    assert [shorter[k].id for k in range(len(shorter))] == ["short"]
    with pytest.raises(KeyeError, match="no preference pair"):
        only = str(write(folder / "q.jsonl", OWN))
        open_pairs(FileDataConfig([only]), WorldPairsConfig(prefer="longer"), folder)
    assert isinstance(open_pairs(FileDataConfig(), WorldPairsConfig(), folder), WorldPairs)
