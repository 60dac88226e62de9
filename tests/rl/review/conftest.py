"""A review of a few items from the tiny world, served by the real command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = """
import sys
from pretrain.run.command import Command, main
from rl.review.command import run_review
from rl.review.config import ReviewConfig
sys.exit(main("rl", {"review": Command("review", ReviewConfig, run_review, "")}, "review"))
"""
OUTCOME = pytest.StashKey[str]()
"""What the summary says about the browser."""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    outcome = config.stash.get(OUTCOME, "")
    if outcome:
        terminalreporter.write_line(f"review page: {outcome}")


def item_rows() -> list[dict[str, Any]]:
    """An image item of grade B, one with candidates, one without media, one with a video."""
    from pretrain.data.render import reply
    from pretrain.data.stream import WorldStream
    from pretrain.data.world.tasks import STEP

    rows = []
    tasks = ("digits/sum", "shapes/count", "text/arithmetic", "video/direction")
    for number, task in enumerate(tasks):
        sample = WorldStream({task: 1.0}, seed=3, modes={"think": 1.0})[number]
        content = sample.to_row()
        steps = (sample.solution or sample.answer).split(STEP)
        rows.append(
            {key: content[key] for key in ("messages", "answer", "task_type", "mode")}
            | {
                "id": f"{task}/{number}#ab",
                "response": reply(sample, "think" if sample.solution else "no_think"),
                "steps": [
                    {"text": step, "confidence": 0.97 - 0.2 * k} for k, step in enumerate(steps)
                ],
                "confidence": 0.83,
                "grade": "B" if number == 0 else "A",
                "findings": ["step 2: 3+4=8 does not hold"] if number == 0 else [],
            }
        )
    rows[1]["candidates"] = [rows[1]["response"], "<b>two</b>", "three & more"]
    return rows


@pytest.fixture
def items_file(tmp_path: Path) -> Path:
    """The items in a file of their own."""
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in item_rows()))
    return path


@dataclass
class Served:
    """A running review."""

    url: str
    token: str
    items: list[dict[str, Any]]
    decisions: Path

    @property
    def address(self) -> str:
        """What the command printed."""
        return f"{self.url}/?token={self.token}"

    def client(self) -> httpx.Client:
        """An HTTP client that knows the token."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token}"}, timeout=60
        )

    def fresh(self) -> None:
        """Take all decisions back, as a person would who removes the file's lines."""
        self.decisions.write_text("")


@pytest.fixture(scope="session")
def served_review(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`python -m rl review` on the items, without the imports of rl's other commands."""
    folder = tmp_path_factory.mktemp("review")
    rows = item_rows()
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [f"items={folder}/items.jsonl", "port=0", "reviewer=ada"]
    log = folder / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + 280
        pattern = r"(http://127\.0\.0\.1:\d+)/\?token=([\w-]{32})\s"
        while not (found := re.search(pattern, log.read_text())):
            running = process.poll() is None and time.monotonic() < deadline
            assert running, f"the review did not start:\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
        yield Served(found[1], found[2], rows, folder / "decisions.jsonl")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()[-3000:]
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def review(served_review: Served) -> Served:
    """The running review without any decision."""
    served_review.fresh()
    return served_review


def start_browser() -> tuple[str, Any]:
    """Name and driver of Chromium or else Firefox; without one, the reason and None."""
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service as ChromeService
        from selenium.webdriver.firefox.service import Service as FirefoxService
    except ImportError:
        return "the package selenium is not installed", None
    names = ("chromium", "chromium-browser", "google-chrome")
    chrome = next(filter(None, map(shutil.which, names)), "")
    if chrome and (driver := shutil.which("chromedriver")):
        options = webdriver.ChromeOptions()
        options.binary_location = chrome
        for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
            options.add_argument(f"--{flag}")
        options.add_argument("--window-size=1400,950")
        browser: Any = webdriver.Chrome(options, ChromeService(driver))
    elif shutil.which("firefox") and (driver := shutil.which("geckodriver")):
        firefox = webdriver.FirefoxOptions()
        firefox.add_argument("--headless")
        browser = webdriver.Firefox(firefox, FirefoxService(driver))
    else:
        return "neither Chromium with chromedriver nor Firefox with geckodriver is installed", None
    return f"{browser.name} {browser.capabilities['browserVersion']}", browser


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A headless browser; its tests are skipped where there is none."""
    name, driver = start_browser()
    if driver is None:
        request.config.stash[OUTCOME] = f"tested over HTTP only ({name})"
        pytest.skip(f"no browser for the review page: {name}")
    request.config.stash[OUTCOME] = f"tested over HTTP and in a browser ({name})"
    yield driver
    driver.quit()
