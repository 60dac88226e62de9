"""How a policy is told which tools it has: a system message, as Qwen's chat template writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rollout.tools.tool import Tool

_JSON = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def signature(tool: Tool) -> dict[str, Any]:
    """A tool's signature in the OpenAI/Hugging Face form."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    }


def with_tools(
    messages: list[dict[str, Any]], tools: Sequence[Tool], style: str
) -> list[dict[str, Any]]:
    """The messages with the tools in their system message; the same list if there are none.

    `style`: see `ToolConfig.prompt`.
    """
    if not tools or style == "none":
        return messages
    if style == "names":
        text = f"tools: {' '.join(tool.name for tool in tools)}"
    else:
        lines = [json.dumps(signature(tool), ensure_ascii=False) for tool in tools]
        text = _JSON.format(signatures="\n".join(lines))
    first, *rest = messages
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    content = first["content"]
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    return [{"role": "system", "content": f"{content}\n\n{text}"}, *rest]
