"""An endpoint and a reward model whose answers a test decides, and rows of the tiny world."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pretrain.data.stream import WorldStream
from rewards.config import RewardConfig
from rewards.keye_rm.model import KeyeRewardModel
from rewards.keye_rm.parsing import Judgement
from rewards.keye_rm.templates import Template
from rewards.pool import RewardPool
from rl.long_cot.config import ModelConfig
from rl.long_cot.questions import Questions, Row, question_row
from rl.long_cot.steps import step_texts


class Handler(BaseHTTPRequestHandler):
    """Asks the test for a reply; no reply is a failure of the server."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        server.bodies.append(body)
        reply = server.reply(body)
        answer = json.dumps({"choices": [{"message": {"content": reply}}], "usage": {}}).encode()
        self.send_response(500 if reply is None else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Any]:
    """A server: `bodies` it has seen, `reply` (body → text or None), `asked` (body → its text) and
    `model`, the settings that lead to it."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.bodies, server.reply, server.asked = [], lambda body: None, asked_text
    url = f"http://127.0.0.1:{server.server_port}/v1"
    server.model = ModelConfig(url=url, model="m", retries=0, concurrency=4)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asked_text(body: dict[str, Any]) -> str:
    """The text of a request's last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class Marks(KeyeRewardModel):
    """The reward model without engines: `mark(text)` is what it gives a response in all dimensions.

    The higher mark is preferred, the first place at a draw; with None a judgement is unreadable.
    `pairs` are the texts that were compared, in the order in which they were shown.
    """

    def __init__(self, mark: Callable[[str], int | None]) -> None:
        self.template, self.batch, self.samples = Template(), 4096, 1
        self.mark = mark
        self.pairs: list[tuple[str, str]] = []

    def _judge(self, asked: Any, mode: str) -> Any:
        assert mode == "think"
        return [[self._answer(comparison, swapped)] for comparison, swapped in asked]

    def _answer(self, comparison: Any, swapped: bool) -> Any:
        texts = (comparison.first, comparison.second)
        shown = texts[::-1] if swapped else texts
        self.pairs.append(shown)
        first, second = (self.mark(text) for text in shown)
        if first is None or second is None:
            return Judgement(None, fault="no verdict"), None, 1
        marks = tuple(dict.fromkeys(self.template.dimensions, mark) for mark in (first, second))
        value = 0.6 if first == second else 0.9 if first > second else 0.1
        return Judgement(int(value < 0.5), marks), value, 1  # type: ignore[arg-type]


@pytest.fixture
def reward_model() -> type[Marks]:
    """`reward_model(mark)`: a reward model that marks as `mark(text)` says."""
    return Marks


@pytest.fixture(scope="session")
def pool() -> Iterator[RewardPool]:
    """Rule workers, started once."""
    with RewardPool(RewardConfig()) as running:
        yield running


@pytest.fixture
def scorer(pool: RewardPool) -> Callable[..., Any]:
    """Scores (sample, response) pairs."""

    def score(items: Any) -> Any:
        return pool.score([(text, s.to_row(media=False)) for s, text in items]) if items else []

    return score


@pytest.fixture
def world() -> Callable[..., tuple[list[Row], Questions]]:
    """`world(count, task=…)`: question rows of one task, and what makes samples of them."""

    def make(count: int, task: str = "digits/sum") -> tuple[list[Row], Questions]:
        stream = WorldStream({task: 1.0}, 41, "train", {"think": 1.0})
        samples = [stream[index] for index in range(count)]
        rows = [
            question_row("given", s, [s.id], [["world", index]]) for index, s in enumerate(samples)
        ]
        return rows, Questions({"world": stream}, ", ")

    return make


@pytest.fixture
def make_path() -> Callable[..., dict[str, Any]]:
    """`make_path(text, **facts)`: a path's row; correct, finished, reasoning unless told so."""
    return _path


def _path(response: str, **facts: Any) -> dict[str, Any]:
    steps = [{"text": text, "confidence": 0.5, "tokens": [0, 1]} for text in step_texts(response)]
    row = {
        "response": response,
        "tokens": len(response),
        "finished": True,
        "reasons": True,
        "correct": True,
        "reward": 1.1,
        "confidence": 0.5,
        "steps": steps,
    }
    return row | facts
