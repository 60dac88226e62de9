"""Finding tools by name, and what the built-in ones do."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pretrain.run.errors import ConfigError
from rollout.tools import ToolConfig, ToolContext, ToolError, ToolResult, open_tools
from rollout.tools.crop import CropTool, zoomed

PLUGIN = '''
from rollout.tools import Tool, ToolResult

def add(first: int, second: int) -> str:
    """Adds two numbers.

    Args:
        first: One number.
        second: Another one.
    """
    return str(first + second)

def who(greeting: str, context) -> ToolResult:
    """Says which sample asks.

    Args:
        greeting: In front of the name.
    """
    return ToolResult(f"{greeting} {context.sample_id}")

def bare(x):
    return x

class Ruler:
    name, description, gives_images = "ruler", "Measures.", False
    parameters = {"type": "object"}

    def __init__(self, unit="cm"):
        self.unit = unit

    def call(self, arguments, context):
        return ToolResult(self.unit)

def make(unit: str) -> Tool:
    return Ruler(unit)

ready = Ruler("inch")

class Nothing:
    name = "nothing"

class Crooked(Ruler):
    parameters = {"type": "thing"}
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(PLUGIN)
    return str(path)


def test_functions_of_a_file_become_tools(plugin):
    tools = open_tools(ToolConfig(names=[f"{plugin}:add", f"{plugin}:who"]))
    add, who = tools["add"], tools["who"]
    assert add.description == "Adds two numbers."
    assert add.parameters["properties"]["first"] == {
        "type": "integer",
        "description": "One number.",
    }
    assert add.parameters["required"] == ["first", "second"]
    assert add.call({"first": 2, "second": 3}, ToolContext()) == ToolResult("5")
    assert list(who.parameters["properties"]) == ["greeting"]
    assert who.call({"greeting": "hi"}, ToolContext("s1")).text == "hi s1"


def test_classes_factories_and_instances(plugin):
    names = [f"{plugin}:Ruler", f"{plugin}:make", f"{plugin}:ready"]
    for name, options, unit in [
        (names[0], {}, "cm"),
        (names[0], {names[0]: {"unit": "mm"}}, "mm"),
        (names[1], {names[1]: {"unit": "km"}}, "km"),
        (names[2], {}, "inch"),
    ]:
        [tool] = open_tools(ToolConfig(names=[name], options=options)).values()
        assert tool.call({}, ToolContext()).text == unit


def test_what_cannot_be_opened_is_named(plugin, tmp_path):
    for name, message in [
        ("serch", "no tool 'serch'; did you mean 'search'"),
        ("search", "set tools.documents"),
        (f"{plugin}:missing", "has no 'missing'"),
        (f"{tmp_path}/none.py:x", "there is no file"),
        ("no_such_package.x:y", "loading no_such_package.x failed"),
        (f"{plugin}:bare", "needs a docstring"),
        (f"{plugin}:Crooked", "no JSON schema: 'thing' is not valid"),
        (f"{plugin}:Nothing", "without description, parameters, gives_images, call"),
    ]:
        with pytest.raises(ConfigError, match=message):
            open_tools(ToolConfig(names=[name]))
    with pytest.raises(ConfigError, match="two tools are called 'ruler'"):
        open_tools(ToolConfig(names=[f"{plugin}:Ruler", f"{plugin}:ready"]))
    wrong = ToolConfig(names=[f"{plugin}:Ruler"], options={f"{plugin}:Ruler": {"colour": 1}})
    with pytest.raises(ConfigError, match=r"tools\.options don't fit it"):
        open_tools(wrong)


def test_a_configuration_that_makes_no_sense():
    for values, message in [
        ({"max_turns": 1}, "no turn after a call"),
        ({"call_seconds": 0}, "call_seconds=0"),
        ({"prompt": "xml"}, "json, names, none"),
        ({"names": ["crop", "crop"]}, "names a tool twice"),
        ({"options": {"crop": {}}}, "not among tools.names"),
        ({"results": 0}, "results=0 must be at least 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ToolConfig(**values)


@pytest.fixture
def picture():
    """Every pixel says where it is: red = column, green = row."""
    rows, columns = np.mgrid[0:100, 0:200]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8))


def crop(picture, **arguments):
    return CropTool().call(arguments, ToolContext("s", [picture])).image


def test_crop_cuts_the_box_in_thousandths(picture):
    part = np.asarray(crop(picture, box=[100, 500, 199, 999], zoom=1))
    assert part.shape == (50, 20, 3)
    assert part[0, 0].tolist() == [20, 50, 0]
    assert part[-1, -1].tolist() == [39, 99, 0]
    assert crop(picture, box=[0, 0, 999, 999], zoom=1).size == picture.size
    assert crop(picture, box=[500, 500, 501, 501], zoom=1).size == (1, 1)


def test_zoom_enlarges_up_to_the_token_limit(picture):
    assert crop(picture, box=[100, 500, 199, 999]).size == (40, 100)
    assert crop(picture, box=[100, 500, 199, 999], zoom=4).size == (80, 200)
    assert zoomed((200, 100), 8, max_tokens=50) == (280, 140)
    width, height = zoomed((4000, 3000), 1, max_tokens=64)
    assert width * height <= 64 * 28 * 28 and width / height == pytest.approx(4 / 3, rel=0.01)


def test_a_box_or_image_that_is_not_there_is_the_policys_error(picture):
    with pytest.raises(ToolError, match="no image 2, the conversation has 1"):
        crop(picture, box=[0, 0, 9, 9], image=2)
    with pytest.raises(ToolError, match="is empty"):
        crop(picture, box=[500, 0, 400, 9])
    long = Image.new("RGB", (4000, 10))
    with pytest.raises(ToolError, match="too narrow"):
        crop(long, box=[0, 0, 999, 1])
