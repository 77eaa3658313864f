"""The two watches: what they pass on, and that they leave nothing behind.

CUDA's reports come as warnings. Here they are given by hand, for there need be no GPU;
``test_sync_guard.py`` has the test with one.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch

from hookrun.core.sync_watch import watch_cuda, watch_reads

REPORT = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:150.)"


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The debug modes that were set, on a CUDA that is in mode 0."""
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return modes


def sync() -> None:
    warnings.warn(REPORT, UserWarning, stacklevel=2)


def test_every_report_of_cuda_is_passed_on(modes: list[Any]) -> None:
    lines = []

    def notice(call: str) -> None:
        frame = sys._getframe()
        while frame.f_code.co_name != "work":
            assert frame.f_back is not None
            frame = frame.f_back
        lines.append((call, frame.f_lineno - frame.f_code.co_firstlineno))

    def work() -> None:
        for _ in range(3):
            sync()
        torch.cuda.synchronize()

    show = warnings.showwarning
    with watch_cuda(notice):
        assert modes == ["warn"]
        work()
    assert lines == [("CUDA sync", 2)] * 3 + [("torch.cuda.synchronize", 3)]
    assert modes == ["warn", 0]
    assert warnings.showwarning is show


def test_other_warnings_are_shown_as_ever(modes: list[Any]) -> None:
    noticed: list[str] = []
    with pytest.warns(UserWarning, match="something else"), watch_cuda(noticed.append):
        warnings.warn("something else", stacklevel=1)
    assert noticed == []


def test_what_notice_raises_ends_the_call(modes: list[Any]) -> None:
    def refuse(call: str) -> None:
        raise RuntimeError(call)

    with watch_cuda(refuse), pytest.raises(RuntimeError, match="CUDA sync"):
        sync()
    with watch_reads(refuse), pytest.raises(RuntimeError, match=r"Tensor\.item"):
        torch.ones(1).item()
    assert modes == ["warn", 0]
    assert torch.ones(1).item() == 1.0


def test_reads_within_a_read_are_part_of_it() -> None:
    calls: list[str] = []
    with watch_reads(calls.append):
        assert str(torch.ones(2)) == "tensor([1., 1.])"
        assert torch.ones(2).unique().shape == (1,)
    assert calls == ["Tensor.__repr__", "Tensor.unique"]
