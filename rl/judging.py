"""An optional judge behind an OpenAI-compatible endpoint, asked many things at once.

Invariant: an answer that could not be had is a `JudgeError`, never a score.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.data.sample import Sample
from pretrain.run.errors import ConfigError
from rewards.judge.client import JudgeClient, JudgeError
from rewards.judge.media import openai_parts
from rewards.judge.templates import CONTROL
from rl.endpoint_config import EndpointConfig


@dataclass
class JudgeConfig(EndpointConfig):
    """Where the judge is; without a url there is none."""

    reason_length: int = 300
    """Longest reason of a mark or a verdict, in characters."""
    media: bool = False
    """Show the judge the images and videos, too (it must be able to see)."""

    def __post_init__(self) -> None:
        if self.url and not self.model:
            raise ConfigError(
                f"judge.url={self.url} needs judge.model=NAME, as the endpoint calls it"
            )
        if self.model and not self.url:
            raise ConfigError(f"judge.model={self.model} needs judge.url=URL, where the judge is")

    @property
    def on(self) -> bool:
        """Whether there is a judge."""
        return bool(self.url)

    def client(self) -> JudgeClient:
        """A client for the endpoint."""
        return JudgeClient(self.endpoint())


def ask_all(client: JudgeClient, bodies: Sequence[dict[str, Any]]) -> list[str | JudgeError]:
    """The reply's text, or why there is none, for each request body."""

    async def ask(body: dict[str, Any]) -> str | JudgeError:
        try:
            return (await client.complete(body)).text
        except JudgeError as error:
            return error

    async def every() -> list[str | JudgeError]:
        return await asyncio.gather(*map(ask, bodies))

    return asyncio.run(every())


def structured(
    system: str,
    user: str | list[dict[str, Any]],
    properties: dict[str, Any],
    max_tokens: int,
) -> dict[str, Any]:
    """A request body (without the model) that is answered by a JSON object with these
    properties."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "temperature": 0.0,
        "max_tokens": max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": schema, "strict": True},
        },
    }


def framed(text: str, label: str, salt: str, longest: int = 20_000) -> tuple[str, str]:
    """A text under judgement between marks that carry a hash, and the mark's word.

    Chat and judging marks inside are broken up: the text can't leave its frame.
    """
    word = f"{label}-{hashlib.sha256(f'{salt}{chr(0)}{text}'.encode()).hexdigest()[:12]}"
    plain = CONTROL.sub(
        lambda found: found.group().replace("|", "¦").replace("[", "("), text[:longest]
    )
    return f"[{word}]\n{plain}\n[/{word}]", word


def shown_media(sample: Sample) -> list[dict[str, Any]]:
    """The sample's media as parts of OpenAI's interface (images and videos as data URIs)."""
    return [shown for part in sample.media() for shown in openai_parts(part)]
