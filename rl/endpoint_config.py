"""Where a model behind an OpenAI-compatible endpoint is, for judges and writers alike.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from rewards.judge.client import Endpoint

_RUN = {"identity": False}  # how it is asked, not what comes out


@dataclass
class EndpointConfig:
    """An endpoint; without a url there is none."""

    url: str = field(default="", metadata=_RUN)
    """Endpoint up to and without /chat/completions, e.g. http://127.0.0.1:8000/v1."""
    model: str = ""
    """The endpoint's model."""
    key_variable: str = field(default="OPENAI_API_KEY", metadata=_RUN)
    """Environment variable that holds the endpoint's key, if it wants one."""
    timeout_s: float = field(default=120.0, metadata=_RUN)
    """Deadline of one request."""
    retries: int = field(default=4, metadata=_RUN)
    """Further tries of a request that failed for a passing reason."""
    concurrency: int = field(default=16, metadata=_RUN)
    """Requests in flight at once."""
    cache: str = field(default="", metadata=_RUN)
    """SQLite file that keeps the replies, so that nothing is paid for twice; empty: none."""

    def endpoint(self) -> Endpoint:
        """What a client is made of."""
        return Endpoint(
            url=self.url,
            model=self.model,
            key_variable=self.key_variable,
            timeout_s=self.timeout_s,
            retries=self.retries,
            concurrency=self.concurrency,
            cache=self.cache,
        )
