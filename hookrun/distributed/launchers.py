"""Starting the process group of a job that torchrun, Slurm or MPI launched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from hookrun.core.errors import did_you_mean

_DEFAULT_PORT = 29500


@dataclass(frozen=True)
class _Process:
    """Which process of the job this is, and where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


def init_dist(launcher: str, backend: str | None = None, **kwargs: Any) -> None:
    """Start the default process group, and choose this process's GPU.

    Args:
        launcher: what started the processes: ``'pytorch'`` (torchrun), ``'slurm'`` (srun) or
            ``'mpi'`` (mpirun of Open MPI, MPICH or MVAPICH). Each sets environment variables.
        backend: ``'nccl'``, ``'gloo'`` or another of torch's; by default nccl with a GPU, gloo
            without.
        kwargs: passed on to ``torch.distributed.init_process_group``. ``port`` is the port of rank
            0 under Slurm and MPI; by default ``MASTER_PORT``, or one that follows from the job.

    Raises:
        ValueError: an unknown launcher.
        RuntimeError: environment variables are missing (the message names them); nccl without a
            GPU; or there is a process group already.
    """
    if launcher not in _LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}. {did_you_mean(launcher, _LAUNCHERS)}")
    if dist.is_initialized():
        raise RuntimeError("there is a process group already: call init_dist once")
    has_gpu = torch.cuda.is_available()
    backend = backend or ("nccl" if has_gpu else "gloo")
    if backend == "nccl" and not has_gpu:
        raise RuntimeError("backend='nccl' needs a GPU, and there is none here; use 'gloo'")
    process = _LAUNCHERS[launcher](kwargs.pop("port", None))
    if has_gpu:
        torch.cuda.set_device(process.local_rank % torch.cuda.device_count())
    os.environ.update(
        RANK=str(process.rank),
        WORLD_SIZE=str(process.world_size),
        LOCAL_RANK=str(process.local_rank),
        MASTER_ADDR=process.address,
        MASTER_PORT=str(process.port),
    )
    dist.init_process_group(backend, **kwargs)


def _of_pytorch(port: int | None) -> _Process:
    found = _read("pytorch", "torchrun", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, world_size = int(found["RANK"]), int(found["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return _Process(
        rank, world_size, local_rank, found["MASTER_ADDR"], port or int(found["MASTER_PORT"])
    )


def _of_slurm(port: int | None) -> _Process:
    found = _read("slurm", "srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")
    rank, world_size = int(found["SLURM_PROCID"]), int(found["SLURM_NTASKS"])
    local_rank = int(os.environ.get("SLURM_LOCALID", rank))
    address = os.environ.get("MASTER_ADDR") or _first_host(found["SLURM_NODELIST"])
    return _Process(rank, world_size, local_rank, address, port or _port("SLURM_JOB_ID"))


def _of_mpi(port: int | None) -> _Process:
    for kind in _MPI:
        if kind[0] in os.environ:
            break
    else:
        expected = " or ".join(names[0] for names in _MPI)
        raise RuntimeError(
            f"launcher='mpi' reads the environment that mpirun makes, and {expected} is not set"
        )
    rank, world_size, local_rank = (int(os.environ.get(name, -1)) for name in kind)
    if world_size < 0:
        raise RuntimeError(f"launcher='mpi': {kind[0]} is set, and {kind[1]} is not")
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    return _Process(
        rank, world_size, rank if local_rank < 0 else local_rank, address, port or _port(None)
    )


_LAUNCHERS = {"pytorch": _of_pytorch, "slurm": _of_slurm, "mpi": _of_mpi}
# Rank, world size and local rank under Open MPI, MVAPICH, and MPICH or Intel MPI.
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def _read(launcher: str, command: str, *names: str) -> Mapping[str, str]:
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"launcher={launcher!r} reads the environment that {command} makes, in which "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: start the "
            f"program with {command}"
        )
    return {name: os.environ[name] for name in names}


def _port(job: str | None) -> int:
    """``MASTER_PORT``, or a port that follows from the number of the job."""
    if "MASTER_PORT" in os.environ:
        return int(os.environ["MASTER_PORT"])
    number = os.environ.get(job or "", "")
    return 10_000 + int(number) % 20_000 if number.isdigit() else _DEFAULT_PORT


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
