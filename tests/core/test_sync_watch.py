"""The two watches: what they pass on, and that they leave nothing behind.

CUDA's reports come as warnings. Here they are given by hand, for there need be no GPU;
``test_sync_guard.py`` has the test with one.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hookrun import SyncGuard
from hookrun.core.sync_watch import watch_cuda, watch_reads

REPORT = "called a synchronizing CUDA operation (Triggered internally at CUDAFunctions.cpp:150.)"


READS: dict[str, Callable[[Tensor], Any]] = {
    "Tensor.item": lambda t: t.item(),
    "Tensor.tolist": lambda t: t.tolist(),
    "Tensor.numpy": lambda t: t.numpy(),
    "Tensor.cpu": lambda t: t.cpu(),
    "Tensor.__float__": lambda t: float(t),
    "Tensor.__int__": lambda t: int(t),
    "Tensor.__index__": lambda t: range(t.long()),  # type: ignore[call-overload]
    "Tensor.__bool__": lambda t: 1 if t else 2,
    "Tensor.__complex__": lambda t: complex(t),
    "Tensor.__repr__": lambda t: str(t),
    "Tensor.is_nonzero": lambda t: t.is_nonzero(),
    "Tensor.equal": lambda t: t.equal(t),
    "Tensor.allclose": lambda t: t.allclose(t),
    "Tensor.nonzero": lambda t: t.nonzero(),
    "Tensor.argwhere": lambda t: t.argwhere(),
    "Tensor.masked_select": lambda t: t.masked_select(t > 0),
    "Tensor.unique": lambda t: t.unique(),
    "Tensor.unique_consecutive": lambda t: t.unique_consecutive(),
    "Tensor[mask]": lambda t: t.reshape(1)[t.reshape(1) > 0],
    "torch.is_nonzero": lambda t: torch.is_nonzero(t),
    "torch.equal": lambda t: torch.equal(t, t),
    "torch.allclose": lambda t: torch.allclose(t, t),
    "torch.nonzero": lambda t: torch.nonzero(t),
    "torch.argwhere": lambda t: torch.argwhere(t),
    "torch.masked_select": lambda t: torch.masked_select(t, t > 0),
    "torch.unique": lambda t: torch.unique(t),
    "torch.unique_consecutive": lambda t: torch.unique_consecutive(t),
    "torch.where": lambda t: torch.where(t.reshape(1) > 0),
}
IMPLIED = {
    "Tensor.item": lambda t: f"{t:.3f}",
    "Tensor.numpy": lambda t: np.asarray(t),
    "Tensor.__bool__": lambda t: t in [t + 1, t],
}


@pytest.mark.parametrize(("call", "read"), [*READS.items(), *IMPLIED.items()])
def test_every_kind_of_read_is_noticed_once(call: str, read: Callable[[Tensor], Any]) -> None:
    tensor = torch.tensor(1.0)
    expected = read(tensor)
    with SyncGuard(device="cpu") as guard:
        got = read(tensor)
    calls = {sync.call for sync in guard.report}
    assert calls == {call}
    if call != "Tensor.__bool__" or read is READS[call]:
        assert len(guard.report) == 1
    assert str(got) == str(expected)


def test_work_on_the_device_is_none() -> None:
    x = torch.ones(3, requires_grad=True)
    with SyncGuard(device="cpu") as guard:
        y = torch.where(x > 0, x, -x)[1:].clone()
        y[0] = 3
        y.square().sum().backward()
        torch.optim.Adam([x]).step()
        (len(y), y.shape, y.dtype, y.device, y.is_floating_point(), y is None, x.grad is None)
        torch.isfinite(y).all()
        {y: 1}[y]
    assert not guard.report
    assert str(guard.report) == "no host syncs between log intervals"


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


def test_watches_of_cuda_can_end_in_any_order(modes: list[Any]) -> None:
    calls: tuple[list[str], list[str]] = ([], [])
    before = (warnings.showwarning, torch.cuda.synchronize, list(warnings.filters))
    first, second = watch_cuda(calls[0].append), watch_cuda(calls[1].append)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert modes == ["warn"]
    for _ in range(2):
        sync()
        torch.cuda.synchronize()
    second.__exit__(None, None, None)
    assert calls == ([], ["CUDA sync", "torch.cuda.synchronize"] * 2)
    assert modes == ["warn", 0]
    assert (warnings.showwarning, torch.cuda.synchronize, list(warnings.filters)) == before


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
