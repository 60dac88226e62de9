"""Waiting for actors: deadlines, dead and hung workers named, and what arrives as it is."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time

import pytest
import ray

from pretrain.run import ray_cluster
from pretrain.run.errors import KeyeError
from pretrain.run.ray_cluster import WorkerDied, WorkerTimeout, call, ray_session, worker_env


@pytest.fixture(scope="module")
def session():
    with ray_session(cpus=2, object_store_mb=80):
        yield


@pytest.fixture(scope="module")
def worker_class(session):
    # Local, so that actors get the class by value, and naming nothing of ours, so that only the
    # one test that needs an error class pays for importing the package in the actor.
    @ray.remote(num_cpus=0)
    class Worker:
        def value(self, number):
            return number

        def environment(self):
            return dict(os.environ)

        def hang(self):
            time.sleep(60)

        def die(self):
            print("last words", file=sys.stderr, flush=True)
            os._exit(3)

        def die_soon(self):
            time.sleep(0.5)
            self.die()

        def refuse(self):
            from pretrain.run.errors import KeyeError

            raise KeyeError("row 3 has no image; add it.")

        def fail(self):
            raise ValueError("a defect")

    return Worker


@pytest.fixture(scope="module")
def worker(worker_class):
    shared = worker_class.remote()
    assert call(shared.value.remote(0), phase="start", worker="worker", timeout_s=200) == 0
    return shared


@pytest.fixture
def pair(worker_class):
    """Two workers that a test may ruin."""
    workers = [worker_class.remote(), worker_class.remote()]
    refs = [worker.value.remote(i) for i, worker in enumerate(workers)]
    assert call(refs, phase="start", worker="rank", timeout_s=200) == [0, 1]
    yield workers
    for worker in workers:
        ray.kill(worker)


def test_values_come_in_the_order_of_the_refs_and_workers_have_our_environment(worker):
    refs = [worker.value.remote("b"), worker.value.remote("a")]
    assert call(refs, phase="p", worker="rank", timeout_s=60) == ["b", "a"]
    seen = call(worker.environment.remote(), phase="p", worker="rank 0", timeout_s=60)
    assert {key: seen.get(key) for key in worker_env()} == worker_env()
    assert seen["OMP_NUM_THREADS"] == "1"


def test_dead_worker_is_named_while_its_peer_hangs(pair):
    first, second = pair
    refs = [first.hang.remote(), second.die.remote()]
    started = time.monotonic()
    with pytest.raises(WorkerDied) as caught:
        call(refs, phase="learn", worker=["rank 0", "rank 1"], timeout_s=60)
    assert time.monotonic() - started < 30
    assert (caught.value.worker, caught.value.index) == ("rank 1", 1)
    assert "rank 1 died in phase 'learn'" in str(caught.value)
    assert "last words" in str(caught.value)


def test_dead_worker_is_named_though_its_peer_fails_first(pair):
    """As in a collective operation, which breaks before the death of its other side is known."""
    refs = [pair[0].fail.remote(), pair[1].die_soon.remote()]
    with pytest.raises(WorkerDied, match="rank 1 died in phase 'learn'"):
        call(refs, phase="learn", worker=["rank 0", "rank 1"], timeout_s=60)


def test_a_defect_is_shown_while_its_peer_hangs(pair):
    with pytest.raises(ValueError, match="a defect"):
        call([pair[0].fail.remote(), pair[1].hang.remote()], phase="p", worker="rank", timeout_s=60)


def test_hung_worker_is_named_with_its_stack(pair):
    with pytest.raises(WorkerTimeout) as caught:
        call(pair[0].hang.remote(), phase="weight sync", worker="engine 0", timeout_s=2)
    text = str(caught.value)
    assert "engine 0 did not answer within 2 s in phase 'weight sync'" in text
    # py-spy may be forbidden to look into another process; where it may, the frame is shown.
    assert "Stack of process" not in text or "hang" in text


def test_keye_error_arrives_as_it_is(worker):
    with pytest.raises(KeyeError) as caught:
        call(worker.refuse.remote(), phase="reward", worker="worker 0", timeout_s=200)
    assert str(caught.value) == "row 3 has no image; add it."


def test_defect_keeps_its_own_type(worker):
    with pytest.raises(ValueError, match="a defect"):
        call(worker.fail.remote(), phase="reward", worker="worker 0", timeout_s=60)


def test_lost_worker_survives_pickling():
    error = pickle.loads(pickle.dumps(WorkerDied("rank 1 died", "rank 1", 1)))
    assert (str(error), error.worker, error.index) == ("rank 1 died", "rank 1", 1)


def test_inner_session_joins_the_outer_one(session):
    before = ray.get_runtime_context().get_node_id()
    with ray_session(cpus=1):
        assert ray.get_runtime_context().get_node_id() == before
    assert ray.is_initialized()


def test_folders_of_dead_jobs_are_removed_and_used_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "SHORT_BASE", tmp_path)
    dead = tmp_path / "keye-ray-dead"
    dead.mkdir()
    (dead / ".lock").touch()
    with ray_cluster._temp_dir() as used:
        assert not dead.exists()
        with ray_cluster._temp_dir() as other:
            assert used.exists() and other.exists()
    assert list(tmp_path.iterdir()) == []


def test_no_gpu_is_seen_where_it_is_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not ray_cluster.has_gpu()
    assert worker_env()["DS_ACCELERATOR"] == "cpu"


START = """
import sys, time, types
import psutil, ray
import ray._private.node as node, ray._private.services as services
from pretrain.run.errors import KeyeError
from pretrain.run.ray_cluster import ray_session

# Ray's clock runs fast and its raylet is not found in the first {late} tries of a second each.
node.time = types.SimpleNamespace(**vars(time) | {{"monotonic": lambda: time.monotonic() * 40}})
found, calls = services.get_node, []
def get_node(*arguments):
    if len(calls) < {late}:
        calls.append(0)
        time.sleep(1)
        raise RuntimeError("not yet")
    return found(*arguments)
services.get_node = get_node
try:
    with ray_session(cpus=1, object_store_mb=80):
        print("up with", ray.cluster_resources()["CPU"])
except KeyeError as error:
    print("error:", error)
left = [" ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)]
print("left:", [text for text in left if "keye-ray" in text])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("late", "says"),
    [
        (1, "up with 1.0"),  # the second try succeeds
        (2, "error: cannot start or reach a local Ray cluster: The current node timed out"),
    ],
)
def test_slow_start_is_tried_again_and_then_an_error_that_says_what_to_do(late, says):
    done = subprocess.run(
        [sys.executable, "-c", START.format(late=late)],
        cwd=ray_cluster.ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    assert says in done.stdout, done.stdout + done.stderr
    assert "trying once more" in done.stderr
    assert "left: []" in done.stdout
    assert ("overloaded machine" in done.stdout) == (late == 2)
