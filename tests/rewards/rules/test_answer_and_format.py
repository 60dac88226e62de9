"""Where the answer is found, and which structures count, honest and adversarial."""

import pytest

from rewards.answer import answer_text, boxes, final_answers, sections, unboxed
from rewards.rules.format import format_rule

GOOD = r"<think>3+5=8</think><answer>\boxed{8}</answer>"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{8}", ["8"]),
        (r"\boxed{\frac{1}{2}} or \boxed{x}", [r"\frac{1}{2}", "x"]),
        (r"\boxed{a\}b}", [r"a\}b"]),
        (r"\boxed{\boxed{8}}", [r"\boxed{8}"]),
        (r"\boxed{8", []),
        (r"\boxed{{8}", []),
        (r"\boxed 8", []),
        ("", []),
    ],
)
def test_boxes(text, found):
    assert boxes(text) == found


def test_boxes_are_bounded():
    assert len(boxes(r"\boxed{1}" * 10_000)) == 64


@pytest.mark.parametrize(
    ("response", "mode", "answers"),
    [
        (GOOD, "think", ["8"]),
        (GOOD + "<|im_end|>", "think", ["8"]),
        (r"<think>\boxed{9}</think><answer>\boxed{8}</answer>", "think", ["8"]),
        (r"<think>\boxed{8}</think>", "think", []),  # reasoning is no answer
        (r"<think>\boxed{8}", "auto_think", []),
        (r"\boxed{8}", "think", []),
        (r"<answer>\boxed{8}</answer>", "auto_think", ["8"]),
        (r"<answer>8</answer>", "auto_think", ["8"]),
        ("8", "no_think", ["8"]),
        (r"it is \boxed{8}", "no_think", ["8"]),
        (r"<answer>\boxed{1}\boxed{2}\boxed{8}</answer>", "think", ["1", "2", "8"]),
        (r"<answer>\boxed{8}\boxed{ 8 }</answer>", "think", ["8"]),
        (r"<answer>\boxed{7}</answer><answer>\boxed{8}</answer>", "think", ["8"]),
        ("<answer></answer>", "think", []),
        ("", "no_think", []),
        (r"<think>a</think>\boxed{8}", None, ["8"]),
    ],
)
def test_final_answers(response, mode, answers):
    assert final_answers(response, mode) == answers


def test_sections_are_strict():
    assert sections(GOOD).think == "3+5=8"
    assert sections("plain").form == "plain"
    assert sections("<answer>4</answer>").form == "direct"
    assert sections("x <answer>4</answer>").form == "broken"
    assert answer_text("<answer>unclosed", "think") == "unclosed"


@pytest.mark.parametrize(
    ("response", "mode", "value"),
    [
        (GOOD, "think", 1.0),
        ("  \n" + GOOD + "\n<|im_end|>", "think", 1.0),
        (r"<think>a</think> <answer>so \boxed{8}.</answer>", "think", 1.0),
        (r"<think> </think><answer>\boxed{8}</answer>", "think", 0.0),  # empty think
        (r"<think></think><answer>\boxed{8}</answer>", "auto_think", 0.0),
        (r"<think>a</think><answer>8</answer>", "think", 0.0),
        (r"<think>a</think><answer>\boxed{}</answer>", "think", 0.0),
        (r"<think>a</think><answer>\boxed{8</answer>", "think", 0.0),
        (r"<think>a</think>\boxed{8}", "think", 0.0),
        (r"<answer>\boxed{8}</answer><think>a</think>", "think", 0.0),
        (r"<think>a</think><think>b</think><answer>\boxed{8}</answer>", "think", 0.0),
        (r"<think>a<answer>\boxed{8}</answer></think>", "think", 0.0),
        (GOOD + GOOD, "think", 0.0),
        (GOOD + " and more", "think", 0.0),
        ("Sure! " + GOOD, "think", 0.0),
        (GOOD.replace("</think>", "</think> so "), "think", 0.0),
        (r"<THINK>a</THINK><answer>\boxed{8}</answer>", "think", 0.0),
        (r"<answer>\boxed{8}</answer>", "think", 0.0),
        (r"<answer>\boxed{8}</answer>", "auto_think", 1.0),
        ("<answer> </answer>", "auto_think", 0.0),
        (GOOD, "auto_think", 1.0),
        ("8", "auto_think", 0.0),
        ("8", "no_think", 1.0),
        ("", "no_think", 0.0),
        ("<|im_end|>", "no_think", 0.0),
        (GOOD, "no_think", 0.0),
        ("8</think>", "no_think", 0.0),
        ("", "think", 0.0),
    ],
)
def test_format(response, mode, value):
    result = format_rule(response, {"mode": mode})
    assert result.value == value
    assert bool(result.details) == (value == 0.0)


CALL = '<tool_call>{"name": "crop", "arguments": {}}</tool_call><tool_response>ok</tool_response>'


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (GOOD, 1.0),
        ("<think>look</think>" + CALL + GOOD, 1.0),
        ("<think>look</think>" + CALL + "<think>again</think>\n" + CALL + GOOD, 1.0),
        (CALL + GOOD, 0.0),  # a call without a thought
        ("<think>a</think>" + CALL, 0.0),
        ("<think>a</think><tool_call>crop()</tool_call><tool_response>k</tool_response>" + GOOD, 0),
        ("<think>a</think><tool_call>{}</tool_call><tool_response>k</tool_response>" + GOOD, 0.0),
        ("<think>a</think>" + CALL.partition("<tool_response>")[0] + GOOD, 0.0),
        (GOOD + " " * 100 + "trailing", 0.0),
        ("<think>a<tool_call></think>" + GOOD, 0.0),
    ],
)
def test_agentic(response, value):
    assert format_rule(response, {}, mode="agentic").value == value


def test_unknown_mode_is_an_error():
    assert format_rule("8", {"mode": "deep"}).status == "error"


def test_ten_megabytes_take_linear_time():
    import time

    for hostile in (r"\boxed{" * 1_500_000, "{" * 10_000_000, "<answer>" * 1_250_000):
        started = time.process_time()
        format_rule(hostile, {"mode": "think"})
        final_answers(hostile, "think")
        assert time.process_time() - started < 4.0


def test_a_box_is_not_asked_for_where_the_answer_is_something_else():
    sample = {"mode": "think"}
    response = '<think>t</think><answer>{"answer": 7}</answer>'
    assert format_rule(response, sample).value == 0.0
    assert format_rule(response, sample, boxed=False).value == 1.0
    assert format_rule("<think>t</think><answer> </answer>", sample, boxed=False).value == 0.0
    agentic = '<think>t</think><tool_call>{"name": "search"}</tool_call>'
    agentic += "<tool_response>r</tool_response><think>t</think><answer>7</answer>"
    assert format_rule(agentic, {}, mode="agentic").value == 0.0
    assert format_rule(agentic, {}, mode="agentic", boxed=False).value == 1.0


def test_unboxed_text_is_what_a_reader_sees():
    assert unboxed("sun \\boxed{7} dog") == "sun 7 dog"
    assert unboxed("\\boxed{\\frac{1}{2}} or \\boxed{x}") == "\\frac{1}{2} or x"
    assert unboxed("\\boxed{7") == "\\boxed{7"
    assert unboxed("") == ""
