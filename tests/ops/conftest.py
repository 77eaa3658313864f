from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from hookrun._native import cpu


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    try:
        cpu.use_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    cpu.use_isa("")


@pytest.fixture(autouse=True)
def _cpu_on_two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tests here mean the compiled kernels, and say so where they don't."""
    monkeypatch.setenv("HOOKRUN_BACKEND", "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reference_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOKRUN_BACKEND")
