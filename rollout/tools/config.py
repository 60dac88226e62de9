"""Settings of tool use.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field
from typing import Any

from pretrain.run.errors import ConfigError

PROMPTS = ("json", "names", "none")


@dataclass
class ToolConfig:
    """Which tools a policy may call, and how far it may go with them."""

    names: list[str] = field(default_factory=list)
    """Tools: `crop`, `search`, the name of an installed plug-in (entry points of the group
    `keye_rl.tools`), `package.module:attribute` or `path/to/file.py:attribute`. Empty: responses
    have one turn, and the column `tools` of a row is not read."""
    for_all: bool = True
    """Whether a row without the column `tools` may call all of them; false: only rows that name
    tools may, and the others are asked as if there were none."""
    documents: str = ""
    """What `search` searches: a .jsonl file (rows with `text`, optionally `id` and `title`), or a
    folder of .jsonl, .txt and .md files."""
    results: int = 3
    """Passages that one search returns."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments for a plug-in's class or factory, by the tool's name in `names`:
    `{"my_tool.py:Ruler": {"unit": "cm"}}`."""
    prompt: str = "json"
    """How the policy is told of its tools, in the system message: `json` (signatures, in the form
    that Qwen's chat template writes), `names` (one short line, for small models that were trained
    on the tools), or `none`."""
    max_turns: int = 4
    """The policy's turns in one response; a call in the last one is not answered."""
    max_calls: int = 4
    """Calls that are executed in one turn; further ones get an error text."""
    max_result_tokens: int = 512
    """Longest text of one result, in tokens; the rest is cut off. Images are not counted."""
    max_image_tokens: int = 256
    """Visual tokens of 28×28 pixels that an image from `crop` may have; it is zoomed less if need
    be."""
    call_seconds: float = field(default=10.0, metadata={"identity": False})
    """Deadline of one call; the policy is told when it is missed."""
    workers: int = field(default=8, metadata={"identity": False})
    """Calls that run at the same time."""

    def __post_init__(self) -> None:
        if self.prompt not in PROMPTS:
            raise ConfigError(f"tools.prompt={self.prompt!r} is not one of {', '.join(PROMPTS)}")
        at_least = ("results", "max_calls", "max_result_tokens", "max_image_tokens", "workers")
        for key in at_least:
            if getattr(self, key) < 1:
                raise ConfigError(f"tools.{key}={getattr(self, key)} must be at least 1")
        if self.max_turns < 2:
            raise ConfigError(
                f"tools.max_turns={self.max_turns} leaves no turn after a call; set at least 2, or "
                "tools.names=[] for single-turn responses"
            )
        if not self.call_seconds > 0:
            raise ConfigError(f"tools.call_seconds={self.call_seconds} must be above 0")
        if len(set(self.names)) < len(self.names):
            raise ConfigError(f"tools.names={list(self.names)} names a tool twice")
        stray = sorted(set(self.options) - set(self.names))
        if stray:
            raise ConfigError(
                f"tools.options has {stray[0]!r}, which is not among tools.names={list(self.names)}"
            )
