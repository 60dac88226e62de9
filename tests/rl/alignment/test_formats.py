"""Formats: every form is asked for, written and checked; programs are run; tools must be called."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.data.render import query
from pretrain.data.sample import SampleError
from pretrain.run.command import compose
from pretrain.run.errors import ConfigError
from rewards.sandbox.client import SandboxError
from rl.alignment.config import FORMAT_KINDS, AlignmentConfig, FormatConfig
from rl.alignment.examples import AlignmentExamples, written
from rl.alignment.formats import FORMS, with_format
from rl.alignment.marks import marks
from rl.alignment.sources import Source
from rl.alignment.stages import check
from rl.config import RlConfig
from rollout.tools import ToolConfig
from tests.rl.alignment.samples import rng, sample


def of(kind: str, **more: Any) -> AlignmentConfig:
    return AlignmentConfig(formats=FormatConfig(weight=1.0, kinds={kind: 1.0}, **more))


def test_formats_come_in_all_kinds_and_modes(prompts):
    cfg = AlignmentConfig(formats=FormatConfig(weight=1.0))
    seen = {(s.extra["alignment"]["kind"], s.mode) for s in prompts("formats", 200, cfg)}
    assert {kind for kind, _ in seen} == {"plain", *FORMS} and len(seen) == 21


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("json", '{"answer": 10}', '{"answer": 10'),
        ("json", '{"answer": "10"}', '{"answer": 10, "more": 1}'),
        ("json_code", '```json\n{"answer": 10}\n```', '{"answer": 10}'),
        ("python", "```python\nprint(10)\n```", "print(10)"),
        ("python", "```py\nprint('10')\n```", "```\nprint(10)\n```"),
        ("list", "- \\boxed{10}", "\\boxed{10}"),
        ("heading", "# sum\n\\boxed{10}", "### sum\n\\boxed{10}"),
        ("table", "| sum |\n| - |\n| \\boxed{10} |", "| sum |\n| - |\n| \\boxed{10} | 1 |"),
    ],
)
def test_content_is_checked_beside_structure_and_answer(kind, good, bad, judge_reply):
    cfg = AlignmentConfig(formats=FormatConfig(weight=1.0, kinds={kind: 1.0}))
    prompt = with_format(sample(), rng(), cfg)

    def found(answer: str, think: str = "<think>3+7=10</think>") -> dict[str, float]:
        return marks(judge_reply(prompt, f"{think}<answer>{answer}</answer>"))

    assert found(good) == {
        "format": 1.0, "content": 1.0, "formed": 1.0, "answer": 1.0, "correct": 1.0,
    }  # fmt: skip
    worse = found(bad)
    assert worse["content"] == worse["formed"] == worse["correct"] == 0.0
    assert found(good.replace("10", "11"))["answer"] == 0.0
    assert found(good, think="")["formed"] == 0.0 and found(good, think="")["content"] == 1.0


def test_a_rows_own_schema_is_used(judge_reply):
    schema = {"type": "object", "required": ["total"]}
    cfg = AlignmentConfig(formats=FormatConfig(weight=1.0, kinds={"json": 1.0}))
    prompt = with_format(sample(mode="no_think", extra={"schema": schema}), rng(), cfg)
    assert marks(judge_reply(prompt, '{"total": 3}'))["correct"] == 1.0
    assert marks(judge_reply(prompt, '{"answer": 10}'))["correct"] == 0.0


@pytest.mark.parametrize("kind", FORMAT_KINDS)
@pytest.mark.parametrize("mode", ["think", "no_think", "auto_think"])
def test_every_kind_is_asked_for_and_followed_by_the_written_reply(kind, mode, judge_reply):
    for short in (True, False):
        prompt = with_format(sample(mode=mode), rng(), of(kind, short=short))
        asked = query(prompt).partition("\n")[2]
        if kind != "plain":
            form = FORMS[kind]
            assert asked.startswith(form.short if short else form.full)
            assert ("boxed" in asked) == (
                mode == "no_think" and kind in ("list", "heading", "table")
            )
    text = written(prompt, reason=True)
    assert text is not None
    found = marks(judge_reply(prompt, text))
    assert found["correct"] == found["formed"] == found["answer"] == 1.0, text


@pytest.mark.parametrize(
    ("answer", "rule", "program", "right"),
    [
        ("10", "math", "print(sum(int(d) for d in '37'))", 1.0),
        ("10", "math", "print(20 / 2)", 1.0),
        ("10", "math", "print(11)", 0.0),
        ("10", "math", "print('10 apples')", 0.0),
        ("10", "math", "10", 0.0),
        ("10", "math", "print(10)\nraise SystemExit(1)", 0.0),
        ("10", "math", "print(1)\nprint(0)", 0.0),
        ("0.3", "number", "print(0.1 + 0.2)", 1.0),
        ("1,234", "number", "print(1234)", 1.0),
        ("red", "exact", "print('red')", 1.0),
        ("red", "exact", "print('blue')", 0.0),
    ],
)
def test_a_program_must_print_the_answer(answer, rule, program, right, judge_reply):
    own = sample(answer=answer, rewards=[{"rule": rule}], mode="no_think")
    score = judge_reply(with_format(own, rng(), of("python")), f"```python\n{program}\n```")
    found = marks(score)
    assert found["content"] == 1.0 and found["answer"] == found["correct"] == right
    assert score.total == pytest.approx(1.0 + 0.5 * right)


@pytest.mark.parametrize(
    "answer",
    ["1,234", "-3", ".5", "3.10", "0.00000001", "1234567890123456.7", 'a "b" \\', "größer"],
)
def test_written_programs_print_what_is_hard_to_print(answer: str, judge_reply):
    prompt = with_format(sample(answer=answer, rewards=[{"rule": "exact"}]), rng(), of("python"))
    text = written(prompt, reason=True)
    assert text is not None
    assert marks(judge_reply(prompt, text))["correct"] == 1.0, text


def test_programs_are_asked_for_where_one_text_or_number_is_right():
    boxes = {"answer": "[1,2,3,4]", "rewards": [{"rule": "box_iou"}]}
    other: list[dict[str, Any]] = [
        boxes,
        {"rewards": []},
        {"rewards": [{"rule": "format"}]},
        {"rewards": [{"rule": "number", "relative": 0.05}]},
        {"answer": "\\frac{3}{4}"},
        {"answer": "red", "rewards": [{"rule": "exact"}], "extra": {"answers": ["red", "ruby"]}},
    ]
    for fields in other:
        with pytest.raises(SampleError, match=r"formats\.kinds has python alone"):
            with_format(sample(**fields), rng(), of("python"))
    both = AlignmentConfig(formats=FormatConfig(weight=1.0, kinds={"python": 1.0, "json": 1.0}))
    kinds = {
        with_format(sample(**boxes), rng(k), both).extra["alignment"]["kind"] for k in range(20)
    }
    assert kinds == {"json"}
    unchecked = with_format(sample(), rng(), of("python", answer_weight=0.0))
    assert [entry["rule"] for entry in unchecked.rewards] == ["format", "markdown"]


CALLED = (
    '<think>read</think><tool_call>{"name": "search", "arguments": {}}</tool_call>'
    "<tool_response>\n37\n</tool_response><think>3+7=10</think><answer>ANSWER</answer>"
)
FORMED = {
    "plain": "\\boxed{10}",
    "json": '{"answer": 10}',
    "json_code": '```\n{"answer": 10}\n```',
    "python": "```python\nprint(3 + 7)\n```",
    "list": "* \\boxed{10}",
    "heading": "# sum\n\\boxed{10}",
    "table": "|sum|\n|-|\n|\\boxed{10}|",
}


@pytest.mark.parametrize("kind", FORMAT_KINDS)
def test_rows_with_tools_are_held_to_agentic_thinking_in_every_form(kind: str, judge_reply):
    tools = {"tools": ["search"]}
    prompt = with_format(sample(extra=tools), rng(), of(kind))
    assert [e["rule"] for e in prompt.rewards].count("agentic_format") == 1
    assert "format" not in [e["rule"] for e in prompt.rewards]
    full = CALLED.replace("ANSWER", FORMED[kind])
    assert set(marks(judge_reply(prompt, full)).values()) == {1.0}
    guess = f"<think>3+7=10</think><answer>{FORMED[kind]}</answer>"
    found = marks(judge_reply(prompt, guess))
    assert found["format"] == found["formed"] == found["correct"] == 0.0 and found["answer"] == 1.0
    assert marks(judge_reply(prompt, full.replace("search", "crop")))["format"] == 0.0
    gated = with_format(sample(extra=tools), rng(), of(kind, format_gate=True))
    everything = sum(entry["weight"] for entry in gated.rewards)
    assert judge_reply(gated, full).total == pytest.approx(everything)
    assert judge_reply(gated, guess).total == 0.0
    free = with_format(sample(extra=tools), rng(), of(kind, min_calls=0))
    assert marks(judge_reply(free, guess))["correct"] == 1.0


def test_tools_go_with_think_mode_and_no_tools_with_any():
    for mode in ("no_think", "auto_think"):
        with pytest.raises(SampleError, match=f"`tools` in mode {mode}.*Give it the mode think"):
            with_format(sample(mode=mode, extra={"tools": ["search"]}), rng(), of("plain"))
        none = with_format(sample(mode=mode, extra={"tools": []}), rng(), of("plain"))
        assert none.rewards[0]["rule"] == "format"


def files(tmp_path: Path, *tools: list[str] | None) -> str:
    rows = [
        {"id": str(k), "messages": [{"role": "user", "content": "q"}], "answer": "10",
         "task_type": "x/y", "mode": "think", "rewards": [{"rule": "math"}]}
        | ({"tools": names} if names is not None else {})
        for k, names in enumerate(tools)
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text("no json\n" + "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_of(cfg: AlignmentConfig, tmp_path: Path, *names: str) -> Any:
    parts = {"alignment": cfg, "tools": ToolConfig(names=list(names))}
    parts["reward_model"] = SimpleNamespace(checkpoint="")
    return SimpleNamespace(cfg=SimpleNamespace(**parts), folder=SimpleNamespace(path=tmp_path))


def test_the_tools_of_rows_must_be_configured(tmp_path: Path):
    path = files(tmp_path, None, [], ["crop"], ["crop", "ruler"])
    cfg = of("plain", files=[path], max_bad_share=0.5)
    with pytest.raises(ConfigError, match=r"rows\.jsonl:4 names the tool 'crop', .*=\[crop\]"):
        check(run_of(cfg, tmp_path))
    with pytest.raises(ConfigError, match=r"rows\.jsonl:5 names the tool 'ruler'"):
        check(run_of(cfg, tmp_path, "crop"))
    plugin = tmp_path / "mine.py"
    plugin.write_text('def ruler() -> str:\n    """Measures."""\n    return "3"\n')
    assert check(run_of(cfg, tmp_path, "crop", f"{plugin}:ruler")) is cfg
    rules = [s.rewards[0]["rule"] for s in Source("formats", cfg, tmp_path).first(4)]
    assert sorted(rules) == ["agentic_format", "agentic_format", "format", "format"]
    (tmp_path / "train").mkdir()
    held = of("plain", files=[files(tmp_path / "train", None)], heldout=[path])
    with pytest.raises(ConfigError, match="'crop'"):
        check(run_of(held, tmp_path))
    held.formats.heldout = []
    assert check(run_of(held, tmp_path)) is held


def test_fine_tuning_refuses_rows_with_tools(tmp_path: Path):
    cfg = of("plain", max_bad_share=0.5)
    cfg.instructions.weight = 0.0
    cfg.formats.files = [files(tmp_path, None, ["crop"])]
    with pytest.raises(ConfigError, match=r"rows\.jsonl:3 names the tool 'crop'.*Leave the stage"):
        AlignmentExamples(cfg, ToolConfig(names=["crop"]), tmp_path)
    cfg.formats.files = [files(tmp_path, None, [])]
    AlignmentExamples(cfg, ToolConfig(), tmp_path)


def test_without_a_sandbox_programs_are_refused_before_anything_runs(monkeypatch, tmp_path: Path):
    def refuse() -> None:
        raise SandboxError("this machine cannot isolate code (user namespaces).")

    monkeypatch.setattr("rl.alignment.stages.check_isolation", refuse)
    with pytest.raises(ConfigError, match=r"user namespaces.*formats\.kinds\.python=0"):
        check(run_of(AlignmentConfig(), tmp_path))
    without = ["recipe=alignment", "alignment.formats.kinds.python=0"]
    left_out = compose("rl", RlConfig, without).alignment
    left_out.retrieval.weight = 0.0
    assert check(run_of(left_out, tmp_path)) is left_out
    unchecked = of("python", answer_weight=0.0)
    assert check(run_of(unchecked, tmp_path)) is unchecked
