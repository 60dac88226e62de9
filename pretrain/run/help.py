"""Documentation of configuration fields: the string that stands under each field of a dataclass.

Python drops such strings, so they are read from the source; the documentation of a key and its
declaration thereby stay in one place.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from typing import get_args, get_type_hints


def field_docs(schema: type, prefix: str = "") -> dict[str, str]:
    """`{dotted key: documentation}` of a dataclass, nested dataclasses included."""
    docs: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if dataclasses.is_dataclass(owner):
            own = _own_docs(owner)  # type: ignore[arg-type]
            docs |= {f"{prefix}{name}": text for name, text in own.items()}
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        kind = hints[field.name]
        for option in (kind, *get_args(kind)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                docs |= field_docs(option, f"{prefix}{field.name}.")
    return docs


def _own_docs(schema: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(schema))
    except (OSError, TypeError):  # declared where there is no source file
        return {}
    definition = ast.parse(source).body[0]
    docs = {}
    body = getattr(definition, "body", [])
    for field, text in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs
