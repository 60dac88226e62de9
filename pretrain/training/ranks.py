"""A group of training processes: one Ray actor per rank, joined in one torch.distributed group.

Invariant: a call either returns one result per rank or raises, and after it has raised no rank of
the group is left alive — a half-finished collective can never block the next call.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any, Generic, TypeVar

import ray

from pretrain.run.errors import KeyeError
from pretrain.run.ray_cluster import WorkerTimeout
from pretrain.run.ray_cluster import call as ray_call


class Rank:
    """Base class of the processes of a `RankGroup`; subclasses add the methods to call.

    The constructor must stay cheap: torch and DeepSpeed are imported by `connect`.
    """

    def __init__(self, rank: int, world_size: int, threads: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self.threads = threads

    def find_address(self) -> tuple[str, int]:
        """This node's address and a port that was free a moment ago (asked of rank 0 only)."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def connect(self, address: str, port: int, local: bool) -> None:
        """Joins the process group whose rank 0 listens at `address:port`."""
        init_rank(self.rank, self.world_size, address, port, threads=self.threads, same_node=local)

    def node(self) -> str:
        """The node this rank runs on."""
        return ray.get_runtime_context().get_node_id()


RankT = TypeVar("RankT", bound=Rank)


def init_rank(
    rank: int,
    world_size: int,
    address: str,
    port: int,
    *,
    threads: int = 1,
    same_node: bool = True,
    timeout_s: float = 1800.0,
) -> None:
    """Makes this process rank `rank` of `world_size`; the backend is NCCL on GPUs, else gloo.

    Call it once per process, before any model is built. `timeout_s` bounds a single collective;
    a dead peer is noticed much earlier by the driver (see `RankGroup.call`).
    """
    import torch

    gpu = torch.cuda.is_available()
    local_rank = 0 if gpu else rank  # Ray shows every rank only its own GPU, as device 0
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(local_rank),
        LOCAL_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        OMP_NUM_THREADS=str(threads),
    )
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    if same_node and not gpu:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # host names of containers often don't resolve
    torch.set_num_threads(threads)
    # Subnormal numbers cost the CPU a hundredfold and mean nothing in a gradient.
    torch.set_flush_denormal(True)
    import deepspeed

    # The shared-memory op is compiled for minutes on first use and training never calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if gpu else "gloo",
        timeout=timedelta(seconds=timeout_s),
        auto_mpi_discovery=False,
        distributed_port=port,
        verbose=False,
    )


class RankGroup(Generic[RankT]):
    """`world_size` actors of `actor_class`, connected and ready to be called together.

    Args:
        actor_class: a subclass of `Rank`; built as `actor_class(rank, world_size, threads, *args)`.
        world_size: number of ranks.
        name: what error messages call the group ("learner").
        args: further constructor arguments, the same for every rank.
        threads: CPU threads of one rank.
        cpus_per_rank: Ray CPUs one rank reserves; a fraction lets engines and ranks that take
            turns share the cores.
        gpus_per_rank: Ray GPUs one rank reserves.
        start_timeout_s: deadline for processes, imports and rendezvous together.
        deadline_key: what error messages call the setting behind the deadline of calls.
    """

    def __init__(
        self,
        actor_class: type[RankT],
        world_size: int,
        *,
        name: str = "rank",
        args: tuple[Any, ...] = (),
        threads: int = 1,
        cpus_per_rank: float = 0.25,
        gpus_per_rank: float = 0.0,
        start_timeout_s: float = 180.0,
        deadline_key: str = "timeout_s of this stage",
    ) -> None:
        if world_size < 1:
            raise KeyeError(f"world_size={world_size}: a {name} group needs at least one rank")
        self.name = name
        self.world_size = world_size
        self.deadline_key = ""  # the start has a deadline of its own
        self._actors: list[Any] = []
        remote_class = ray.remote(actor_class)
        for rank in range(world_size):
            options: dict[str, Any] = {
                "num_cpus": cpus_per_rank,
                "num_gpus": gpus_per_rank,
                "max_restarts": 0,
                "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            }
            self._actors.append(
                remote_class.options(**options).remote(rank, world_size, threads, *args)
            )
        self._rendezvous(start_timeout_s)
        self.deadline_key = deadline_key

    def _rendezvous(self, timeout_s: float) -> None:
        nodes = self.call("node", phase="start", timeout_s=timeout_s)
        address, port = self.call("find_address", phase="start", timeout_s=timeout_s, ranks=[0])[0]
        local = len(set(nodes)) == 1
        if local:
            address = "127.0.0.1"
        self.call("connect", address, port, local, phase="rendezvous", timeout_s=timeout_s)

    def call(
        self,
        method: str,
        *args: Any,
        phase: str,
        timeout_s: float,
        per_rank: list[tuple[Any, ...]] | None = None,
        ranks: list[int] | None = None,
    ) -> list[Any]:
        """Calls `method` on every rank at once and waits for all of them.

        Args:
            method: name of a method of the actor class.
            *args: the same arguments for every rank …
            phase: what is going on, for error messages ("update", "save").
            timeout_s: deadline for the slowest rank, in seconds.
            per_rank: … or one tuple of arguments per rank, appended to `args`.
            ranks: call only these ranks; never for methods with collectives.

        Returns:
            One result per rank called, in the order of ranks.

        Raises:
            KeyeError: a rank died, raised or missed the deadline; it is named, and the whole
                group has been shut down.
        """
        chosen = list(range(self.world_size)) if ranks is None else ranks
        if not self._actors:
            raise KeyeError(f"{self.name} group is closed; {phase} can't run on it")
        if per_rank is not None and len(per_rank) != len(chosen):
            raise KeyeError(
                f"{phase}: {len(per_rank)} argument tuples for {len(chosen)} {self.name} ranks"
            )
        refs = [
            getattr(self._actors[rank], method).remote(*args, *(per_rank[i] if per_rank else ()))
            for i, rank in enumerate(chosen)
        ]
        names = [f"{self.name} rank {rank} of {self.world_size}" for rank in chosen]
        try:
            return ray_call(refs, phase=phase, worker=names, timeout_s=timeout_s)
        except WorkerTimeout as error:
            self.close()
            if not self.deadline_key:
                raise
            text = f"{error}\nIf it is slow and not stuck, raise {self.deadline_key}."
            raise WorkerTimeout(text, error.worker, error.index) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends every rank's process; safe to call twice."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
