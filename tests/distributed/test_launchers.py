"""init_dist under torchrun's, Slurm's and MPI's environments."""

from __future__ import annotations

import os
from dataclasses import astuple
from typing import Any

import pytest

from hookrun import init_dist
from hookrun.distributed.launchers import _LAUNCHERS, _first_host
from tests.distributed.workers import free_port
from tests.programs import Program
from tests.support import group_of_one

VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "PMI_RANK"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST", "SLURM_LOCALID", "SLURM_JOB_ID"),
    *("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "SLURM_STEP_ID", "PMI_SIZE"),
)
PROGRAM = """
import sys, os, torch, warnings
from hookrun import get_dist_info, init_dist
init_dist(sys.argv[1])
numbers = torch.ones(1)
torch.distributed.all_reduce(numbers)
print(*get_dist_info(), torch.distributed.get_backend(), numbers.item(), os.environ["LOCAL_RANK"])
print(warnings.formatwarning("text", UserWarning, "a.py", 1).partition("a.py:1: ")[0])
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
        running.append(Program("-c", PROGRAM, launcher, env={**environment, **values, **more}))
    outputs = []
    for program in running:
        with program:
            outputs.append(program.communicate(timeout=120)[0].splitlines())
    assert outputs == [["0 2 gloo 2.0 0", ""], ["1 2 gloo 2.0 1", "[rank 1] "]]


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


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1234"}
SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_NODELIST": "node[03-04]"}


@pytest.mark.parametrize(
    ("launcher", "given", "expected"),
    [
        ("pytorch", TORCHRUN, (1, 2, 1, "localhost", 1234)),
        ("pytorch", {**TORCHRUN, "LOCAL_RANK": "0"}, (1, 2, 0, "localhost", 1234)),
        ("slurm", SLURM, (5, 8, 5, "node03", 29500)),
        (
            "slurm",
            {**SLURM, "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4205177", "SLURM_STEP_ID": "3"},
            (5, 8, 1, "node03", 15180),
        ),
        ("slurm", {**SLURM, "MASTER_ADDR": "login", "MASTER_PORT": "7"}, (5, 8, 5, "login", 7)),
        (
            "mpi",
            {
                "OMPI_COMM_WORLD_RANK": "2",
                "OMPI_COMM_WORLD_SIZE": "3",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "MASTER_ADDR": "first",
            },
            (2, 3, 1, "first", 29500),
        ),
        (
            "mpi",
            {
                "MV2_COMM_WORLD_RANK": "0",
                "MV2_COMM_WORLD_SIZE": "2",
                "MV2_COMM_WORLD_LOCAL_RANK": "0",
            },
            (0, 2, 0, "127.0.0.1", 29500),
        ),
        ("mpi", {"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, 1, "127.0.0.1", 29500)),
    ],
)
def test_environments(
    launcher: str, given: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert astuple(_LAUNCHERS[launcher](None)) == expected
    assert _LAUNCHERS[launcher](4321).port == 4321


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
        (None, {}, ValueError, "unknown launcher None. Known: mpi, pytorch, slurm"),
        ("pytorch", {**TORCHRUN, "RANK": ""}, RuntimeError, "which RANK is not set"),
        (
            "pytorch",
            {**TORCHRUN, "RANK": "first"},
            ValueError,
            "RANK must be a number, not 'first'",
        ),
        ("pytorch", {**TORCHRUN, "RANK": "2"}, ValueError, "rank 2 .local rank 2. of 2 processes"),
        ("pytorch", {**TORCHRUN, "LOCAL_RANK": "-1"}, ValueError, "local rank -1"),
        ("pytorch", {**TORCHRUN, "MASTER_PORT": "99999"}, ValueError, "not 99999"),
        ("slurm", {**SLURM, "SLURM_NTASKS": "many"}, ValueError, "SLURM_NTASKS must be a number"),
        ("slurm", {**SLURM, "SLURM_NODELIST": "[3-5]"}, RuntimeError, "names no host"),
        (
            "mpi",
            {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2"},
            RuntimeError,
            "2 of 4 processes are on this machine.*set MASTER_ADDR",
        ),
    ],
)
def test_what_is_missing(
    launcher: Any,
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


@pytest.mark.parametrize(
    ("port", "error", "message"),
    [
        ("29511", TypeError, "port is an int, not '29511'"),
        (True, TypeError, "port is an int, not True"),
        (0, ValueError, "a port is from 1 to 65535, not 0"),
    ],
)
def test_a_port_that_is_none(
    monkeypatch: pytest.MonkeyPatch, port: Any, error: type[Exception], message: str
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(error, match=message):
        init_dist("pytorch", port=port)


def test_an_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'glo'\. Did you mean 'gloo'"):
        init_dist("pytorch", "glo")
    with pytest.raises(ValueError, match="unknown backend '5'"):
        init_dist("pytorch", 5)  # type: ignore[arg-type]


def test_a_group_that_is_there() -> None:
    with (
        group_of_one(),
        pytest.raises(RuntimeError, match="there is a process group already"),
    ):
        init_dist("pytorch")
