"""Configuration of `python -m rl`: one tree for all stages of a post-training run.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

import re
from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import WandbConfig
from pretrain.stages.config import PretrainConfig
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rl.alignment.config import AlignmentConfig
from rl.dynamic import DynamicConfig
from rl.evaluate import EvaluationConfig
from rl.experts.config import ExpertConfig, MergeConfig
from rl.iterated.config import IteratedConfig
from rl.learner import LearnerConfig
from rl.long_cot.config import LongCotConfig
from rl.mpo.config import MpoConfig
from rl.overlong import OverlongConfig
from rl.reward_model.training import RewardTrainingConfig
from rl.sft.config import SftStageConfig
from rl.sft.training import SftConfig
from rollout.config import EngineConfig, SamplingConfig
from rollout.hint_sampler import HintConfig
from rollout.tools.config import ToolConfig

RL_STAGES = (
    "pretrain",
    "cold_start",
    "gspo",
    "iterate",
    "sft",
    "mpo",
    "experts",
    "merge",
    "long_cot",
    "long_cot_enhance",
    "long_cot_paths",
    "long_cot_assess",
    "long_cot_review",
    "long_cot_score",
    "long_cot_sft",
    "reward_model",
    "reward_sft",
    "reward_sft_measured",
    "reward_anneal",
    "reward_anneal_measured",
    "reward_gspo",
    "reward_gspo_measured",
    "alignment_before",
    "alignment_sft",
    "alignment_sft_measured",
    "alignment_gspo",
    "alignment_after",
)

_RUN = {"identity": False}  # what is saved and shown of the loop, not what comes out

EVALUATION = r"evaluate_\w+"
"""A stage of any such name measures the policy as it is at that point."""


@dataclass
class DataConfig(FileDataConfig):
    """Where prompts come from: the files named in `files`, or, if none is, the tiny world."""

    tasks: dict[str, float] = field(
        default_factory=lambda: {"digits/sum": 2.0, "digits/difference": 2.0, "digits/max": 1.0}
    )
    """Mix of the tiny world's task types, or of those that need tools (`tools/lookup`,
    `tools/small_digits`: always in think mode); not read when `files` are given."""
    modes: dict[str, float] = field(default_factory=lambda: {"think": 1.0, "auto_think": 1.0})
    """Mix of response modes; the rows of files bring their own."""
    seed: int = 1
    """Seed of the stream, or of the order of the files' rows."""


@dataclass
class ColdStartConfig:
    """Supervised traces that teach the reply formats, before any reward."""

    tasks: dict[str, float] = field(default_factory=dict)
    """Mix of the tiny world's task types."""
    modes: dict[str, float] = field(
        default_factory=lambda: {"think": 2.0, "no_think": 1.0, "auto_think": 2.0}
    )
    """Mix of response modes."""
    direct_share: float = 0.6
    """Share of the auto-think traces that answer at once; the rest reasons first."""
    hinted_share: float = 0.0
    """Share of the samples with hints that show one (levels drawn evenly), in the cold starts of
    `iterate` too."""
    hinted_tasks: list[str] = field(default_factory=list)
    """Task types of which every sample with hints shows one: what the policy shall solve with a
    hint, and not yet alone."""
    seed: int = 2
    """Seed of the stream of traces."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Optimiser and length."""


@dataclass
class GspoConfig:
    """The loop: how much is sampled a step, and how often things are saved and shown."""

    steps: int = 60
    """Rollout batches; each is followed by `learner.mini_batches` optimiser steps."""
    prompts_per_step: int = 64
    """Prompts of one rollout batch."""
    group_size: int = 8
    """G: responses to a prompt."""
    save_every: int = field(default=5, metadata=_RUN)
    """Steps between complete states; an interrupted job loses at most this many."""
    table_every: int = field(default=10, metadata=_RUN)
    """Steps between sample tables."""
    table_groups: int = field(default=4, metadata=_RUN)
    """Groups in one sample table (two responses of each are shown)."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        for key in ("steps", "prompts_per_step", "save_every", "table_every", "table_groups"):
            if getattr(self, key) < 1:
                raise ConfigError(f"gspo.{key}={getattr(self, key)} must be at least 1")
        if self.group_size < 2:
            raise ConfigError(
                f"gspo.group_size={self.group_size}: a group needs at least 2 responses, because "
                "advantages compare them with each other"
            )


@dataclass
class RlConfig:
    """Everything `python -m rl` can be told."""

    run: str = "rl"
    """Name of the run: results go to runs/NAME, and a finished stage isn't run again."""
    stages: list[str] = field(default_factory=lambda: ["evaluate_before", "gspo", "evaluate_after"])
    """Stages in order, out of: pretrain; sft, mpo, cold_start, gspo, iterate, experts, merge;
    long_cot (all its steps: long_cot_enhance, …_paths, …_assess, …_review, …_score), long_cot_sft;
    reward_model (all of reward_sft, reward_anneal, reward_gspo, each also `…_measured`);
    alignment_before, alignment_sft, alignment_sft_measured, alignment_gspo, alignment_after; and
    evaluate_NAME, which measures the policy at that point (before and after are what is drawn)."""
    checkpoint: str = ""
    """Policy to start from when the run makes none itself: a Hugging Face directory."""
    data: DataConfig = field(default_factory=DataConfig)
    """Prompts of the GSPO stage."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The stages that make the base checkpoint."""
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    """The supervised stage before RL."""
    gspo: GspoConfig = field(default_factory=GspoConfig)
    """The RL loop."""
    rounds: int = 1
    """Rounds of stage `iterate` after its first cold start and GSPO; more can be added later."""
    iterated: IteratedConfig = field(default_factory=IteratedConfig)
    """What such a round does beside cold start and GSPO."""
    sft: SftStageConfig = field(default_factory=SftStageConfig)
    """Non-reasoning fine-tuning on many task types (stage `sft`)."""
    mpo: MpoConfig = field(default_factory=MpoConfig)
    """Mixed preference optimisation on pairs of the policy's own responses (stage `mpo`)."""
    experts: dict[str, ExpertConfig] = field(default_factory=dict)
    """Domain → how its expert is trained from the newest policy (stage `experts`)."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    """How the experts are merged back into it (stage `merge`)."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """Alignment RL: the mix of prompt sources of the stages `alignment_…`."""
    long_cot: LongCotConfig = field(default_factory=LongCotConfig)
    """The LongCoT cold start: stages long_cot (or long_cot_enhance, …_paths, …_assess, …_review,
    …_score) and long_cot_sft."""
    hints: HintConfig = field(default_factory=HintConfig)
    """Progressive hints for prompts that no response solves (stages `gspo` and `iterate`)."""
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)
    """How far a step goes for groups that it can learn from."""
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    """Reward lost by responses that come close to the token limit."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """The policy's optimisation."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM rollout engines."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How responses are drawn."""
    tools: ToolConfig = field(default_factory=ToolConfig)
    """What the policy may call in the middle of a response: in every GSPO loop, the filter of its
    prompts, and evaluations. SFT, MPO, LongCoT and rejection sampling learn responses whole, and
    sample them in one turn."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """How responses are scored."""
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """The reward model behind `keye_rm` entries of the rewards."""
    reward_training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    """How a reward model is trained (`recipe=reward_model`)."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """The held-out measurement before and after."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        unknown = [
            name
            for name in self.stages
            if name not in RL_STAGES and not re.fullmatch(EVALUATION, name)
        ]
        if unknown:
            raise ConfigError(
                f"stages: {unknown[0]!r} is not one of {', '.join(RL_STAGES)}, or evaluate_NAME"
            )
        if len(set(self.stages)) < len(self.stages):
            twice = next(name for name in self.stages if self.stages.count(name) > 1)
            raise ConfigError(f"stages: {twice!r} stands there twice; a stage is one folder")
        if self.rounds < 0:
            raise ConfigError(f"rounds={self.rounds} must not be below 0")
