"""From a rule's name in a sample to a function that can be called on responses.

A rule is found by
- a short name: a built-in one (`rewards/rules/__init__.py`) or one that an installed package
  announces under the entry-point group `keye_rl.rewards`;
- an import path, `package.module:function` or `package.module.function` (Hydra's `_target_`); a
  class is created with the rule's arguments and its instance called;
- `path/to/file.py:function`.

Its parameters tell how it is called:
- `rule(response, sample, **args)`: ours; `rule(responses, samples, **args)` for a whole group;
- `f(completions, prompts=…, **columns) -> list`: written for TRL;
- `compute_score(data_source, solution_str, ground_truth, extra_info=None)`: written for verl.
Any of them may be `async`. TRL functions get plain strings; one that indexes them as chat messages
(`completion[0]["content"]`) gets messages instead.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

GROUP = "keye_rl.rewards"
Style = Literal["native", "native_batch", "trl", "verl"]


class RuleError(Exception):
    """A rule cannot be found, loaded, or called; the message says which and what to do."""


def rule(
    *, verifier: bool = True, deadline_s: float | None = None
) -> Callable[[Callable], Callable]:
    """Marks a rule: `verifier=False` for shaping rules (format, length, …).

    A verifier judges whether the answer is right: it decides which responses count as correct
    (hint sampling, rejection sampling, pass@k). Unmarked functions count as verifiers.
    `deadline_s`: the rule's own deadline instead of the pool's, if it needs longer by nature.
    """

    def mark(function: Callable) -> Callable:
        function.verifier = verifier  # type: ignore[attr-defined]
        function.deadline_s = deadline_s  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(slots=True)
class Rule:
    """A loaded rule. `call` is the plug-in's own function, or the class whose instances are."""

    name: str
    call: Callable
    style: Style
    is_async: bool
    verifier: bool
    is_class: bool = False
    deadline_s: float | None = None

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.call) or ""

    @property
    def is_batched(self) -> bool:
        return self.style in ("native_batch", "trl")

    def arguments(self) -> dict[str, Any]:
        """The arguments a sample's rewards entry may set, with defaults (`...` = required)."""
        taken = set() if self.is_class else _TAKEN[self.style]
        parameters = inspect.signature(self.call).parameters.values()
        return {
            p.name: (... if p.default is inspect.Parameter.empty else p.default)
            for p in parameters
            if p.name not in taken
            and p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        }


_TAKEN: dict[str, set[str]] = {
    "native": {"response", "sample"},
    "native_batch": {"responses", "samples"},
    "trl": {"prompts", "completions", "completion_ids", "trainer_state"},
    "verl": {"data_source", "solution_str", "ground_truth", "extra_info"},
}


@functools.cache
def installed() -> dict[str, str]:
    """Short name → import path: built-in rules, then those of installed packages."""
    from rewards.rules import BUILTIN

    found = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    return {**found, **BUILTIN}


def load(name: str) -> Rule:
    """Finds and imports a rule; RuleError names the nearest known name or the import error."""
    target = installed().get(name, name)
    found = _import(target, name)
    if not callable(found):
        raise RuleError(f"rule {name!r}: {target} is a {type(found).__name__}, not a function")
    is_class = inspect.isclass(found)
    body = found.__call__ if is_class else found
    if not inspect.isroutine(body):  # an instance with __call__, a partial
        body = type(found).__call__ if not hasattr(found, "func") else found.func
    return Rule(
        name=name,
        call=found,
        style=_style(body, name),
        is_async=inspect.iscoroutinefunction(body),
        verifier=getattr(found, "verifier", True),
        is_class=is_class,
        deadline_s=getattr(found, "deadline_s", None),
    )


def _import(target: str, name: str) -> Any:
    if ".py:" in target:
        path, _, attribute = target.rpartition(":")
        return _attribute(_import_file(path, name), attribute, name, path)
    module_name, separator, attribute = target.rpartition(":")
    if not separator:
        module_name, separator, attribute = target.rpartition(".")
    if not separator:
        near = difflib.get_close_matches(name, installed(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RuleError(
            f"no reward rule named {name!r}{hint} `python -m rewards list` shows all; a rule in a "
            "file is written path/to/file.py:function"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RuleError(f"rule {name!r}: importing {module_name} failed: {error!r}") from error
    return _attribute(module, attribute, name, module_name)


def _import_file(path: str, name: str) -> Any:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise RuleError(f"rule {name!r}: there is no file {file}")
    module_name = f"reward_plugin_{file.stem}_{zlib.crc32(str(file).encode()):x}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None  # a .py suffix always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look the module up by name
    sys.path.insert(0, str(file.parent))  # a plug-in may import its neighbours
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise RuleError(f"rule {name!r}: running {file} failed: {error!r}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _attribute(module: Any, attribute: str, name: str, where: str) -> Any:
    try:
        return getattr(module, attribute)
    except AttributeError:
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        near = difflib.get_close_matches(attribute, public, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RuleError(f"rule {name!r}: {where} has no {attribute!r}{hint}") from None


def _style(function: Callable, name: str) -> Style:
    try:
        names = set(inspect.signature(function).parameters)
    except (TypeError, ValueError) as error:
        raise RuleError(f"rule {name!r} has no readable signature: {error}") from error
    if {"response", "sample"} <= names:
        return "native"
    if {"responses", "samples"} <= names:
        return "native_batch"
    if "completions" in names:
        return "trl"
    if {"solution_str", "ground_truth"} <= names:
        return "verl"
    raise RuleError(
        f"rule {name!r} takes ({', '.join(sorted(names))}). A rule is one of "
        "rule(response, sample, **args), rule(responses, samples, **args), "
        "f(completions, **columns) as for TRL, "
        "or compute_score(data_source, solution_str, ground_truth, extra_info) as for verl"
    )
