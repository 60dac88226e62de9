"""Safetensors written shard by shard, as Hugging Face lays large checkpoints out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from pretrain.run.directory import atomic_write, disk_guard
from pretrain.run.errors import KeyeError


class ShardWriter:
    """Collects tensors and writes a file whenever the next one would make it too large.

    What is in memory is one shard, or one tensor if that is larger.
    """

    def __init__(self, directory: Path, shard_bytes: int) -> None:
        """Start over in `directory`; files hold at most `shard_bytes` (or a single tensor)."""
        self._directory = directory
        self._limit = shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._files: list[list[str]] = []
        self._total_bytes = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Names and shapes added so far."""
        shutil.rmtree(directory, ignore_errors=True)
        with disk_guard(directory):
            directory.mkdir(parents=True)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor; names must differ."""
        if name in self.shapes:
            raise KeyeError(f"tensor {name} occurs twice in the sources")
        size = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + size > self._limit:
            self._flush()
        self.shapes[name] = tuple(tensor.shape)
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += size
        self._total_bytes += size

    def _flush(self) -> None:
        path = self._directory / f"shard-{len(self._files) + 1:05d}"
        with disk_guard(path):
            save_file(self._pending, path, metadata={"format": "pt"})
        self._files.append(list(self._pending))
        self._pending = {}
        self._pending_bytes = 0

    def finish(self) -> int:
        """Write the rest and the index; the number of files."""
        if self._pending:
            self._flush()
        count = len(self._files)
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._files, start=1):
            file = f"model-{number:05d}-of-{count:05d}.safetensors"
            if count == 1:
                file = "model.safetensors"
            (self._directory / f"shard-{number:05d}").rename(self._directory / file)
            weight_map |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            text = json.dumps(index, indent=2, sort_keys=True)
            atomic_write(self._directory / "model.safetensors.index.json", text)
        return count
