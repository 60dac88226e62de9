"""Code in the sandbox: what passes, what fails, what it cannot reach."""

import pytest

from rewards.rules.code import code, comparison, extract
from rewards.sandbox import client, isolation

DOUBLE = "def f(x):\n    return 2 * x"


def run(program: str, tests, **args):
    return code(f"Here:\n```python\n{program}\n```\n", {"mode": "no_think", "tests": tests}, **args)


@pytest.mark.parametrize(
    ("program", "tests", "value"),
    [
        (
            DOUBLE,
            ["assert f(2) == 4", "assert f('a') == 'aa'", {"call": "f(3)", "expected": 6}],
            1.0,
        ),
        (DOUBLE, ["assert f(2) == 5"], 0.0),
        ("print(2 * int(input()))", [{"input": "4", "output": "8\n"}], 1.0),
        ("print(2 * int(input()), end=' \\n\\n')", [{"input": "4", "output": "8"}], 1.0),
        ("print(9)", [{"input": "4", "output": "8"}], 0.0),
        (DOUBLE, ["def check(g):\n    assert g(2) == 4\ncheck(f)"], 1.0),
        (DOUBLE, ["def check(g):\n    assert g(2) == 5\ncheck(f)"], 0.0),
        ("def f(x): return [x]\n", ["assert f(1) == [1]", "assert not f(0) == 1"], 1.0),
        # leaving early proves nothing
        ("import os; os._exit(0)", ["assert f(2) == 4"], 0.0),
        ("import sys; sys.exit(0)", ["def check(g):\n    assert g(2)\ncheck(f)"], 0.0),
        ("import os\ndef f(x): os._exit(0)", ["for i in range(3): assert f(i) == 1"], 0.0),
        # an object that claims to equal everything
        (
            "class E:\n  def __eq__(s, o): return True\ndef f(x): return E()",
            ["assert f(2) == 4"],
            0.0,
        ),
        ("syntax error here", ["assert f(2) == 4"], 0.0),
        ("", ["assert f(2) == 4"], 0.0),
    ],
)
def test_programs(program, tests, value):
    result = run(program, tests)
    assert (result.status, result.value) == ("ok", value), result.details


def test_partial():
    tests = [
        "assert f(2) == 4",
        "assert f(2) == 5",
        {"call": "f(1)", "expected": 2},
        "assert f(0) == 0",
    ]
    assert run(DOUBLE, tests, partial=True).value == 0.75
    assert run(DOUBLE, tests).value == 0.0


PROBE = """
import ctypes, os, socket, subprocess, sys
def tried(action):
    try:
        return repr(action())
    except BaseException as error:
        return type(error).__name__
for action in (
    lambda: socket.socket(),
    lambda: open("/usr/stolen", "w"),
    lambda: open("/etc/passwd").read(),
    lambda: os.listdir("/proc"),
    lambda: os.listdir("/home"),
    lambda: os.kill(1, 9) or os.kill(1, 0),
    lambda: os.setuid(0),
    lambda: ctypes.CDLL(None).unshare(0x10000000),
    lambda: ctypes.CDLL(None).ptrace(16, 1, 0, 0),
    lambda: ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None),
    lambda: sorted(os.environ),
    lambda: len(open("/tmp/big", "w").write("x" * (64 << 20))),
):
    print(tried(action))
"""


def test_what_code_cannot_reach():
    (report,) = client.run_isolated(PROBE, [{"stdin": ""}], client.Limits(), False)
    outcome = report["stdout"].splitlines()
    assert outcome[:5] == [
        "PermissionError",
        "OSError",
        "FileNotFoundError",
        "FileNotFoundError",
        "FileNotFoundError",
    ]
    assert outcome[5] == "None"  # process 1 of the sandbox does not even notice the signal
    assert outcome[6] == "PermissionError"
    assert outcome[7:10] == ["-1", "-1", "-1"]
    assert "PATH" not in outcome[10] and "HOME" in outcome[10]
    assert outcome[11] in ("OSError", "MemoryError")
    assert report["status"] == "ok"


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time; time.sleep(100)",
        "import os\nwhile True: os.fork()",
        "x = 'a' * (1 << 34)",
        "1e9**1e9",
        "x = 9**9**9",
        "def f(): f()\nf()",
        "import ctypes; ctypes.string_at(0)",
        "while True: print('x' * 10000)",
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])",
    ],
)
def test_hostile_programs_fail_their_tests_and_nothing_else(program):
    result = run(program, ["assert f(2) == 4"], seconds=1.0)
    assert (result.status, result.value) == ("ok", 0.0), result.details


@pytest.mark.parametrize(
    ("printed", "wanted", "value"),
    [
        ("10.0", "10", 1.0),
        ("1234", "1,234", 1.0),
        ("0.30000000000000004", "0.3", 1.0),
        ("10", "10 apples", 0.0),
        ("10.001", "10", 0.0),
        ("1\\n0", "10", 0.0),
        ("9" * 60, "9" * 59 + "8", 0.0),
    ],
)
def test_outputs_may_be_compared_by_value(printed, wanted, value):
    tests = [{"input": "", "output": wanted}]
    assert run(f"print('{printed}')", tests, by_value=True).value == value
    assert run(f"print('{printed}')", tests).value == 0.0


def test_memory_is_limited_and_enough():
    tests = [{"input": "", "output": "done"}]
    assert run("x = bytearray(64 << 20); print('done')", tests).value == 1.0
    assert run("x = bytearray(512 << 20); print('done')", tests).value == 0.0


def test_no_isolation_is_an_error_that_names_it(monkeypatch):
    def refuse(*_, **__):
        raise client.SandboxError("this machine cannot isolate code (network namespaces), so …")

    monkeypatch.setattr("rewards.rules.code.run_isolated", refuse)
    result = run(DOUBLE, ["assert f(2) == 4"])
    assert result.status == "error" and "network namespaces" in result.details["message"]


def test_sandbox_refuses_when_namespaces_are_refused():
    """The real thing, inside a process that may create no further namespaces."""
    import subprocess
    import sys

    script = (
        "from rewards.rules.code import code\n"
        "from rewards.sandbox import isolation\n"
        "isolation.libc.prctl(isolation.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)\n"
        "isolation._filter_system_calls()\n"  # it forbids unshare, as a strict container does
        "print(code('def f(x): return 4', {'tests': ['assert f(2) == 4']}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "status='error'" in done.stdout and "cannot isolate code" in done.stdout, done
    assert "namespaces" in done.stdout


def test_filter_program_has_one_verdict_a_call():
    import struct

    steps = list(struct.iter_unpack("HBBI", isolation.filter_program()))
    for index, (operation, jump_true, jump_false, _) in enumerate(steps):
        if operation in (isolation.JUMP_EQUAL, isolation.JUMP_SET, isolation.JUMP_GREATER_EQUAL):
            assert index + 1 + max(jump_true, jump_false) < len(steps)
    denied = [
        s for s in steps if s[0] == isolation.JUMP_EQUAL and s[3] == isolation.CALLS["mount"][0]
    ]
    if denied:
        target = steps.index(denied[0]) + 1 + denied[0][1]
        assert steps[target] == (isolation.RETURN, 0, 0, isolation.ERRNO | isolation.EPERM)


def test_extract_takes_the_last_python_block():
    text = "```python\na\n```\nor\n```py\nb\n```\n```json\n{}\n```"
    assert extract(text) == "b"
    assert extract("print(1)") == "print(1)"
    assert extract("```json\n{}\n```") == ""


def test_comparison():
    assert comparison("assert f(1) == [2]") == ("f(1)", [2])
    assert comparison("assert f(1)") == ("bool(f(1))", True)
    assert comparison("assert not f(1)") == ("bool(f(1))", False)
    assert comparison("assert f(1) < 3") == ("bool(f(1) < 3)", True)
    assert comparison("assert f(1) == g(1)") is None
    assert comparison("x = 1") is None
