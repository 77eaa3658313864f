"""init_dist under torchrun's, Slurm's and MPI's environments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hookrun import init_dist
from hookrun.distributed.launchers import _first_host
from tests.distributed.workers import free_port
from tests.support import group_of_one

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PMI_RANK"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID", "SLURM_JOB_ID"),
    *("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
)
PROGRAM = """
import sys, os, torch
from hookrun import get_dist_info, init_dist
init_dist(sys.argv[1])
numbers = torch.ones(1)
torch.distributed.all_reduce(numbers)
print(*get_dist_info(), torch.distributed.get_backend(), numbers.item(), os.environ["LOCAL_RANK"])
torch.distributed.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("launcher", "names", "more"),
    [
        ("pytorch", ("RANK", "WORLD_SIZE", "LOCAL_RANK"), {"MASTER_ADDR": "127.0.0.1"}),
        (
            "slurm",
            ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
            {"SLURM_NODELIST": "127.0.0.1"},
        ),
        (
            "mpi",
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
            {},
        ),
    ],
)
def test_two_processes(launcher: str, names: tuple[str, ...], more: dict[str, str]) -> None:
    port = free_port()
    running = []
    for rank in range(2):
        values = dict(zip(names, (str(rank), "2", str(rank)), strict=True))
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_PORT": port}
        command = [sys.executable, "-c", PROGRAM, launcher]
        running.append(
            subprocess.Popen(
                command, env={**environment, **values, **more}, stdout=subprocess.PIPE, text=True
            )
        )
    outputs = [process.communicate(timeout=120)[0].split() for process in running]
    assert outputs == [[str(rank), "2", "gloo", "2.0", str(rank)] for rank in range(2)]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[03-05,9],other", "node03"),
        ("a,b", "a"),
        ("gpu-[7,9]", "gpu-7"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_host_of_slurms_list(nodes: str, first: str) -> None:
    assert _first_host(nodes) == first


@pytest.mark.parametrize(
    ("launcher", "given", "error", "message"),
    [
        ("torch", {}, ValueError, "unknown launcher 'torch'. Did you mean 'pytorch'"),
        ("none", {}, ValueError, "unknown launcher 'none'. Known: mpi, pytorch, slurm"),
        ("pytorch", {}, RuntimeError, "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set"),
        ("pytorch", {"RANK": "0"}, RuntimeError, "start the program with torchrun"),
        ("slurm", {"SLURM_PROCID": "0"}, RuntimeError, "SLURM_NTASKS, SLURM_NODELIST are not set"),
        ("mpi", {}, RuntimeError, "OMPI_COMM_WORLD_RANK or MV2_COMM_WORLD_RANK or PMI_RANK"),
        ("mpi", {"PMI_RANK": "0"}, RuntimeError, "PMI_RANK is set, and PMI_SIZE is not"),
    ],
)
def test_what_is_missing(
    launcher: str,
    given: dict[str, str],
    error: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=message):
        init_dist(launcher)


def test_nccl_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RuntimeError, match="'nccl' needs a GPU, and there is none here; use"):
        init_dist("pytorch", "nccl")


def test_a_group_that_is_there() -> None:
    with (
        group_of_one(),
        pytest.raises(RuntimeError, match="there is a process group already"),
    ):
        init_dist("pytorch")
