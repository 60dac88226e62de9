"""The scripts a person types: what they say on a machine that lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = [
    "bash",
    "cat",
    "sha256sum",
    "cut",
    "df",
    "awk",
    "grep",
    "tail",
    "dirname",
    "flock",
    "rm",
    "env",
    "mkdir",
    "chmod",
]


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(tmp_path):
    """A copy of what set-up reads, and a PATH with basic tools only."""
    shutil.copytree(ROOT / "scripts", tmp_path / "repo" / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "repo")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    return tmp_path / "repo", tools


def run(repo: Path, tools: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(tools), "HOME": str(repo), **extra}
    return subprocess.run(
        [str(repo / words[0]), *words[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def python_311() -> str:
    return os.path.realpath(sys.executable)


def test_setup_names_a_missing_python(bare):
    done = run(*bare, "scripts/setup")
    assert done.returncode == 1
    assert "Python 3.11 is needed and was not found" in done.stderr


def test_setup_names_a_wrong_python(bare):
    script(bare[1] / "python3", "echo 3.12")
    done = run(*bare, "scripts/setup")
    assert done.returncode == 1
    assert "Python 3.11 is needed" in done.stderr


def test_setup_names_a_missing_compiler(bare):
    (bare[1] / "python3.11").symlink_to(python_311())
    done = run(*bare, "scripts/setup")
    assert done.returncode == 1
    assert "a C compiler is needed" in done.stderr


def test_setup_names_missing_disk(bare):
    (bare[1] / "df").unlink()
    script(bare[1] / "df", "printf 'head\\ndisk 9 9 1048576 9%% /\\n'")
    done = run(*bare, "scripts/setup")
    assert done.returncode == 1
    assert "6 GiB of free disk are needed" in done.stderr and "1 GiB are free" in done.stderr


def test_setup_names_a_missing_network(bare):
    (bare[1] / "python3.11").symlink_to(python_311())
    script(bare[1] / "cc", "exit 0")
    done = run(
        *bare,
        "scripts/setup",
        PIP_CONFIG_FILE="/dev/null",
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_DEFAULT_TIMEOUT="2",
    )
    assert done.returncode == 1
    assert "the package index cannot be reached" in done.stderr, done.stderr


def test_second_setup_does_nothing():
    if not (ROOT / ".venv" / "keye-rl.stamp").exists():
        pytest.skip("this environment was not made by scripts/setup")
    subprocess.run([str(ROOT / "scripts" / "setup")], check=True)  # after an edit of the pins
    started = time.monotonic()
    done = subprocess.run(
        [str(ROOT / "scripts" / "setup")], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    assert time.monotonic() - started < 2


def fake_environment(repo: Path, lint: int = 0) -> None:
    script(repo / "scripts" / "setup", "exit 0")
    script(repo / ".venv" / "bin" / "ruff", f"exit {lint}")
    script(repo / ".venv" / "bin" / "mypy", "exit 0")
    script(repo / ".venv" / "bin" / "python", 'echo "pytest got: $*"')


def test_test_script_passes_words_on_and_says_that_all_passed(bare):
    fake_environment(bare[0])
    done = run(*bare, "scripts/test", "--all", "tests/rl", "-x")
    assert done.returncode == 0
    assert "pytest got: -m pytest --no-header -m slow or not slow tests/rl -x" in done.stdout
    assert done.stdout.splitlines()[-1] == "all passed"


def test_test_script_goes_on_after_a_failure_and_fails(bare):
    fake_environment(bare[0], lint=1)
    done = run(*bare, "scripts/test")
    assert done.returncode == 1
    assert "pytest got:" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed: lint"


def test_quickstart_runs_the_recipe_with_overrides(bare):
    fake_environment(bare[0])
    done = run(*bare, "scripts/quickstart", "gspo.steps=2")
    assert done.stdout.strip() == (
        "pytest got: -m rl recipe=quickstart run=quickstart gspo.steps=2"
    )
