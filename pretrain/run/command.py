"""The command line shared by all packages: `python -m PACKAGE [COMMAND] key=value …`.

Configuration is composed by Hydra from `conf/` beside the packages on top of a structured
dataclass, so every key has a type and a default, and an unknown key is an error. The first word
without `=` chooses the command; `prompt=`, `image=` and `video=` are taken literally, because
Hydra's grammar would trip over the text people put there.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import errno
import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.run.console import console, fail
from pretrain.run.errors import ConfigError, KeyeError

T = TypeVar("T")

CONF = Path(__file__).resolve().parents[2] / "conf"
LITERAL_KEYS = ("prompt", "image", "video")


@dataclass(frozen=True)
class Command:
    """One word of a package's command line."""

    config: str
    """File in conf/, without `.yaml`, that gives the defaults."""
    schema: type
    """Dataclass with every key's type, default and documentation."""
    run: Callable[[Any], int | None]
    """What is called with the composed configuration; its result is the exit code (None: 0)."""
    help: str
    """One line for --help."""


# ------------------------------------------------------------------------------ configuration


def compose(config: str, schema: type[T], overrides: list[str]) -> T:
    """An instance of `schema`: its defaults, then `conf/{config}.yaml`, then `overrides`.

    Raises `ConfigError` naming the key, the value and the nearest valid key.
    """
    literal, plain = _split_literal(overrides)
    name = f"{schema.__module__}.{schema.__qualname__}".replace(".", "_")
    store = ConfigStore.instance()
    store.store(name=f"schema_{name}", node=schema)
    defaults = [f"schema_{name}", config] if (CONF / f"{config}.yaml").exists() else []
    store.store(name=f"main_{name}", node={"defaults": [*defaults, "_self_"]})
    if not defaults:
        raise ConfigError(f"no configuration {config}.yaml in {CONF}.")
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            merged = hydra_compose(f"main_{name}", overrides=plain)
        typed = OmegaConf.merge(OmegaConf.structured(schema), merged)
        for key, value in literal.items():
            OmegaConf.update(typed, key, value)
        return OmegaConf.to_object(typed)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise _config_error(error, schema, overrides) from error
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__
        raise ConfigError(f"{error} (configuration {config})") from error


def _split_literal(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    literal: dict[str, Any] = {}
    plain = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in LITERAL_KEYS:
            literal.setdefault(key, []).append(value)
        else:
            plain.append(override)
    return {key: values[0] if len(values) == 1 else values for key, values in literal.items()}, plain


def config_keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass schema, nested dataclasses included."""
    keys = []
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key = f"{prefix}{field.name}"
        keys.append(key)
        kind = hints[field.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            keys += config_keys(kind, f"{key}.")
    return keys


def _config_error(error: Exception, schema: type, overrides: list[str]) -> ConfigError:
    """Say which key and value Hydra or OmegaConf refused, and what was probably meant."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    first_line = str(cause or error).strip().splitlines()[0]
    key = getattr(cause, "full_key", None) or ""
    given = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), None)
    where = f"{given!r} on the command line" if given else f"key {key!r}"
    if not key:
        return ConfigError(f"the configuration cannot be composed: {str(error).strip()}")
    if key not in config_keys(schema):
        near = difflib.get_close_matches(key, config_keys(schema), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        return ConfigError(f"unknown configuration {where}.{hint} --help lists all keys.")
    return ConfigError(f"bad configuration value: {where}: {first_line}")


def config_dict(cfg: Any) -> Any:
    """`cfg` (a dataclass, or anything made of them) as plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        return {f.name: config_dict(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}
    if isinstance(cfg, Mapping):
        return {str(key): config_dict(value) for key, value in cfg.items()}
    if isinstance(cfg, list | tuple | set):
        return [config_dict(value) for value in (sorted(cfg) if isinstance(cfg, set) else cfg)]
    if isinstance(cfg, enum.Enum):
        return cfg.name
    return str(cfg) if isinstance(cfg, Path) else cfg


def config_hash(cfg: Any) -> str:
    """16 hex digits that identify a configuration's content.

    Fields declared with `field(metadata={"identity": False})` do not count: those that say how
    to run (W&B, number of engines), not what comes out.
    """
    content = json.dumps(config_dict(_identity(cfg)), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _identity(cfg: Any) -> Any:
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        fields = [f for f in dataclasses.fields(cfg) if f.metadata.get("identity", True)]
        return {f.name: _identity(getattr(cfg, f.name)) for f in fields}
    if isinstance(cfg, Mapping):
        return {key: _identity(value) for key, value in cfg.items()}
    return [_identity(value) for value in cfg] if isinstance(cfg, list | tuple) else cfg


# ----------------------------------------------------------------------------------- main


def main(
    package: str,
    commands: dict[str, Command],
    default: str | None,
    argv: list[str] | None = None,
) -> int:
    """Run `python -m package`'s command line and return the exit code.

    0: done; 2: a `KeyeError`, printed without a traceback; 1: a defect, with its traceback;
    130: interrupted from the keyboard.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        name, overrides = _choose(package, commands, default, words)
        if name is None or {"--help", "-h"} & set(overrides):
            print_help(package, commands, default, name)
            return 0
        command = commands[name]
        return command.run(compose(command.config, command.schema, overrides)) or 0
    except KeyeError as error:
        # Ray re-raises an actor's KeyeError as a class of its own with the original in .cause.
        fail(str(getattr(error, "cause", error)))
        return 2
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last complete state.")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fail(f"the disk is full ({error}). Free some space and run the same command again.")
            return 2
        traceback.print_exc()
        fail(
            f"python -m {package} stopped on an unexpected {type(error).__name__}: {error}. This "
            "is a defect of the program, not of your input; what was complete is kept, and the "
            "same command goes on from there."
        )
        return 1


def _choose(
    package: str, commands: dict[str, Command], default: str | None, words: list[str]
) -> tuple[str | None, list[str]]:
    """The command's name (None: only help can be shown) and the words left for it."""
    chosen = [w for w in words if "=" not in w and not w.startswith(("-", "~"))]
    if not chosen:
        if default is None and not {"--help", "-h"} & set(words):
            raise KeyeError(f"python -m {package} needs a command: {', '.join(commands)}.")
        return (None if {"--help", "-h"} & set(words) else default), words
    name = chosen[0]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise KeyeError(
            f"python -m {package} has no command {name!r}.{hint} It has: {', '.join(commands)}."
        )
    if len(chosen) > 1:
        raise KeyeError(f"{chosen[1]!r} is neither key=value nor an option of {name}.")
    words.remove(name)
    return name, words


def print_help(
    package: str, commands: dict[str, Command], default: str | None, name: str | None
) -> None:
    """Print the commands, or one command's keys with their defaults."""
    out = console.out
    if name is None:
        out(f"python -m {package} [COMMAND] key=value …\n")
        for word, command in commands.items():
            out(f"  {word:<14} {command.help}{' (default)' if word == default else ''}")
        out(f"\npython -m {package} COMMAND --help lists the command's keys.")
        return
    command = commands[name]
    out(f"python -m {package} {name} key=value …\n\n{command.help}\n")
    out(OmegaConf.to_yaml(OmegaConf.structured(compose(command.config, command.schema, []))))
