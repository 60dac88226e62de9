"""A client for chat completions: structured output, retries with back-off, cache, counters.

Only the standard library: it runs in reward workers, and any OpenAI-compatible server will do
(`python -m rollout serve` is one). Requests are blocking calls in threads, at most `concurrency`
at once; a hanging one ends at `timeout_s`, and with its worker at the latest.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import os
import random
import sqlite3
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RETRIED = (408, 409, 429, 500, 502, 503, 504)
REFUSED = (400, 413, 415, 422)
"""The endpoint is there and doesn't take this request: too long, a medium it can't read."""
LONGEST_WAIT_S = 20.0


class JudgeError(Exception):
    """The endpoint gave no usable answer; the message names it and the reason.

    `refused`: it is the request that it doesn't take, others may be answered.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(slots=True, frozen=True)
class Endpoint:
    """Where the judge is and how it is asked."""

    url: str  # up to and without /chat/completions, e.g. http://127.0.0.1:8000/v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key, if one is set
    timeout_s: float = 60.0
    retries: int = 4
    backoff_s: float = 0.5  # doubled each time, with jitter
    concurrency: int = 16
    cache: str = ""  # SQLite file; without one nothing is kept
    price_in: float = 0.0  # money for a million prompt tokens
    price_out: float = 0.0  # and for a million completion tokens


@dataclass(slots=True)
class Reply:
    """One completion. `cost` in the unit of the prices; 0 if it came from the cache."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    cached: bool = False
    cost: float = 0.0


@dataclass(slots=True)
class Counters:
    """Totals of a client since it was made."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def add(self, reply: Reply) -> None:
        self.requests += 1
        self.cached += reply.cached
        self.retries += reply.attempts - 1
        if not reply.cached:
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
            self.cost += reply.cost


@dataclass
class JudgeClient:
    """Asks one endpoint. `counters` tells what it has cost."""

    endpoint: Endpoint
    counters: Counters = field(default_factory=Counters)

    def __post_init__(self) -> None:
        threads = self.endpoint.concurrency
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, "judge")
        self._cache = Cache(self.endpoint.cache) if self.endpoint.cache else None

    async def complete(self, body: dict[str, Any]) -> Reply:
        """The completion of a request body (without `model`). JudgeError if there is none."""
        request = {"model": self.endpoint.model, **body}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        loop = asyncio.get_running_loop()
        reply = self._cache.get(key) if self._cache else None
        if reply is None:
            try:
                reply = await loop.run_in_executor(self._threads, self._ask, request)
            except JudgeError:
                self.counters.failures += 1
                raise
            if self._cache:
                self._cache.put(key, reply)
        self.counters.add(reply)
        return reply

    def _ask(self, request: dict[str, Any]) -> Reply:
        """One request with its retries; runs in a thread."""
        reason, refused = "", False
        for attempt in range(1, self.endpoint.retries + 2):
            wait = self.endpoint.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            try:
                return self._send(request, attempt)
            except urllib.error.HTTPError as error:
                text = error.read(500).decode(errors="replace")
                reason, refused = f"status {error.code}: {text}", error.code in REFUSED
                if error.code not in RETRIED:
                    break
                with contextlib.suppress(ValueError):
                    wait = float(error.headers.get("Retry-After", ""))
            except (OSError, TimeoutError) as error:  # refused, reset, no name, too slow
                reason = str(getattr(error, "reason", error))
            except (KeyError, IndexError, TypeError, ValueError) as error:
                reason = f"its answer is no chat completion ({error!r})"
            if attempt <= self.endpoint.retries:
                time.sleep(min(wait, LONGEST_WAIT_S))
        raise JudgeError(f"judge {self.endpoint.url} ({self.endpoint.model}): {reason}", refused)

    def _send(self, request: dict[str, Any], attempt: int) -> Reply:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.endpoint.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        http = urllib.request.Request(
            f"{self.endpoint.url.rstrip('/')}/chat/completions",
            data=json.dumps(request).encode(),
            headers=headers,
        )
        with urllib.request.urlopen(http, timeout=self.endpoint.timeout_s) as response:
            answer = json.load(response)
        usage = answer.get("usage") or {}
        inward, outward = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        price = inward * self.endpoint.price_in + outward * self.endpoint.price_out
        text = answer["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("no text")
        return Reply(text, inward, outward, attempt, cost=price / 1e6)


class Cache:
    """Replies in a SQLite file that all workers share."""

    def __init__(self, path: str) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        with self._open() as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)"
            )

    @contextlib.contextmanager
    def _open(self) -> Any:
        database = sqlite3.connect(self._path, timeout=30)
        try:
            with database:
                yield database
        finally:
            database.close()

    def get(self, key: str) -> Reply | None:
        with self._open() as database:
            row = database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text, inward, outward = json.loads(row[0])
        return Reply(text, inward, outward, attempts=1, cached=True)

    def put(self, key: str, reply: Reply) -> None:
        value = json.dumps([reply.text, reply.prompt_tokens, reply.completion_tokens])
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, value))
