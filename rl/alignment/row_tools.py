"""Tools that the rows of `alignment.formats.files` name: a run must have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.data.row_files import open_rows
from pretrain.data.sample import SampleError
from pretrain.run.errors import ConfigError
from rl.alignment.config import FormatConfig
from rl.tool_tasks import with_documents
from rollout.tools import ToolConfig, open_tools


def named_tools(files: Sequence[str]) -> dict[str, str]:
    """Tool → `FILE:LINE` of the first row that names it in its column `tools`."""
    found: dict[str, str] = {}
    for rows in map(open_rows, map(Path, files)):
        for index in range(len(rows)):
            try:
                row = rows.row(index)
            except SampleError:  # it will be put into quarantine when the files are read
                continue
            names = row.get("tools") if isinstance(row, dict) else None
            for name in names if isinstance(names, list) else []:
                found.setdefault(str(name), f"{rows.path}:{rows.line(index)}")
    return found


def check_tools(own: FormatConfig, tools: ToolConfig, folder: Path) -> None:
    """`ConfigError` when a row names a tool that isn't configured: its calls would find nothing.

    `folder`: the run's, see `with_documents`.
    """
    named = named_tools([*own.files, *own.heldout])
    missing = named.keys() - set(tools.names)
    if missing and tools.names:  # a plug-in in a file has a name of its own
        missing -= open_tools(with_documents(tools, folder)).keys()
    if missing:
        name = min(missing)
        raise ConfigError(
            f"alignment.formats: {named[name]} names the tool {name!r}, and tools.names="
            f"{list(tools.names)} hasn't got it. Add it there (tools.names=[{name}]), or leave it "
            "out of the row's `tools`"
        )


def refuse_tools(own: FormatConfig) -> None:
    """`ConfigError` when a row names a tool: nobody has written what its calls would be."""
    named = named_tools(own.files)
    if named:
        name, where = next(iter(named.items()))
        raise ConfigError(
            "alignment_sft writes calls for the tiny world's facts alone, and in "
            f"alignment.formats.files {where} names the tool {name!r}. Leave the stage out, or "
            "take the rows with `tools` out of the files"
        )
