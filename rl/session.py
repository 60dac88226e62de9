"""The long-lived processes of a run: engines and reward workers, started once and shared by stages.

Starting an engine takes many seconds and loading other weights into it takes milliseconds, so a
stage that needs another checkpoint of the same architecture gets the running engines with that
checkpoint's weights.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import safe_open

from pretrain.policy.encoder import open_encoder
from pretrain.run.directory import read_json
from pretrain.run.errors import KeyeError
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rewards.keye_rm.model import KeyeRewardModel
from rewards.pool import RewardPool
from rl.rollouts import Rollouts
from rollout.config import EngineConfig, SamplingConfig
from rollout.engines import EnginePool
from rollout.tools import Tool, ToolConfig, open_tools
from rollout.tools.loop import ToolLoop


class Session:
    """Engines and reward workers of one process; a context manager."""

    def __init__(
        self,
        engine: EngineConfig,
        rewards: RewardConfig,
        sampling: SamplingConfig,
        reward_model: RewardModelConfig | None = None,
        tools: ToolConfig | None = None,
    ) -> None:
        self.engine, self.reward_config, self.sampling = engine, rewards, sampling
        self._reward_model_config = reward_model or RewardModelConfig()
        self._reward_model: KeyeRewardModel | None = None
        self._engines: EnginePool | None = None
        self._architecture: dict[str, Any] = {}
        self._rewards: RewardPool | None = None
        self._tool_config = tools or ToolConfig()
        self._tools: dict[str, Tool] = {}

    def rollouts(self, checkpoint: Path, tools: bool = True) -> Rollouts:
        """Rollouts of `checkpoint`'s weights; raises `KeyeError` when there is no checkpoint.

        Without `tools` every response has one turn, whatever is configured or a row names: for
        stages that learn responses whole, which would learn the tools' results with them.
        """
        # A prompt that leaves no room for its response is refused alone, before the engines see it.
        encoder = open_encoder(checkpoint, self.engine.max_length, self.sampling.max_tokens)
        if self._rewards is None:
            self._rewards = RewardPool(self.reward_config)
        if self._reward_model is None and self._reward_model_config.checkpoint:
            self._reward_model = KeyeRewardModel.open(self._reward_model_config)
        if self._tool_config.names and not self._tools:
            self._tools = open_tools(self._tool_config)
        engines = self._engines_with(checkpoint)
        loop = None
        if tools and self._tools:
            loop = ToolLoop(engines, encoder, self._tools, self._tool_config)
        return Rollouts(engines, encoder, self._rewards, self.sampling, self._reward_model, loop)

    def _engines_with(self, checkpoint: Path) -> EnginePool:
        architecture = read_json(checkpoint / "config.json")
        if not architecture:
            raise KeyeError(
                f"{checkpoint} holds no checkpoint (no config.json). Give checkpoint=DIRECTORY, a "
                "Hugging Face directory, or run the stages that make one."
            )
        if self._engines is not None and architecture == self._architecture:
            self._engines.update_weights(read_weights(checkpoint), self._engines.version + 1)
            return self._engines
        self.close_engines()
        self._engines = EnginePool(self.engine, str(checkpoint))
        self._architecture = architecture
        return self._engines

    def close_engines(self) -> None:
        """End the engines: a stage that needs the cores for itself runs without them."""
        if self._engines is not None:
            self._engines.close()
            self._engines = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close_engines()
        if self._reward_model is not None:
            self._reward_model.close()
            self._reward_model = None
        if self._rewards is not None:
            self._rewards.close()
            self._rewards = None


def read_weights(checkpoint: Path) -> dict[str, Any]:
    """All tensors of a checkpoint's safetensors files by name, on the CPU."""
    files = sorted(checkpoint.glob("*.safetensors"))
    if not files:
        raise KeyeError(f"{checkpoint} has no safetensors file; only safetensors are loaded")
    weights: dict[str, Any] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return weights
