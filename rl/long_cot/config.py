"""Settings of the LongCoT cold start (`recipe=long_cot`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError
from rl.endpoint_config import EndpointConfig
from rl.sft.training import SftConfig

MIX_MODES = ("think", "no_think", "auto_think", "agentic")
WRITERS = ("none", "endpoint", "policy")
SCORES = (1, 2, 3, 4, 5)
_HOW = {"identity": False}  # how to ask, not what comes out


def _one_of(key: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise ConfigError(f"long_cot.{key}={value!r} is not one of {', '.join(options)}")


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"long_cot.{key}={value} must be at least {least}")


def _share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"long_cot.{key}={value} is not in 0…1")


@dataclass
class ModelConfig(EndpointConfig):
    """A model that is asked to write or to judge."""

    temperature: float = 0.7
    """Sampling temperature of what is written; a judge always answers at 0."""
    max_tokens: int = 2048
    """Longest answer in tokens."""


@dataclass
class EnhanceConfig:
    """(a) Which questions there are: collected, rewritten, merged."""

    data: FileDataConfig = field(default_factory=FileDataConfig)
    """Files of questions, each a source of its own; a question that two have is taken once."""
    rows_per_file: int = 0
    """Rows taken of each file, from the first on; 0 takes all."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Mix of the tiny world's task types."""
    world: int = 0
    """Questions of the tiny world, a source beside the files; 0: none."""
    world_seed: int = 41
    """Seed of the world's stream."""
    rewrite: str = "none"
    """Who words questions anew: `none`, `endpoint` (long_cot.writer) or `policy` (the newest
    checkpoint)."""
    rewrite_share: float = 0.5
    """Share of the collected questions that also come in another wording."""
    merge_share: float = 0.0
    """Merged questions, as a share of the collected ones: two short questions become one, whose
    answer is both."""
    separator: str = ", "
    """Between the two answers of a merged question."""
    seed: int = 6
    """Seed of what is rewritten and which questions are merged."""

    def __post_init__(self) -> None:
        _at_least("enhance.rows_per_file", self.rows_per_file, 0)
        _at_least("enhance.world", self.world, 0)
        _one_of("enhance.rewrite", self.rewrite, WRITERS)
        _share("enhance.rewrite_share", self.rewrite_share)
        _share("enhance.merge_share", self.merge_share)
        if not self.separator.strip():
            raise ConfigError("long_cot.enhance.separator must hold a visible character")


@dataclass
class PathsConfig:
    """(b) Sampled reasoning paths."""

    samples: int = 8
    """Paths sampled for each question, in think mode."""
    seed: int = 7
    """Seed of sampling."""

    def __post_init__(self) -> None:
        _at_least("paths.samples", self.samples, 1)


@dataclass
class AssessConfig:
    """(c) What is checked of a correct path's reasoning, step by step."""

    equations: bool = True
    """Every plain equation (`3+5=8`) must hold."""
    conclusion: bool = True
    """The answer must be what the reasoning ends with."""
    solution: str = "numbers"
    """What a sample's `solution` is used for: `numbers`: a number must stand in the question or the
    solution, or be the result of an equation; `steps`: a step must be one of the solution's, for
    worlds with one way to solve a question; `off`."""
    judge: bool = False
    """Ask `long_cot.judge` about every step of the chosen paths that the rules find no fault with;
    where it finds one, the next sound path is chosen."""
    reward_dimensions: list[str] = field(default_factory=list)
    """Dimensions of the Keye reward model (`reward_model.checkpoint`, think mode) that each chosen
    path must do well in, too, e.g. [consistency, credibility]; empty: it isn't asked."""
    reward_least: float = 0.5
    """Lowest mark (0…1) in such a dimension."""

    def __post_init__(self) -> None:
        _one_of("assess.solution", self.solution, ("numbers", "steps", "off"))
        _share("assess.reward_least", self.reward_least)


@dataclass
class SelectConfig:
    """(c) Which of a question's correct paths go on: sound ones (A) before flawed ones (B)."""

    keep: int = 2
    """Paths of a question that go on, at most."""
    min_confidence: float = 0.0
    """Less confident paths are not kept, however sound or unlike the others they are."""
    diversity: float = 0.5
    """Weight of a path's distance to those already kept, against its confidence (both 0…1)."""
    min_distance: float = 0.05
    """Paths closer than this to one that is kept are left out. Distances are shares of the
    reasoning's words that an edit would change; a punctuation mark counts as a word, and so does
    a Chinese or Japanese character."""

    def __post_init__(self) -> None:
        _at_least("select.keep", self.keep, 1)
        _at_least("select.diversity", self.diversity, 0)
        _share("select.min_distance", self.min_distance)
        _share("select.min_confidence", self.min_confidence)


@dataclass
class ReviewConfig:
    """(d) What people are shown, and what becomes of items that nobody has decided on."""

    redundant_factor: float = 1.5
    """A path longer than this times the question's shortest correct path is redundant."""
    refine: str = "none"
    """Who mends flawed paths before people see them: `none`, `endpoint` (long_cot.writer) or
    `policy`. A mended path is assessed again; where the reward model is asked
    (`assess.reward_dimensions`), it must also prefer it to the path it replaces."""
    decisions: str = ""
    """Decisions file of the reviewers; by default decisions.jsonl beside the items."""
    unreviewed_flawed: str = "drop"
    """What happens to a flawed path (B) without a decision: `keep` or `drop`."""
    unreviewed_redundant: str = "keep"
    """What happens to a redundant one (A) without a decision: `keep` or `drop`."""

    def __post_init__(self) -> None:
        _at_least("review.redundant_factor", self.redundant_factor, 1)
        _one_of("review.refine", self.refine, WRITERS)
        for key in ("unreviewed_flawed", "unreviewed_redundant"):
            _one_of(f"review.{key}", getattr(self, key), ("keep", "drop"))


@dataclass
class ScoreConfig:
    """(e) What a question needs, measured, and how often it is trained on."""

    samples: int = 4
    """Responses to each question without its media, and as many without reasoning."""
    solved: float = 0.5
    """A question can do without media (reasoning) if more than this share of those is right."""
    long_steps: int = 3
    """From this many steps of its shortest path on, a multimodal reasoning question scores 5."""
    weights: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0, 2.0, 3.0])
    """Sampling weights of the scores 1…5."""
    seed: int = 8
    """Seed of sampling."""

    def __post_init__(self) -> None:
        _at_least("score.samples", self.samples, 1)
        _share("score.solved", self.solved)
        if len(self.weights) != len(SCORES) or min(self.weights) < 0 or not any(self.weights):
            raise ConfigError(
                f"long_cot.score.weights={self.weights} must be five weights ≥ 0, not all 0, for "
                "the scores 1…5"
            )


@dataclass
class TrainMixConfig:
    """Fine-tuning on the scored traces."""

    modes: dict[str, float] = field(
        default_factory=lambda: {"think": 4.0, "no_think": 1.0, "auto_think": 3.0, "agentic": 1.0}
    )
    """Mix of the examples: think (traces by weight), no_think (reference answers), auto_think
    (the trace where answering at once fails, else the answer at once), agentic (rows of files whose
    `response` calls tools; left out if there are none)."""
    direct_from: float = 0.75
    """Accuracy without reasoning from which an auto-think example answers at once."""
    video_weight: float = 1.0
    """Factor on the weight of questions with a video."""
    seed: int = 9
    """Seed of the draw."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Optimiser and length."""

    def __post_init__(self) -> None:
        for name, weight in self.modes.items():
            _one_of("train.modes", name, MIX_MODES)
            _at_least(f"train.modes.{name}", weight, 0)
        if not any(self.modes.values()):
            raise ConfigError("long_cot.train.modes: no mode has a weight above 0")
        _share("train.direct_from", self.direct_from)
        _at_least("train.video_weight", self.video_weight, 0)


@dataclass
class LongCotConfig:
    """The five steps and the fine-tuning after them."""

    enhance: EnhanceConfig = field(default_factory=EnhanceConfig)
    """(a) Collection, rewriting, merging."""
    paths: PathsConfig = field(default_factory=PathsConfig)
    """(b) Reasoning paths with confidences."""
    assess: AssessConfig = field(default_factory=AssessConfig)
    """(c) Two-level assessment: A, B, C."""
    select: SelectConfig = field(default_factory=SelectConfig)
    """(c) Which of the assessed paths go on."""
    review: ReviewConfig = field(default_factory=ReviewConfig)
    """(d) People refine what is doubtful."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """(e) Quality 1…5 and sampling weights."""
    train: TrainMixConfig = field(default_factory=TrainMixConfig)
    """The fine-tuning stage `long_cot_sft`."""
    writer: ModelConfig = field(default_factory=ModelConfig)
    """The model that rewrites questions and mends paths where `endpoint` is chosen."""
    judge: ModelConfig = field(default_factory=ModelConfig)
    """The model that judges steps where `assess.judge` is set."""
    chunk: int = field(default=32, metadata=_HOW)
    """Questions worked on together; an interruption loses at most these."""

    def __post_init__(self) -> None:
        _at_least("chunk", self.chunk, 1)
