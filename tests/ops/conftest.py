from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hookrun._native import cpu

from .inputs import BACKENDS, TAKES, Case, all_cases, is_quick, sampled_cases

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported


ISAS = ("portable", "avx2", "avx512")

# `HOOKRUN_BACKEND=reference pytest tests/ops` runs what means no backend of its own on that one.
_CHOSEN = os.environ.get("HOOKRUN_BACKEND") or "cpu"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests with a `case` run on all inputs, or a sample of them, and on every backend."""
    if "case" in metafunc.fixturenames:
        cases = list(dict.fromkeys(all_cases()))
        if not metafunc.config.getoption("--long"):
            cases = sampled_cases()
        metafunc.parametrize("case", cases, ids=str)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", BACKENDS, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each backend; forced, unless the test's case is one that it may leave to the reference."""
    case: Case | None = request.node.callspec.params.get("case")
    op = request.node.originalname.removeprefix("test_")
    kind = request.node.callspec.params.get("kind")
    slow = case is not None and not is_quick(case, op, kind)
    if request.param == "triton" and slow and not request.config.getoption("--long"):
        pytest.skip("Triton's interpreter is slow; --long runs it")
    many = case is not None and case.sizes == "5,000 tensors"
    if request.param == "reference" and many and not request.config.getoption("--long"):
        pytest.skip("one by one; --long does it")
    if case is None or TAKES[request.param](op, case):
        monkeypatch.setenv("HOOKRUN_BACKEND", request.param)
    else:
        monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
    return str(request.param)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    with _using(request.param):
        yield request.param


# Triton's interpreter is too slow for what runs on engines: test_device_step.py is its own.
@pytest.fixture(params=[*(f"cpu {isa}" for isa in ISAS), "reference"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each backend, with each instruction set where it has several."""
    backend, _, isa = request.param.partition(" ")
    monkeypatch.setenv("HOOKRUN_BACKEND", backend)
    with _using(isa):
        yield request.param


@contextmanager
def _using(isa: str) -> Iterator[None]:
    try:
        cpu.use_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        cpu.use_isa("")


@pytest.fixture(autouse=True)
def _cpu_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests here mean the compiled kernels, and say so where they don't.

    These take a second thread for a million elements, as in `test_backend.py`. Torch does so for
    fewer, and where other tests keep the cores busy, waiting for it takes most of the time.
    """
    monkeypatch.setenv("HOOKRUN_BACKEND", _CHOSEN)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reference_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND", raising=False)
