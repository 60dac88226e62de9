"""Ray start-up, and waiting for actors with a deadline.

Invariant: nothing waits for an actor without a deadline. A dead or hung one is noticed while
waiting for it, and the error names the worker, the phase and, for a hang, where it hangs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Ray reads these when it is imported or started: no usage report leaves the machine.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import psutil
import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from pretrain.run.console import warn
from pretrain.run.errors import KeyeError

ROOT = Path(__file__).resolve().parents[2]
SHORT_BASE = Path("/tmp")
TEMP_PREFIX = "keye-ray-"
# A dead actor is looked for this often while others of the same call still work.
POLL_SECONDS = 1.0
# So long may Ray need to notice that an actor of a call is dead, after another one has failed.
DEATH_SECONDS = 3.0
STACK_LINES = 40
MAX_STACKS = 3
LOG_LINES = 15


class WorkerLost(KeyeError):
    """An actor that died or does not answer: its name, and its place in the call."""

    def __init__(self, message: str, worker: str, index: int) -> None:
        super().__init__(message)
        self.worker = worker
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (str(self), self.worker, self.index))


class WorkerDied(WorkerLost):
    """The actor's process is gone."""


class WorkerTimeout(WorkerLost):
    """The actor lives but did not answer before the deadline."""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device that is not hidden; torch is not imported."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def worker_env() -> dict[str, str]:
    """Environment of every actor: one thread each unless the actor asks for more, and offline."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    env = {
        "PYTHONPATH": path,
        # Two OpenMP threads on contended cores can cost ten times one; actors set their own count.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    if not has_gpu():
        env["DS_ACCELERATOR"] = "cpu"
    return env


@contextmanager
def ray_session(cpus: int | None = None, object_store_mb: int = 512) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or run a local one for the length of the block.

    `cpus`: logical CPUs of a local cluster (default: the machine's); `object_store_mb`: its
    shared memory in MiB. Inside another session the block joins that one.
    """
    if ray.is_initialized():
        yield
        return
    common = {"runtime_env": {"env_vars": worker_env()}, "log_to_driver": False}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _init(f"the Ray cluster at RAY_ADDRESS={address}", None, address=address, **common)
        try:
            yield
        finally:
            ray.shutdown()
        return
    with _temp_dir() as folder:
        _init(
            "a local Ray cluster",
            folder,
            num_cpus=cpus or os.cpu_count(),
            object_store_memory=object_store_mb << 20,
            include_dashboard=False,
            _temp_dir=str(folder),
            **common,
        )
        try:
            yield
        finally:
            ray.shutdown()


def _init(what: str, folder: Path | None = None, **options: Any) -> None:
    """Start or reach a cluster; a local one (with its `folder`) has a second try.

    Ray waits 30 s for its own processes to come up, which is not always enough on a busy machine,
    and then raises a bare `Exception` that leaves them running.
    """
    for last in (False, True):
        try:
            ray.init(logging_level="ERROR", **options)
            return
        except (ConnectionError, TimeoutError, ValueError, RuntimeError, OSError) as error:
            raise KeyeError(
                f"cannot start or reach {what}: {error}. Check that memory and /dev/shm are not "
                "full and, for a cluster, that the address is right."
            ) from error
        except Exception as error:
            if type(error) is not Exception:
                raise
            if folder is not None:
                _end_processes(folder)
            if last or folder is None:
                raise KeyeError(
                    f"cannot start or reach {what}: {error} This happens on an overloaded machine: "
                    "end what else runs there, or wait, and give the same command again (it goes "
                    "on from the last complete state)."
                ) from error
            warn(f"{what} did not come up in time; trying once more")


def _end_processes(folder: Path) -> None:
    """Kill what a failed start of the cluster in `folder` left behind."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in word for word in child.cmdline()):
                child.kill()
                child.wait(10)


@contextmanager
def _temp_dir() -> Iterator[Path]:
    """A folder for a local cluster's sockets and logs; those of killed jobs are removed.

    The path must be short, since a socket's path may have 107 bytes at most.
    """
    base = SHORT_BASE if os.access(SHORT_BASE, os.W_OK) else Path(tempfile.gettempdir())
    for old in base.glob(f"{TEMP_PREFIX}*"):
        _remove_if_unused(old)
    folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=base))
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_unused(folder: Path) -> None:
    """Remove a cluster folder whose job is gone: the kernel freed its lock."""
    try:
        with open(folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, not ours, or just being made
        return


def call(
    refs: ray.ObjectRef | Sequence[ray.ObjectRef],
    *,
    phase: str,
    worker: str | Sequence[str],
    timeout_s: float,
) -> Any:
    """The value of one ref, or the list of values of several, within `timeout_s` seconds.

    `worker` names the actor, or the actors in the order of `refs` (one name for several refs gets
    a number). Raises `WorkerDied` or `WorkerTimeout` naming worker and phase; a `KeyeError` raised
    inside an actor arrives as it is. One failure ends the wait: the others, which may hang on the
    dead one in a collective operation, are not waited for.
    """
    single = isinstance(refs, ray.ObjectRef)
    wanted: list[ray.ObjectRef] = [refs] if single else list(refs)  # type: ignore[list-item]
    if isinstance(worker, str):
        names = [worker] if single else [f"{worker} {i}" for i in range(len(wanted))]
    else:
        names = list(worker)
    values: dict[int, Any] = {}
    waiting = {ref: i for i, ref in enumerate(wanted)}
    deadline = time.monotonic() + timeout_s
    while waiting:
        left = deadline - time.monotonic()
        if left <= 0:
            raise _timeout(waiting, names, phase, timeout_s)
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=min(left, POLL_SECONDS))
        for ref in ready:
            index = waiting.pop(ref)
            try:
                values[index] = _value(ref, phase, names[index], index)
            except RayTaskError:
                _raise_death(waiting, names, phase)
                raise
    return values[0] if single else [values[i] for i in range(len(wanted))]


def _raise_death(waiting: dict[ray.ObjectRef, int], names: list[str], phase: str) -> None:
    """Raise `WorkerDied` if another actor of the call is gone: a collective operation breaks in
    the living ones before Ray has noticed the death, and their error names nobody."""
    ended, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=DEATH_SECONDS)
    for ref in ended:
        with suppress(RayTaskError):
            _value(ref, phase, names[waiting[ref]], waiting[ref])


def _timeout(
    waiting: dict[ray.ObjectRef, int], names: list[str], phase: str, timeout_s: float
) -> WorkerTimeout:
    """Name all that did not answer, with the stacks of the first few."""
    index = next(iter(waiting.values()))
    silent = " and ".join(names[i] for i in waiting.values())
    text = f"{silent} did not answer within {timeout_s:g} s in phase {phase!r}."
    for ref in list(waiting)[:MAX_STACKS]:
        text += _where(ref)
    return WorkerTimeout(text, names[index], index)


def _value(ref: ray.ObjectRef, phase: str, name: str, index: int) -> Any:
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        if isinstance(error.cause, KeyeError):
            raise error.cause from None
        raise
    except OutOfMemoryError as error:
        text = f"{name} was killed for lack of memory in phase {phase!r}. Use fewer or smaller "
        text += "workers, or a smaller batch or cache."
        raise WorkerDied(text, name, index) from error
    except (RayActorError, WorkerCrashedError) as error:
        reason = " ".join(str(error).split())[:400]
        text = f"{name} died in phase {phase!r}: {reason}{_last_log_lines(ref)}"
        raise WorkerDied(text, name, index) from error
    except GetTimeoutError as error:
        text = f"the result of {name} in phase {phase!r} could not be fetched."
        raise WorkerTimeout(text, name, index) from error


def _process(ref: ray.ObjectRef) -> int | None:
    """Process id of the actor behind `ref`, where it is on this machine."""
    from ray._private import state

    try:
        record = state.actors(ref.task_id().actor_id().hex())
        node = ray.get_runtime_context().get_node_id()
        address = record.get("Address", {})
        return int(record["Pid"]) or None if address.get("NodeID", node) == node else None
    except Exception:  # a diagnosis must not hide the failure it describes
        return None


def _where(ref: ray.ObjectRef) -> str:
    """Where the actor hangs (py-spy's stack dump), or nothing where that cannot be seen."""
    pid = _process(ref)
    spy = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if pid is None or spy is None:
        return ""
    command = [spy, "dump", "--nonblocking", "--pid", str(pid)]
    try:
        dump = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    stack = "\n".join(dump.stdout.splitlines()[:STACK_LINES])
    return f"\nStack of process {pid}:\n{stack}" if dump.returncode == 0 else ""


def _last_log_lines(ref: ray.ObjectRef) -> str:
    """The end of what a dead actor of a local cluster wrote to standard error."""
    pid = _process(ref)
    node = ray._private.worker._global_node
    if pid is None or node is None:
        return ""
    lines: list[str] = []
    for log in Path(node.get_logs_dir_path()).glob(f"worker-*-{pid}.err"):
        lines += log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return "\nIts last lines:\n" + "\n".join(lines) if lines else ""
