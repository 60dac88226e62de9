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
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.run.console import console, fail
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.help import field_docs

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
    _refuse_unknown(schema, overrides)
    literal, plain = _split_literal(schema, overrides)
    plain = [_open_mapping(schema, override) for override in plain]
    if not (CONF / f"{config}.yaml").exists():
        raise ConfigError(f"no configuration {config}.yaml in {CONF}.")
    # The schema comes first in the defaults list, so that Hydra checks each later value by it.
    name = f"{schema.__module__}_{schema.__qualname__}_{config}".replace(".", "_")
    store = ConfigStore.instance()
    store.store(name=f"schema_{name}", node=schema)
    store.store(name=f"main_{name}", node={"defaults": [f"schema_{name}", config, "_self_"]})
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            merged = hydra_compose(f"main_{name}", overrides=plain)
        typed = OmegaConf.merge(OmegaConf.structured(schema), merged)
        # Their text may look like an interpolation: OmegaConf only sees that something is there.
        for key, value in literal.items():
            OmegaConf.update(typed, key, "given" if isinstance(value, str) else ["given"])
        made: T = OmegaConf.to_object(typed)
    except (HydraException, OmegaConfBaseException) as error:
        raise _config_error(error, schema, overrides) from error
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__
        raise ConfigError(f"{error} (configuration {config})") from error
    for key, value in literal.items():
        setattr(made, key, value)
    return made


def _split_literal(
    schema: type, overrides: list[str]
) -> tuple[dict[str, str | list[str]], list[str]]:
    """Values of the literal keys (all of them for a list, the last for a text), and the rest.

    A text that is called like a folder of `conf/` is literal too: `model=NAME` of an endpoint isn't
    a choice of conf/model/, for which Hydra would take it.
    """
    fields = schema_fields(schema)
    literal: dict[str, list[str]] = {}
    plain = []
    for override in overrides:
        key, equals, value = override.partition("=")
        named = fields.get(key) is str and (CONF / key).is_dir()
        if equals and (key in LITERAL_KEYS or named):
            literal.setdefault(key, []).append(value)
        else:
            plain.append(override)
    lists = {key for key in literal if list in (fields[key], get_origin(fields[key]))}
    return {key: v if key in lists else v[-1] for key, v in literal.items()}, plain


def schema_fields(schema: type, prefix: str = "") -> dict[str, Any]:
    """Type of every dotted key of a dataclass schema, nested dataclasses included."""
    fields: dict[str, Any] = {}
    hints = get_type_hints(schema)
    for field in dataclasses.fields(schema):
        key = f"{prefix}{field.name}"
        fields[key] = kind = hints[field.name]
        for option in (kind, *get_args(kind)):
            if isinstance(option, type) and dataclasses.is_dataclass(option):
                fields |= schema_fields(option, f"{key}.")
    return fields


def _key(override: str) -> str:
    """`learner.lr` of `+learner.lr=1`, `model` of `model@student=tiny`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _open(kind: Any) -> bool:
    """Whether a field of this type is a dict, whose keys no schema can list."""
    return kind is Any or dict in (kind, get_origin(kind))


def _open_parent(schema: type, key: str) -> bool:
    """Whether `key` lies inside such a dict."""
    fields = schema_fields(schema)
    parts = key.split(".")
    parents = [".".join(parts[:end]) for end in range(1, len(parts))]
    return any(_open(fields[parent]) for parent in parents if parent in fields)


def _open_mapping(schema: type, override: str) -> str:
    """Allow `mix.new=1` and `mix={new: 1}` for a dict `mix`: Hydra alone asks for `++mix.new=1`.

    Either way the keys that are not named keep their values.
    """
    key = _key(override)
    opened = _open_parent(schema, key) or _open(schema_fields(schema).get(key))
    return f"++{override}" if opened and override[:1] not in "+~" and "=" in override else override


def _element_key(schema: type, key: str) -> tuple[type, str] | None:
    """(`ExpertConfig`, `sft.lr`) of `experts.ocr.sft.lr` where `experts` holds dataclasses by name.

    None outside such a dict, and for the name alone: OmegaConf checks its whole value.
    """
    fields = schema_fields(schema)
    parts = key.split(".")
    for end in range(1, len(parts) - 1):
        kind = fields.get(".".join(parts[:end]))
        element = get_args(kind)[-1] if get_origin(kind) is dict else None
        if isinstance(element, type) and dataclasses.is_dataclass(element):
            return element, ".".join(parts[end + 1 :])
    return None


def _refuse_unknown(schema: type, overrides: list[str]) -> None:
    fields = schema_fields(schema)
    for override in overrides:
        key = _key(override)
        inside = _element_key(schema, key)
        if inside is not None:
            element, rest = inside
            if rest not in schema_fields(element) and not _open_parent(element, rest):
                raise _unknown_key(rest, element, f"{override!r} on the command line")
        elif key not in fields and not (CONF / key).is_dir() and not _open_parent(schema, key):
            raise _unknown_key(key, schema, f"{override!r} on the command line")


def _unknown_key(key: str, schema: type, where: str) -> ConfigError:
    keys = list(schema_fields(schema))
    last = key.rpartition(".")[2]
    # Someone who forgets the section (`lr=1`) means a key that ends like that.
    near = [k for k in keys if k.rpartition(".")[2] == last]
    near += difflib.get_close_matches(key, [k for k in keys if k not in near], n=2, cutoff=0.6)
    hint = f" Did you mean {' or '.join(near[:3])}?" if near else ""
    return ConfigError(f"unknown configuration key: {where}.{hint} --help lists all keys.")


def _config_error(error: Exception, schema: type, overrides: list[str]) -> ConfigError:
    """Say which key and value Hydra or OmegaConf refused, and what was probably meant."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = ", ".join(error.options or []) or "nothing"
        return ConfigError(f"unknown choice {group}={choice}; conf/{group} has: {options}.")
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    key = getattr(cause, "full_key", None)
    if not key:
        return ConfigError(f"the configuration cannot be composed: {str(error).strip()}")
    given = next((o for o in overrides if _key(o) == key), None)
    where = f"{given!r} on the command line" if given else f"{key!r} in the configuration"
    if key not in schema_fields(schema) and not _open_parent(schema, key):
        return _unknown_key(key, schema, where)
    first_line = str(cause).strip().splitlines()[0]
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
    """Print the commands, or one command's keys with their defaults and documentation."""
    out = console.out
    if name is None:
        out(f"python -m {package} [COMMAND] key=value …\n")
        for word, command in commands.items():
            out(f"  {word:<14} {command.help}{' (default)' if word == default else ''}")
        out(f"\npython -m {package} COMMAND --help lists the command's keys.")
        return
    command = commands[name]
    out(f"python -m {package} {name} key=value …\n\n{command.help}\n")
    docs = field_docs(command.schema)
    groups = sorted(p.name for p in CONF.iterdir() if p.is_dir())
    for key, value in flat_config(compose(command.config, command.schema, [])).items():
        out(f"  {key}={json.dumps(value, default=str)}")
        if key in docs:
            out(f"      {docs[key]}")
    for group in groups:
        choices = ", ".join(sorted(p.stem for p in (CONF / group).glob("*.yaml")))
        out(f"  {group}=…  one of conf/{group}: {choices}")


def flat_config(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """A configuration as `{dotted key: value}`; dicts stay values."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            flat |= flat_config(value, f"{prefix}{field.name}.")
        else:
            flat[f"{prefix}{field.name}"] = config_dict(value)
    return flat
