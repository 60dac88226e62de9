"""Plain output: few lines for long loops, tables a person can read."""

from __future__ import annotations

import io

from rich.console import Console

from pretrain.run import console as subject


def test_long_loop_prints_few_plain_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(subject.time, "monotonic", lambda: now[0])
    seen = []
    for item in subject.progress(range(1000), "vit"):
        now[0] += 0.1  # 100 s in all: a line every ten seconds, and the closing one
        seen.append(item)
    lines = capsys.readouterr().out.splitlines()
    assert seen == list(range(1000))
    assert 10 <= len(lines) <= 11
    assert lines[-1] == "vit: 1000/1000 in 100 s"


def test_closing_line_carries_the_note_and_no_markup_is_read(capsys):
    with subject.Progress("gspo", total=2) as bar:
        bar.advance(1, "reward [0.57]")
        bar.advance(1)
    assert capsys.readouterr().out.strip() == "gspo: 2/2 in 0 s  reward [0.57]"


def test_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(subject, "console", terminal)
    assert list(subject.progress("abc", "align")) == ["a", "b", "c"]
    assert "align" in screen.getvalue() and "3/3" in screen.getvalue()


def test_table_rounds_and_keeps_brackets(capsys):
    subject.table("accuracy", ["task", "share"], [["sum [2]", 0.71234], ["max", 1.0]])
    text = capsys.readouterr().out
    assert "sum [2]" in text and "0.712" in text and "1.000" in text
