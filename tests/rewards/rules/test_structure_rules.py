"""JSON, Markdown, HTML."""

import pytest

from rewards.rules.structure import html, json_schema, markdown, markdown_blocks

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ('{"name": "Ada", "age": 36}', 1.0),
        ('```json\n{"name": "Ada"}\n```', 1.0),
        ('{"name": 3}', 0.0),
        ('{"age": 3}', 0.0),
        ('{"name": "Ada", "age": -1}', 0.0),
        ('{"name": "Ada", "more": 1}', 0.0),
        ('Here it is: {"name": "Ada"}', 0.0),
        ('{"name": "Ada"} {"name": "Ada"}', 0.0),
        ('{"name": "Ada", "name": "Bob"}', 0.0),
        ("{'name': 'Ada'}", 0.0),
        ('{"name": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_schema(given, value):
    sample = {"mode": "no_think", "schema": SCHEMA}
    assert json_schema(given, sample).value == value
    assert json_schema(given, {"mode": "no_think"}, schema=SCHEMA).value == value


def test_json_without_and_with_a_wrong_schema():
    assert json_schema("[1]", {}).value == 1.0
    assert json_schema("[1]", {}, schema={"type": "no such type"}).status == "error"


def test_markdown_blocks():
    text = "# A\n\ntext\nmore\n\n- x\n- y\n\n1. n\n\n> q\n\n```py\n# no heading\n```\n\n"
    text += "|a|b|\n|-|-|\n|1|2|"
    kinds, faults = markdown_blocks(text)
    assert kinds == ["h1", "text", "bullet", "number", "quote", "code", "table"]
    assert faults == []


@pytest.mark.parametrize(
    ("given", "require", "value"),
    [
        ("# Title\n\ntext", ["h1"], 1.0),
        ("# Title\n\ntext", ["heading", "text"], 1.0),
        ("# Title\n\n- a\n- b", ["bullet"], 1.0),
        ("#Title", ["h1"], 0.0),
        ("text - a", ["bullet"], 0.0),
        ("```\ncode", [], 0.0),
        ("# A\n\n### B", [], 0.0),
        ("|a|b|\n|-|-|\n|1|", [], 0.0),
        ("|a|b|\n|-|-|\n|1|2|", ["table"], 1.0),
        ("", [], 0.0),
    ],
)
def test_markdown(given, require, value):
    assert markdown(given, {"mode": "no_think"}, require=require).value == value


@pytest.mark.parametrize(
    ("given", "require", "value"),
    [
        ("```python\nx\n```", ["code:python"], 1.0),
        ("```PY\nx\n```", ["code:python"], 1.0),
        ("~~~ python3\nx\n~~~\n", ["code"], 1.0),
        ("```\nx\n```", ["code"], 1.0),
        ("```\nx\n```", ["code:python"], 0.0),
        ("```json\nx\n```", ["code:python"], 0.0),
        ("```python\nx", ["code:python"], 0.0),
        ("so\n```python\nx\n```", ["code:python"], 0.0),
        ("```python\nx\n```\n```python\nx\n```", ["code:python"], 0.0),
        ("## A\n- x", ["heading", "bullet"], 0.0),
        ("# A\n- x", ["heading", "bullet"], 1.0),
        ("# A\n- x", ["bullet", "heading"], 0.0),
    ],
)
def test_markdown_of_these_blocks_only(given, require, value):
    assert markdown(given, {"mode": "no_think"}, require=require, only=True).value == value
    if value:
        assert markdown(f"{given}\n\ntext", {}, require=require).value == 1.0


def test_markdown_compared_with_a_reference():
    sample = {"mode": "no_think", "answer": "# A\n\n- x\n\ntext"}
    assert markdown("# Other\n\n- y\n\nwords", sample, compare=True).value == 1.0
    assert markdown("# Other\n\nwords", sample, compare=True).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("given", "require", "value"),
    [
        ("<div><p>a</p><br></div>", ["p"], 1.0),
        ("```html\n<p>a</p>\n```", ["p"], 1.0),
        ("<div><p>a</div></p>", [], 0.0),
        ("<div><p>a</p>", [], 0.0),
        ("</div>", [], 0.0),
        ("just text", [], 0.0),
        ("<p>a</p>", ["table"], 0.0),
        ("<div>" * 20_000, [], 0.0),
    ],
)
def test_html(given, require, value):
    assert html(given, {"mode": "no_think"}, require=require).value == value


def test_html_compared_with_a_reference():
    sample = {"mode": "no_think", "answer": "<table><tr><td>1</td></tr></table>"}
    assert html("<table><tr><td>9</td></tr></table>", sample, compare=True).value == 1.0
    assert html("<ul><li>9</li></ul>", sample, compare=True).value == 0.0
