"""From a tool's name in the configuration to a `Tool`.

A tool is found by a built-in name, by the name under which an installed package announces it (entry
points of the group `keye_rl.tools`), as `package.module:attribute`, or as
`path/to/file.py:attribute`. The attribute is a class or a factory that returns a tool when it is
called with the tool's `options`, a tool itself, or a plain function (see `FunctionTool`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from pretrain.run.errors import ConfigError
from rollout.tools.config import ToolConfig
from rollout.tools.crop import CropTool
from rollout.tools.documents import DocumentIndex
from rollout.tools.search import SearchTool
from rollout.tools.tool import FunctionTool, Tool

GROUP = "keye_rl.tools"


def _search(cfg: ToolConfig) -> Tool:
    if not cfg.documents:
        raise ConfigError(
            "the tool search needs documents: set tools.documents to a .jsonl file or a folder"
        )
    return SearchTool(DocumentIndex.open(cfg.documents), cfg.results)


BUILTIN: dict[str, Callable[[ToolConfig], Tool]] = {
    "crop": lambda cfg: CropTool(cfg.max_image_tokens),
    "search": _search,
}


def open_tools(cfg: ToolConfig) -> dict[str, Tool]:
    """The configured tools by the name the policy calls them.

    Raises `ConfigError` for a name that isn't found, a plug-in that can't be loaded, and two tools
    with the same name.
    """
    tools: dict[str, Tool] = {}
    for name in cfg.names:
        built_in = BUILTIN.get(name)
        if built_in is not None and name in cfg.options:
            raise ConfigError(
                f"tools.options.{name}: the built-in tools are set by tools.documents, "
                "tools.results and tools.max_image_tokens"
            )
        tool = built_in(cfg) if built_in else _plugin(name, cfg.options.get(name))
        if tool.name in tools:
            raise ConfigError(f"tools.names: two tools are called {tool.name!r}")
        tools[tool.name] = tool
    return tools


def _plugin(name: str, options: Any) -> Tool:
    installed = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    found = _import(installed.get(name, name), name, [*BUILTIN, *installed])
    if isinstance(found, Tool) and not inspect.isclass(found):
        made: Any = found
    elif inspect.isfunction(found) and options is None and not _is_factory(found):
        return FunctionTool(found)
    elif callable(found):
        try:
            made = found(**(options or {}))
        except TypeError as error:
            raise ConfigError(f"tool {name!r}: tools.options don't fit it: {error}") from error
    else:
        raise ConfigError(f"tool {name!r} is a {type(found).__name__}, not a tool")
    missing = [
        key
        for key in ("name", "description", "parameters", "gives_images", "call")
        if not hasattr(made, key)
    ]
    if missing:
        raise ConfigError(
            f"tool {name!r} gives a {type(made).__name__} without {', '.join(missing)}; see "
            "rollout/tools/tool.py for what a tool has"
        )
    try:
        jsonschema.Draft202012Validator.check_schema(made.parameters)
    except jsonschema.exceptions.SchemaError as error:
        raise ConfigError(
            f"tool {name!r}: its `parameters` are no JSON schema: {error.message}"
        ) from error
    return made


def _is_factory(function: Callable[..., Any]) -> bool:
    """Whether a function is annotated to return a tool instead of being one."""
    returned = inspect.signature(function).return_annotation
    return returned is Tool or getattr(returned, "__name__", returned) == "Tool"


def _import(target: str, name: str, known: list[str]) -> Any:
    where, _, attribute = target.rpartition(":")
    if not where:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"tools.names: no tool {name!r}{hint} There are {', '.join(known)}, and "
            "path/to/file.py:attribute or package.module:attribute"
        )
    try:
        module = _file(where) if where.endswith(".py") else importlib.import_module(where)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"tool {name!r}: loading {where} failed: {error!r}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"tool {name!r}: {where} has no {attribute!r}")
    return getattr(module, attribute)


def _file(path: str) -> Any:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"tools.names: there is no file {file}")
    module_name = f"tool_plugin_{file.stem}_{zlib.crc32(str(file).encode()):x}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None  # a .py suffix always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
