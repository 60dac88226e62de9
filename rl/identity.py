"""What decides a stage's outcome, for its hash: settings, and the contents behind paths.

A file, a rule's source or a checkpoint that is changed at its old path is another input, so the
stages that read it are done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pretrain.data.ingest import FileDataConfig
from pretrain.data.row_files import open_rows
from pretrain.run.directory import checkpoint_identity
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rl.config import RlConfig
from rl.row_log import digests
from rollout.tools.config import ToolConfig
from rollout.tools.documents import document_files


def data_identity(cfg: FileDataConfig) -> list[Any]:
    """Settings of rows of files, what the files hold, and the plug-in files that rows name."""
    held = digests(cfg.files)
    named = [_row_rules(file, digest) for file, digest in zip(cfg.files, held, strict=True)]
    plugins = _plugin_digests(sorted(set().union(*named)))
    return [cfg, held, *([{"rules": plugins}] if plugins else [])]


@cache
def _row_rules(file: str, digest: str) -> frozenset[str]:
    """The plug-in files' rules in the column `rewards` of a file's rows; read once a `digest`."""
    rewards = open_rows(Path(file)).column("rewards")
    return frozenset(name for own in rewards for name in _named_rules(own) if ".py:" in name)


def generation_identity(cfg: RlConfig, tools: bool = True) -> list[Any]:
    """What decides a policy's response to a prompt; `tools` as in `Session.rollouts`."""
    return [cfg.sampling, cfg.engine, *(tool_identity(cfg.tools) if tools else [])]


def reward_identity(cfg: RlConfig) -> list[Any]:
    """What decides a response's total: not how many workers compute it."""
    rewards = cfg.rewards
    how = [rewards.normalise, rewards.clip, *route_identity(rewards)]
    return [*how, *reward_model_identity(cfg.reward_model)]


def route_identity(cfg: RewardConfig) -> list[Any]:
    """The routes, and the plug-in files that they name; see `data_identity` for a row's own."""
    return [cfg.routes, _plugin_digests(_named_rules(cfg.routes))]


def reward_model_identity(cfg: RewardModelConfig) -> list[Any]:
    """Settings and weights of the reward model, where there is one."""
    return [cfg, checkpoint_identity(cfg.checkpoint)] if cfg.checkpoint else []


def tool_identity(cfg: ToolConfig) -> list[Any]:
    """Settings, plug-in files and documents of the tools, where there are tools."""
    if not cfg.names:
        return []
    documents = document_files(cfg.documents) if cfg.documents else {}
    found = [list(documents), digests([str(file) for file in documents.values()])]
    return [{"tools": cfg, "plugins": _plugin_digests(cfg.names), "documents": found}]


def _named_rules(entries: Any) -> Iterator[str]:
    """Every rule that a rewards entry names, those within its arguments included."""
    if isinstance(entries, Mapping):
        yield from (str(entries[key]) for key in ("rule", "_target_") if key in entries)
    if isinstance(entries, Mapping | list):
        values = entries.values() if isinstance(entries, Mapping) else entries
        for value in values:
            yield from _named_rules(value)


def _plugin_digests(names: Iterable[str]) -> list[str]:
    """Hashes of the files of `path/to/file.py:attribute`; one that is absent is the loader's to
    refuse."""
    paths = [Path(name.rpartition(":")[0]).expanduser() for name in names if ".py:" in name]
    return digests([str(path) for path in paths if path.is_file()])
