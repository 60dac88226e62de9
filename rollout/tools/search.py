"""The tool `search`: the best passages of a local document index."""

from __future__ import annotations

from typing import Any

from rollout.tools.documents import DocumentIndex
from rollout.tools.tool import ToolContext, ToolError, ToolResult


class SearchTool:
    """BM25 search in `index`; each result is a line `[n] title: text`."""

    name = "search"
    description = "Searches the documents and returns the passages that fit the query best."
    gives_images = False

    def __init__(self, index: DocumentIndex, results: int = 3) -> None:
        self.index = index
        self.results = results
        self.parameters: dict[str, Any] = {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "Words to look for."},
            },
            "required": ["query"],
            "additionalProperties": False,
        }

    def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """The best passages, or a sentence that says that none was found."""
        query = arguments["query"]
        if not query.strip():
            raise ToolError("the query is empty")
        found = self.index.search(query, self.results)
        if not found:
            return ToolResult("nothing found")
        lines = [
            f"[{number}] {passage.title + ': ' if passage.title else ''}{passage.text}"
            for number, passage in enumerate(found, 1)
        ]
        return ToolResult("\n".join(lines))
