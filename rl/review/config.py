"""Configuration of `python -m rl review`.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.media import MediaConfig
from pretrain.run.errors import ConfigError


@dataclass
class ReviewConfig:
    """Everything `python -m rl review` can be told."""

    items: str = ""
    """Items file (JSONL) that a review stage wrote; relative paths of media start from its
    folder."""
    decisions: str = ""
    """Decisions file, appended to; by default decisions.jsonl beside the items."""
    port: int = 8585
    """Port on 127.0.0.1; 0 takes a free one."""
    reviewer: str = ""
    """Name that decisions are signed with until it is changed on the page; by default the login
    name."""
    media: MediaConfig = field(default_factory=MediaConfig)
    """Which media may be opened."""
    confidence_low: float = 0.5
    """Confidence that is shown red, as is everything below."""
    confidence_high: float = 0.95
    """Confidence that is shown green, as is everything above."""
    export_to: str = ""
    """Write the items with their decisions to this file as Label Studio tasks (JSONL), and the
    labelling interface beside it (.xml), instead of serving the page."""
    import_from: str = ""
    """Take over the decisions in this file of Label Studio tasks (JSON or JSONL) instead of serving
    the page."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} is not in 0…65535")
        if not 0 <= self.confidence_low < self.confidence_high <= 1:
            raise ConfigError(
                f"confidence_low={self.confidence_low} and confidence_high={self.confidence_high} "
                "must be in 0…1, the first below the second"
            )
        if self.export_to and self.import_from:
            raise ConfigError("export_to and import_from exclude each other; run the command twice")
