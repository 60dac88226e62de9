"""What a tool is: a name, a JSON schema of its arguments, and a call.

Invariant: whatever a call does, the policy gets a text back. A tool raises `ToolError` for what the
policy did wrong (the message is meant for it); any other exception is the tool's own fault.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from pretrain.run.errors import ConfigError


class ToolError(Exception):
    """A call that can't be carried out; the policy reads the message."""


@dataclass(slots=True)
class ToolResult:
    """What a call gives back."""

    text: str
    image: Image.Image | None = None
    """Shown to the policy after the text, with its number among the conversation's images."""
    error: bool = False
    """Whether the call failed; `text` says why."""


@dataclass(slots=True)
class ToolContext:
    """What a call may look at beside its arguments."""

    sample_id: str = ""
    images: Sequence[Image.Image] = ()
    """The conversation's images so far, in order, at full resolution; results included."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """The sample's columns that its format doesn't know (`Sample.extra`)."""


@runtime_checkable
class Tool(Protocol):
    """Something a policy can call. Calls run in threads, several at a time."""

    name: str
    """What the policy calls it by."""
    description: str
    """One sentence for the policy."""
    parameters: dict[str, Any]
    """JSON schema of the arguments, an object; arguments that don't fit never reach `call`."""
    gives_images: bool
    """Whether results may hold an image: only Keye-VL-1.5 policies can be shown one."""

    def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """Carry out one call; `ToolError` when the arguments make no sense."""


class FunctionTool:
    """A plain function as a tool: `f(argument, …)` or `f(argument, …, context)`.

    Name, description and schema come from its signature, type hints and Google-style docstring, as
    in transformers' chat templates. It returns a text or a `ToolResult`.
    """

    gives_images = False

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises `ConfigError` when an argument lacks a type hint or a description."""
        from transformers.utils.chat_template_utils import (
            DocstringParsingException,
            TypeHintParsingException,
            get_json_schema,
        )

        self.function = function
        self._wants_context = "context" in inspect.signature(function).parameters
        try:
            schema = get_json_schema(_without_context(function))["function"]
        except (DocstringParsingException, TypeHintParsingException) as error:
            raise ConfigError(
                f"tool {function.__name__}: no schema can be made of it: {error} A tool function "
                "needs a docstring, and for every argument a type hint and a line under `Args:`"
            ) from error
        self.name: str = schema["name"]
        self.description: str = schema["description"]
        self.parameters: dict[str, Any] = schema["parameters"]

    def call(self, arguments: dict[str, Any], context: ToolContext) -> ToolResult:
        """The function's text or result."""
        extra = {"context": context} if self._wants_context else {}
        value = self.function(**arguments, **extra)
        return value if isinstance(value, ToolResult) else ToolResult(str(value))


def _without_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same name, docstring and arguments, except `context`: the policy doesn't see it."""

    def described() -> None: ...

    described.__name__, described.__doc__ = function.__name__, function.__doc__
    signature = inspect.signature(function, eval_str=True)
    kept = [p for p in signature.parameters.values() if p.name != "context"]
    described.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    described.__annotations__ = {p.name: p.annotation for p in kept if p.annotation is not p.empty}
    return described
