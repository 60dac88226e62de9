"""Tools that a policy may call in the middle of a response, and the multi-turn loop around them.

A tool is opened by name from a `ToolConfig` (`open_tools`); `ToolLoop` (rollout.tools.loop) lets
engines generate with them. `DocumentIndex` is the search tool's index, for whoever needs passages
without a policy that asks for them.
"""

from rollout.tools.config import ToolConfig
from rollout.tools.documents import DocumentIndex, Passage
from rollout.tools.registry import open_tools
from rollout.tools.tool import Tool, ToolContext, ToolError, ToolResult

__all__ = [
    "DocumentIndex",
    "Passage",
    "Tool",
    "ToolConfig",
    "ToolContext",
    "ToolError",
    "ToolResult",
    "open_tools",
]
