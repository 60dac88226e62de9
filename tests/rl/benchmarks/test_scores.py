"""Each benchmark's own scoring on a small file of its published form, computed by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rl.benchmarks.config import BenchmarkConfig


def values(found: dict[str, Any]) -> dict[str, tuple[float, int]]:
    return {k: (pytest.approx(v["value"]), v["n"]) for k, v in found["scores"].items()}


def right(found: dict[str, Any]) -> str:
    """1 for each right response, 0 for each wrong one."""
    return "".join(str(int(record["correct"])) for record in found["records"])


def bench_rows(image: Any) -> list[dict[str, Any]]:
    return [
        {
            "index": 0,
            "question": "what is it?",
            "hint": "look",
            "A": "cat",
            "B": "dog",
            "C": "bird",
            "answer": "B",
            "category": "object",
            "l2-category": "coarse",
            "image": image(),
        },
        {
            "index": 1,
            "question": "how many?",
            "A": "one",
            "B": "two",
            "answer": "A",
            "category": "count",
            "l2-category": "coarse",
            "image": image(1),
        },
    ]


def test_mmbench_circular(tmp_path, tsv, image, scored):
    tsv(tmp_path / "MMBench_DEV_EN_V11.tsv", bench_rows(image))
    # Question 0 rightly in all three rotations; question 1 by somebody who always says A.
    found = scored("mmbench", ["B", "dog", "(C)", "A", "A"])
    assert [sample.answer for sample in found["samples"]] == ["B", "A", "C", "A", "B"]
    assert values(found)["accuracy"] == (0.5, 2)
    assert values(found)["category: object"] == (1.0, 1)
    assert values(found)["category: count"] == (0.0, 1)
    prompt = found["samples"][1].messages[0]["content"][-1]["text"]
    assert prompt.startswith(
        "Hint: look\nQuestion: what is it?\nOptions:\nA. dog\nB. bird\nC. cat\n"
    )
    plain = scored("mmbench", ["B", "A"], BenchmarkConfig(circular=False))
    assert values(plain)["accuracy"] == (1.0, 2)


def test_mmbench_files_that_bring_their_rotations(tmp_path, tsv, image, scored):
    first, second = bench_rows(image)
    turned = {**first, "index": 1_000_000, "A": "dog", "B": "bird", "C": "cat", "answer": "A"}
    turned["image"] = "0"
    tsv(tmp_path / "MMBench_DEV_EN.tsv", [first, second, turned])
    found = scored("mmbench", ["B", "A", "B"])
    assert values(found)["accuracy"] == (0.5, 2)  # question 0 fails in its rotation
    assert found["samples"][2].media() == found["samples"][0].media()


def test_mmstar_with_the_options_in_the_question(tmp_path, tsv, image, scored):
    rows = [
        {
            "index": k,
            "question": "What? \nOptions: A: a cat, B: a dog, C: a bird, D: none",
            "answer": answer,
            "category": category,
            "l2_category": "x",
            "image": image(),
        }
        for k, (answer, category) in enumerate([("C", "coarse"), ("A", "fine"), ("B", "fine")])
    ]
    tsv(tmp_path / "MMStar.tsv", rows)
    found = scored("mmstar", ["The answer is C.", "A", "a bird"])
    assert values(found)["accuracy"] == (pytest.approx(2 / 3), 3)
    assert values(found)["category: fine"] == (0.5, 2)
    assert found["decided_by"] == {"rule": 2, "judge": 0, "nothing": 1}


def test_mmmu(tmp_path, tsv, image, scored):
    images = json.dumps([image(1), image(2)])
    one = {"index": 0, "id": "validation_Art_Theory_1", "split": "validation", "image": images}
    one |= {"question": "<image 1> or <image 2>?", "A": "left", "B": "right", "answer": "B"}
    two = {"index": 1, "id": "validation_Math_2", "split": "validation", "image": image(3)}
    two |= {"question": "How many?", "answer": "['3.5', 'three and a half']"}
    three = {**two, "index": 2, "id": "validation_Math_3", "answer": "12"}
    dev = {**two, "index": 3, "split": "dev", "id": "dev_Math_1"}
    tsv(tmp_path / "MMMU_DEV_VAL.tsv", [one, two, three, dev])
    found = scored("mmmu", ["(B)", "The answer is 3.50", "it is 2"])
    assert values(found)["accuracy"] == (pytest.approx(2 / 3), 3)
    assert values(found)["domain: Science"] == (0.5, 2)
    assert values(found)["subject: Art_Theory"] == (1.0, 1)
    assert values(found)["question_type: open"] == (0.5, 2)
    assert found["skipped"]["other splits"].startswith("1 rows")
    content = found["samples"][0].messages[0]["content"]
    assert [part["type"] for part in content] == ["image", "text", "image", "text"]
    assert content[-1]["text"].endswith(
        "(A) left\n(B) right\n\nAnswer with the option's letter from the given choices directly."
    )
    assert (
        found["samples"][1]
        .messages[0]["content"][-1]["text"]
        .endswith("Answer the question using a single word or phrase.")
    )


def test_ocrbench(tmp_path, tsv, image, scored):
    formula = "Handwritten Mathematical Expression Recognition"
    rows = [
        ("Regular Text Recognition", "['Centre', 'Center']"),
        ("Regular Text Recognition", "['Open']"),
        ("Doc-oriented VQA", "['12 May']"),
        (formula, "['\\\\frac{1}{2}']"),
        (formula, "['X^2']"),
    ]
    tsv(
        tmp_path / "OCRBench.tsv",
        [
            {"index": k, "question": "read", "answer": a, "category": c, "image": image()}
            for k, (c, a) in enumerate(rows)
        ],
    )
    given = ["it says CENTER", "Opn", "on the 12\nMay", "\\frac {1} {2}", "x^2"]
    found = scored("ocrbench", given)
    # A formula's case counts and its spaces don't; elsewhere it is the other way round.
    assert right(found) == "10110"
    assert values(found)["accuracy"] == (0.6, 5)
    assert values(found)["Text Recognition (six kinds)"] == (0.5, 2)
    assert values(found)[f"category: {formula}"] == (0.5, 2)


def test_hallusionbench(tmp_path, tsv, image, scored):
    rows = [
        # category, kind, set, figure, question, answer
        ("VD", "figure", 0, 0, 0, "Yes"),
        ("VD", "figure", 0, 0, 1, "No"),
        ("VD", "figure", 0, 1, 0, "No"),
        ("VD", "figure", 0, 1, 1, "Yes"),
        ("VS", "chart", 0, 0, 0, "No"),  # without its figure
        ("VS", "chart", 0, 1, 0, "Yes"),
    ]
    tsv(
        tmp_path / "HallusionBench.tsv",
        [
            {
                "index": f"HB_{category}_{kind}_{a}_{b}_{c}",
                "question": "Is it?",
                "answer": answer,
                "category": category,
                "l2-category": kind,
                "image": image() if (category, b) != ("VS", 0) else "",
            }
            for category, kind, a, b, c, answer in rows
        ],
    )
    found = scored("hallusionbench", ["Yes.", "no", "No", "no", "I cannot tell", "yes and no"])
    assert right(found) == "111010"
    scores = values(found)
    assert scores["aAcc"] == (pytest.approx(4 / 6), 6)
    # Figures: VD 0 (both right), VD 1 (one wrong), VS 1 (wrong); VS 0 is no figure.
    assert scores["fAcc"] == (pytest.approx(1 / 3), 3)
    # Questions: VD 0 (right on both figures), VD 1 (wrong on one), VS 0 (wrong on one).
    assert scores["qAcc"] == (pytest.approx(1 / 3), 3)
    assert scores["VD aAcc"] == (0.75, 4) and scores["VD fAcc"] == (0.5, 2)
    assert scores["VS qAcc"] == (0.0, 1)
    assert not found["samples"][4].media() and len(found["samples"][5].media()) == 1


def test_mathvista(tmp_path, tsv, image, scored):
    base = {"image": image(), "task": "figure question answering"}
    free = {**base, "question_type": "free_form"}
    choice = {"question_type": "multi_choice", "answer_type": "text", "answer_option": "B"}
    choice |= {"choices": "['3/11', '8/11']"}
    one_place = {**free, "answer_type": "float", "precision": "1.0"}
    two_places = {**free, "answer_type": "float", "precision": "2.0"}
    both = "['arithmetic', 'statistics']"
    rows = [
        {**free, "answer_type": "integer", "answer": "14", "skills": both},
        {**one_place, "answer": "0.6", "skills": "['algebra']"},
        {**two_places, "answer": "1.45", "skills": "['algebra']"},
        {**free, "answer_type": "list", "answer": "[2007, 2008]", "skills": "['statistics']"},
        {**base, **choice, "answer": "8/11", "skills": "['algebra']"},
        {**free, "answer_type": "integer", "answer": "12", "skills": "['arithmetic']"},
    ]
    rows = [{"index": k, "question": "How many?", **row} for k, row in enumerate(rows)]
    tsv(tmp_path / "MathVista_MINI.tsv", rows)
    given = ["The number is 14.", "0.58", "1.4", "from [2007,2008]", "(B) 8/11", "12 of 30"]
    found = scored("mathvista", given)
    assert right(found) == "110110"
    assert found["records"][1]["extracted"] == "0.6"  # rounded to its precision
    assert found["records"][5]["decided_by"] == "nothing"  # which number?
    scores = values(found)
    assert scores["accuracy"] == (pytest.approx(4 / 6), 6)
    assert scores["skills: arithmetic"] == (0.5, 2)
    assert scores["skills: algebra"] == (pytest.approx(2 / 3), 3)
    assert scores["answer_type: float"] == (0.5, 2)
    prompts = [sample.messages[0]["content"][-1]["text"] for sample in found["samples"]]
    assert "two decimal places" in prompts[2] and "one decimal place " in prompts[1]
    assert prompts[4].endswith("Question: How many?\nChoices:\n(A) 3/11\n(B) 8/11")


def test_videomme(tmp_path, tsv, scored):
    rows = [
        {"index": k, "videoID": f"v{k}", "duration": duration, "domain": "Sports", "question": "q"}
        for k, duration in enumerate(["short", "long", "long"])
    ]
    for row, answer in zip(rows, "CAB", strict=True):
        row |= {"answer": answer, "task_type": "Counting Problem", "sub_category": "Ball"}
        row["candidates"] = "['A. one', 'B. two', 'C. three', 'D. four']"
    tsv(tmp_path / "Video-MME.tsv", rows)
    for k in range(3):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "video" / f"v{k}.mp4").write_bytes(b"x")
    found = scored("Video-MME", ["The best answer is C.", "A", "I see D"])
    # "I see D": D is the first capital option letter.
    assert values(found)["accuracy"] == (pytest.approx(2 / 3), 3)
    assert values(found)["duration: long"] == (0.5, 2) and values(found)["duration: short"] == (
        1,
        1,
    )
    video, text = found["samples"][0].messages[0]["content"]
    assert video["video"].endswith("video/v0.mp4")
    assert text["text"].endswith("q\nA. one\nB. two\nC. three\nD. four\nThe best answer is:")


def test_videommmu_is_the_mean_of_its_tracks(tmp_path, tsv, scored):
    def row(name: str, answer: str, kind: str = "multiple-choice") -> dict[str, Any]:
        options = "[]" if kind == "open" else "['cats', 'dogs', 'birds']"
        own = {"id": name, "question": "q", "answer": answer, "question_type": kind}
        return {**own, "options": options}

    folder = tmp_path / "VideoMMMU"
    tsv(folder / "perception.tsv", [row("dev_Art_1", "A"), row("dev_Art_2", "B")])
    rows = [row("validation_Physics_3", "12", "open"), row("validation_Physics_4", "C")]
    tsv(folder / "adaptation.tsv", [*rows, row("validation_Physics_5", "C")])
    for name in ("dev_Art_1", "dev_Art_2", *(f"validation_Physics_{k}" for k in (3, 4, 5))):
        (folder / f"{name}.mp4").write_bytes(b"x")
    # The adaptation file comes first.
    found = scored("videommmu", ["so it is 12.", "C. birds", "B: (C)", "A.", "C"])
    scores = values(found)
    assert scores["perception"] == (0.5, 2) and scores["adaptation"] == (pytest.approx(2 / 3), 3)
    assert scores["mean of tracks"][0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores["domain: Science"] == (pytest.approx(2 / 3), 3)
    text = found["samples"][0].messages[0]["content"][-1]["text"]
    assert "answer the following open-ended question. The image for this" in text
    text = found["samples"][3].messages[0]["content"][-1]["text"]
    assert text.endswith("C. birds\nPlease directly output the option letter/data as the answer.")


def test_tempcompass(tmp_path, scored):
    folder = tmp_path / "TempCompass"
    folder.mkdir()
    (folder / "v.mp4").write_bytes(b"x")
    choice = {"question": "Where?\nA. rightward\nB. leftward", "answer": "B. leftward"}
    yes_no = [
        {"question": "Is it fast?", "answer": "yes"},
        {"question": "Is it slow?", "answer": "no"},
    ]
    match = {"question": "Which?\nCaption A: it falls.\nCaption B: it rises."}
    match["answer"] = "Caption A: it falls."
    caption = {"question": "Describe", "answer": "", "mc_question": "x\nA. y", "mc_answer": "A. y"}
    for task, content in (
        ("caption_matching", {"v": {"order": [match]}}),  # TempCompass's own form
        ("captioning", [{"video_id": "v", "dim": "action", **caption}]),
        ("multi-choice", [{"video_id": "v", "dim": "direction", **choice}]),
        ("yes_no", [{"video_id": "v", "dim": "speed", **row} for row in yes_no]),
    ):
        (folder / f"{task}.json").write_text(json.dumps(content))
    found = scored("tempcompass", ["Caption B", "B", "Yes, it is", "hardly"])
    assert right(found) == "0110"
    scores = values(found)
    assert scores["accuracy"] == (0.5, 4)
    assert scores["task: yes_no"] == (0.5, 2) and scores["task: caption_matching"] == (0.0, 1)
    assert scores["dim: direction"] == (1.0, 1) and scores["yes_no, speed"] == (0.5, 2)
    assert "benchmark.judge.url" in found["skipped"]["captioning"]
    assert found["decided_by"]["nothing"] == 1
