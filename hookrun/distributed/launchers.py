"""Starting the process group of a job that torchrun, Slurm or MPI launched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hookrun.core.errors import did_you_mean

from .environment import get_dist_info

_DEFAULT_PORT = 29500


@dataclass(frozen=True)
class _Process:
    """Which process of the job this is, and where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size or self.local_rank < 0:
            raise ValueError(
                f"the environment says rank {self.rank} (local rank {self.local_rank}) of "
                f"{self.world_size} processes: ranks count from 0, and are below their number"
            )
        if not 0 < self.port < 2**16:
            raise ValueError(f"a port is from 1 to 65535, not {self.port}")


def init_dist(launcher: str, backend: str | None = None, **kwargs: Any) -> None:
    """Start the default process group, and choose this process's GPU.

    Where ``torchrun --max-restarts`` starts the ranks of one machine again, they form a new group.
    On several machines that takes ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` in torchrun's
    environment.

    From then on, warnings by ``warnings.warn`` begin with the rank on other ranks than 0, as torch
    lets tracebacks do.

    Args:
        launcher: what started the processes: ``'pytorch'`` (torchrun), ``'slurm'`` (srun) or
            ``'mpi'`` (mpirun of Open MPI, MPICH or MVAPICH). Each sets environment variables.
        backend: ``'nccl'``, ``'gloo'`` or another of torch's; by default nccl with a GPU, gloo
            without.
        kwargs: passed on to ``torch.distributed.init_process_group``. ``port`` is the port of rank
            0 under Slurm and MPI; by default ``MASTER_PORT``, or one that follows from the job.

    Raises:
        TypeError: ``port`` is no int.
        ValueError: an unknown launcher or backend; an environment variable is no number, or the
            port is out of range.
        RuntimeError: environment variables are missing (the message names them); nccl without a
            GPU; or there is a process group already.
    """
    if not isinstance(launcher, str) or launcher not in _LAUNCHERS:
        hint = did_you_mean(str(launcher), _LAUNCHERS)
        raise ValueError(f"unknown launcher {launcher!r}. {hint}")
    if dist.is_initialized():
        raise RuntimeError("there is a process group already: call init_dist once")
    has_gpu = torch.cuda.is_available()
    backend = ("nccl" if has_gpu else "gloo") if backend in (None, "") else str(backend)
    known = dist.Backend.backend_list
    for name in (part.rpartition(":")[2].lower() for part in backend.split(",")):
        if name not in known:
            raise ValueError(f"unknown backend {backend!r}. {did_you_mean(name, known)}")
    if backend.lower() == "nccl" and not has_gpu:
        raise RuntimeError("backend='nccl' needs a GPU, and there is none here; use 'gloo'")
    port = kwargs.pop("port", None)
    if port is not None and (isinstance(port, bool) or not isinstance(port, int)):
        raise TypeError(f"init_dist: port is an int, not {port!r}")
    process = _LAUNCHERS[launcher](port)
    if has_gpu:
        torch.cuda.set_device(process.local_rank % torch.cuda.device_count())
    os.environ.update(
        RANK=str(process.rank),
        WORLD_SIZE=str(process.world_size),
        LOCAL_RANK=str(process.local_rank),
        MASTER_ADDR=process.address,
        MASTER_PORT=str(process.port),
    )
    if launcher == "pytorch" and not {"store", "init_method"} & set(kwargs) and _is_restartable():
        kwargs["store"] = _store_of_start(process, kwargs.get("timeout"))
        kwargs.update(rank=process.rank, world_size=process.world_size)
    dist.init_process_group(backend, **kwargs)
    if not hasattr(warnings.formatwarning, "shows_rank"):
        warnings.formatwarning = _WarningsByRank(warnings.formatwarning)


class _WarningsByRank:
    """Formats warnings, with the rank where it is not 0.

    Args:
        format_warning: what does so without the rank.
    """

    shows_rank = True

    def __init__(self, format_warning: Callable[..., str]) -> None:
        self._format = format_warning

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        rank = get_dist_info()[0]
        return (f"[rank {rank}] " if rank else "") + self._format(*args, **kwargs)


def _is_restartable() -> bool:
    """Whether ranks share the store of torchrun's agent, and know how often it has started them.

    On several machines the agents count restarts of their own.
    """
    return (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        and "TORCHELASTIC_RESTART_COUNT" in os.environ
        and os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    )


def _store_of_start(process: _Process, timeout: timedelta | None) -> Any:
    """A store of this start of the job's ranks alone.

    The agent's store outlives a restart. Ranks would find the addresses of those that were there
    before, and try in vain to connect to them.
    """
    store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not export it
        process.address, process.port, process.world_size, is_master=False
    )
    if timeout is not None:
        store.set_timeout(timeout)
    prefix = f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]  # the same


def _of_pytorch(port: int | None) -> _Process:
    _require("pytorch", "torchrun", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank = _int_of("RANK")
    return _Process(
        rank,
        _int_of("WORLD_SIZE"),
        _int_of("LOCAL_RANK", rank),
        os.environ["MASTER_ADDR"],
        _int_of("MASTER_PORT") if port is None else port,
    )


def _of_slurm(port: int | None) -> _Process:
    _require("slurm", "srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")
    rank = _int_of("SLURM_PROCID")
    address = os.environ.get("MASTER_ADDR") or _first_host(os.environ["SLURM_NODELIST"])
    # A port for each step of a job: several may run at once.
    job, step = (os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    number = int(job) + (int(step) if step.isdigit() else 0) if job.isdigit() else None
    own = _DEFAULT_PORT if number is None else 10_000 + number % 20_000
    return _Process(
        rank,
        _int_of("SLURM_NTASKS"),
        _int_of("SLURM_LOCALID", rank),
        address,
        _int_of("MASTER_PORT", own) if port is None else port,
    )


def _of_mpi(port: int | None) -> _Process:
    for kind in _MPI:
        if kind[0] in os.environ:
            break
    else:
        expected = " or ".join(names[0] for names in _MPI)
        raise RuntimeError(
            f"launcher='mpi' reads the environment that mpirun makes, and {expected} is not set: "
            "start the program with mpirun"
        )
    if kind[1] not in os.environ:
        raise RuntimeError(f"launcher='mpi': {kind[0]} is set, and {kind[1]} is not")
    rank, world_size = _int_of(kind[0]), _int_of(kind[1])
    local_size = _int_of(kind[3], world_size)
    if "MASTER_ADDR" not in os.environ and local_size < world_size:
        raise RuntimeError(
            f"launcher='mpi': {local_size} of {world_size} processes are on this machine, and "
            "mpirun does not say where rank 0 is: set MASTER_ADDR to the name of its machine, as "
            "by mpirun -x MASTER_ADDR=..."
        )
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    local_rank = _int_of(kind[2], rank)
    own = _int_of("MASTER_PORT", _DEFAULT_PORT) if port is None else port
    return _Process(rank, world_size, local_rank, address, own)


_LAUNCHERS = {"pytorch": _of_pytorch, "slurm": _of_slurm, "mpi": _of_mpi}
# Rank, world size, local rank and the number of processes on this machine, under Open MPI, MVAPICH,
# and MPICH or Intel MPI.
_MPI = (
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    (
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def _require(launcher: str, command: str, *names: str) -> None:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise RuntimeError(
            f"launcher={launcher!r} reads the environment that {command} makes, in which "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: start the "
            f"program with {command}"
        )


def _int_of(name: str, default: int | None = None) -> int:
    """The number in an environment variable; ``default`` if it is not set."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ValueError(
            f"the environment variable {name} must be a number, not {text!r}"
        ) from None


def _first_host(nodes: str) -> str:
    """The first host of Slurm's list, such as ``node[03-05,9],other``."""
    if shutil.which("scontrol"):
        command = ["scontrol", "show", "hostnames", nodes]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    found = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if found is None:
        raise RuntimeError(f"SLURM_NODELIST={nodes!r} names no host; set MASTER_ADDR")
    return found[1] + (found[2] or "")
