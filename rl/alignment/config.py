"""Settings of alignment RL (`recipe=alignment`, `recipe=mixed_mode`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field
from typing import Any

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError
from rl.sft.training import SftConfig

SCALES = ("tiny", "full")
DEFAULT_TASKS = {"digits/sum": 1.0, "digits/difference": 1.0, "digits/max": 1.0}
FORMAT_KINDS = ("plain", "json", "json_code", "python", "list", "heading", "table")


@dataclass
class PlainSource(FileDataConfig):
    """One source of prompts: rows of `files`, or, if none is named, the tiny world."""

    weight: float = 0.0
    """Share of this source in the mix, relative to the others; 0 leaves it out."""
    heldout: list[str] = field(default_factory=list)
    """Held-out rows for the measurements, when `files` are given; the world has a test split."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Mix of the tiny world's task types; by default sums, differences and maxima of digits. Not
    read when `files` are given."""
    seed: int = 40
    """Seed of the stream, or of the order of the files' rows."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ConfigError(f"alignment: weight={self.weight} of a source must not be below 0")


@dataclass
class SourceConfig(PlainSource):
    """A source whose prompts are answered in a mix of modes."""

    modes: dict[str, float] = field(default_factory=lambda: {"think": 1.0, "auto_think": 1.0})
    """Mix of response modes; the rows of files bring their own."""


@dataclass
class StructureConfig(SourceConfig):
    """A source that rewards the mode's structure by itself."""

    format_weight: float = 0.1
    """Weight of the reward for the structure that the mode asks for."""
    format_gate: bool = False
    """A response without that structure gets no other reward either."""


@dataclass
class InstructionConfig(StructureConfig):
    """Queries with constraints on how they are to be answered."""

    scale: str = "full"
    """`full`: all kinds, worded in sentences; `tiny`: kinds, words and numbers that fit answers of
    a few words, in telegram style (a tiny model spells words that it does not know)."""
    kinds: list[str] = field(default_factory=list)
    """Kinds of hard constraints; by default all of the scale."""
    count: list[int] = field(default_factory=lambda: [2, 6])
    """Fewest and most hard constraints of a query."""
    strict_weight: float = 0.5
    """Reward for following all of them."""
    share_weight: float = 0.5
    """Reward for the share that is followed."""
    answer_weight: float = 0.5
    """Factor of the sample's own rewards: a response that follows the constraints should answer the
    question too. 0 leaves the answer unchecked."""
    soft: int = 1
    """Soft constraints among a query's `count`, as far as two hard ones leave room; drawn only when
    there is a judge."""
    soft_weight: float = 0.5
    """Reward for the judge's mean mark of the soft constraints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale not in SCALES:
            raise ConfigError(f"alignment.instructions.scale={self.scale!r} is none of {SCALES}")
        if len(self.count) != 2 or not 2 <= self.count[0] <= self.count[1] <= 6:
            raise ConfigError(
                f"alignment.instructions.count={self.count} must be [fewest, most] within 2…6"
            )
        if self.soft < 0:
            raise ConfigError(f"alignment.instructions.soft={self.soft} must not be below 0")


@dataclass
class FormatConfig(StructureConfig):
    """Queries whose answer must have a form: that of the mode, JSON, Markdown, code."""

    modes: dict[str, float] = field(
        default_factory=lambda: {"think": 1.0, "no_think": 1.0, "auto_think": 1.0}
    )
    """Mix of response modes; the rows of files bring their own."""
    kinds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FORMAT_KINDS, 1.0))
    """Mix of forms: `plain` (the mode's alone), `json`, `json_code` (JSON in a code block),
    `python` (a program that prints the answer; only for answers that are a text or a number),
    `list`, `heading`, `table`; a weight of 0 leaves one out."""
    short: bool = False
    """Ask for the form with one word instead of a sentence."""
    format_weight: float = 0.5
    """Weight of the reward for the structure that the mode asks for."""
    content_weight: float = 0.5
    """Weight of the form of the answer itself."""
    answer_weight: float = 0.5
    """Factor of the sample's own rewards."""
    min_calls: int = 1
    """Calls that the structure of rows with `tools` has at least: it is that of agentic thinking.
    The rows are in think mode; any form of the answer goes with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.kinds if name not in FORMAT_KINDS]
        if unknown or not any(value > 0 for value in self.kinds.values()):
            raise ConfigError(
                f"alignment.formats.kinds={self.kinds}: weigh some of {', '.join(FORMAT_KINDS)}"
            )


@dataclass
class PreferenceConfig(StructureConfig):
    """Queries whose responses the reward model compares; no reference answer is looked at."""

    against: str = "group"
    """`group` (other responses to the same prompt) or `reference` (the row's reference)."""
    mode: str = "no_think"
    """How the reward model judges: `no_think`, or `think` with marks for each dimension."""
    preference_weight: float = 1.0
    """Weight of its preference."""


@dataclass
class StepsConfig(StructureConfig):
    """Queries that prescribe 3–5 steps of reasoning."""

    modes: dict[str, float] = field(default_factory=lambda: {"think": 1.0})
    """Mix of response modes; the rows of files bring their own."""
    short: bool = False
    """Name the steps with single words instead of sentences."""
    steps_weight: float = 0.5
    """Weight of the steps, as a rule checks them (rows whose steps have an `expect`)."""
    judge_weight: float = 0.5
    """Weight of the steps, as a judge sees them (`alignment.judge`)."""
    answer_weight: float = 1.0
    """Factor of the sample's own rewards: the outcome."""


@dataclass
class DualTrackConfig(StructureConfig):
    """Verifiable queries in mixed modes: the result counts, and so does reasoning that agrees."""

    modes: dict[str, float] = field(
        default_factory=lambda: {"think": 1.0, "no_think": 1.0, "auto_think": 2.0}
    )
    """Mix of response modes; the rows of files bring their own."""
    consistency_weight: float = 0.5
    """Weight of reasoning that leads to the answer given."""
    consistency_gate: bool = False
    """A right answer that the reasoning does not lead to counts nothing."""
    length_weight: float = 0.0
    """In auto-think mode, what `longest` characters cost; shorter responses cost in proportion. It
    makes the policy reason only where that pays."""
    longest: int = 400
    """Characters from which on a response costs no more than `length_weight`."""


@dataclass
class RetrievalConfig(PlainSource):
    """Questions to be answered from documents, always in mode think: the tiny world's tool tasks,
    or rows of `files`."""

    tool: str = "search"
    """What the policy calls the search tool by."""
    answer_weight: float = 1.0
    """Factor of the sample's own rewards."""
    judge_weight: float = 0.5
    """Weight of search and summary, as a judge sees them (`alignment.judge`)."""
    format_weight: float = 0.3
    """Weight of the agentic structure: think, call, result, think, answer."""
    format_gate: bool = False
    """A response without that structure gets no other reward either."""
    min_calls: int = 1
    """Calls that this structure has at least: an answer without a search is a guess."""


@dataclass
class JudgeConfig:
    """The language model that scores soft constraints and processes; none by default."""

    url: str = field(default="", metadata={"identity": False})
    """An OpenAI-compatible endpoint, up to and without /chat/completions."""
    model: str = ""
    """Its name there."""
    key_variable: str = field(default="OPENAI_API_KEY", metadata={"identity": False})
    """Environment variable that holds the endpoint's key, if it wants one."""
    cache: str = field(default="", metadata={"identity": False})
    """SQLite file of its answers; without one nothing is kept."""

    def __post_init__(self) -> None:
        if bool(self.url) != bool(self.model):
            raise ConfigError("alignment.judge needs both url=URL and model=NAME, or neither")

    def entry(self, rule: str, **args: Any) -> list[dict[str, Any]]:
        """The rewards entry that asks this judge, in a list; none without a judge."""
        if not self.url:
            return []
        endpoint = {"url": self.url, "model": self.model, "key_variable": self.key_variable}
        cache = {"cache": self.cache} if self.cache else {}
        return [{"rule": rule, **args, **endpoint, **cache}]


@dataclass
class AlignmentConfig:
    """What alignment RL trains on: a mix of sources."""

    general: SourceConfig = field(default_factory=lambda: SourceConfig(weight=1.0))
    """Verifiable queries as they are, so that accuracy does not collapse."""
    instructions: InstructionConfig = field(default_factory=lambda: InstructionConfig(weight=1.0))
    """Instruction following."""
    formats: FormatConfig = field(default_factory=lambda: FormatConfig(weight=1.0))
    """Format adherence."""
    steps: StepsConfig = field(default_factory=lambda: StepsConfig(weight=1.0))
    """Reasoning in prescribed steps."""
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """Preference alignment; needs reward_model.checkpoint."""
    dual_track: DualTrackConfig = field(default_factory=DualTrackConfig)
    """Mixed-mode RL with a dual-track reward."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Retrieval-augmented answers; needs a search tool in `tools.names`."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Generative rewards."""
    seed: int = 0
    """Decides which source comes when, and what each adds to its queries."""
    heldout: int = 200
    """Held-out queries of each source in a measurement."""
    heldout_seed: int = 21_000
    """Seed of the held-out queries; no other stream may use it."""
    samples: int = 4
    """Responses to each at temperature 1, beside the greedy one."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Fine-tuning on written, compliant answers before RL (stage `alignment_sft`)."""

    def __post_init__(self) -> None:
        for key in ("heldout", "samples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"alignment.{key}={getattr(self, key)} must be at least 1")
        if not self.sources():
            raise ConfigError("alignment: no source has a weight above 0")

    def sources(self) -> dict[str, PlainSource]:
        """The sources with a weight above 0, by name."""
        found = {name: getattr(self, name) for name in SOURCES}
        return {name: cfg for name, cfg in found.items() if cfg.weight > 0}


SOURCES = ("general", "instructions", "formats", "steps", "preference", "retrieval", "dual_track")
"""Names of all sources."""
