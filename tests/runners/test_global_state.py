"""What a run changes outside of itself goes back, unless somebody else has changed it meanwhile."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hookrun import (
    ClosureHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    Preempted,
    ProgressBarHook,
    SyncGuard,
)
from hookrun.core.sync_watch import watch_cuda
from tests.support import make_loader

TRAIN = [("train", 1)]


class Attribute:
    """An attribute of a class or module that a run changes."""

    def __init__(self, owner: Any, name: str, other: Callable[[], Any]) -> None:
        self.owner, self.name, self.make_other = owner, name, other

    def get(self) -> Any:
        """What it is; None where it is inherited."""
        return vars(self.owner).get(self.name)

    def set(self, value: Any) -> None:
        if value is None:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, value)

    def __repr__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


class Handler:
    """The handler of a signal."""

    make_other = staticmethod(lambda: lambda signum, frame: None)

    def __init__(self, signum: signal.Signals) -> None:
        self.signum = signum

    def get(self) -> Any:
        return signal.getsignal(self.signum)

    def set(self, value: Any) -> None:
        signal.signal(self.signum, value)

    def __repr__(self) -> str:
        return self.signum.name


class Ignored(Handler):
    """The same, where somebody ignores the signal."""

    make_other = staticmethod(lambda: signal.SIG_IGN)

    def __repr__(self) -> str:
        return f"{self.signum.name} ignored"


def plain_function() -> Any:
    return lambda *args, **kwargs: None


def around(owner: Any, name: str) -> Callable[[], Any]:
    """Makes a function that calls what is there when it is made."""

    def make() -> Any:
        inner = getattr(owner, name)
        return lambda *args, **kwargs: inner(*args, **kwargs)

    return make


PLACES: list[Any] = [
    *map(Handler, (signal.SIGTERM, signal.SIGUSR1)),
    *map(Ignored, (signal.SIGTERM, signal.SIGUSR1)),
    *(
        Attribute(Tensor, name, around(Tensor, name))
        for name in ("item", "__bool__", "__getitem__", "tolist", "cpu", "equal")
    ),
    *(Attribute(torch, name, around(torch, name)) for name in ("where", "equal", "nonzero")),
    Attribute(Tensor, "masked_select", lambda: staticmethod(plain_function())),
    Attribute(Tensor, "unique", lambda: property(plain_function())),
    Attribute(sys, "stderr", io.StringIO),
    Attribute(sys, "stdout", io.StringIO),
    Attribute(sys, "stdout", lambda: sys.__stdout__),
]


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    signals = (signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in signals}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A terminal that nobody looks at."""
    pty = pytest.importorskip("pty")
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(master, 4096):
                pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as file:
        yield file
    reader.join()
    os.close(master)


class Change(Hook):
    """Changes a place at an event of the run, and perhaps back at a later one."""

    def __init__(self, place: Any, event: str, back: bool, fail: bool) -> None:
        self.place, self.back, self.fail = place, back, fail
        self.ours = self.other = self.before = None
        setattr(self, event, self.change)

    def change(self, runner: Any) -> None:
        if self.other is not None:
            return
        self.ours, self.other = self.place.get(), self.place.make_other()
        self.place.set(self.other)
        if self.back:
            self.place.set(self.ours)

    def after_run(self, runner: Any) -> None:
        if self.fail:
            raise RuntimeError("planted")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize(
    "how", ["before_epoch", "after_train_iter", "back", "failing", "not at all"]
)
@pytest.mark.parametrize("place", PLACES, ids=repr)
def test_it_goes_back_unless_somebody_else_has_changed_it(
    make_runner: Any, terminal: Any, place: Any, how: str, kind: type
) -> None:
    event = "before_epoch" if how == "before_epoch" else "after_train_iter"
    change = Change(place, event, how == "back", how == "failing")
    runner = make_runner(kind)
    runner.register_hook(ProgressBarHook(), "HIGHEST")
    if how != "not at all":
        runner.register_hook(change)
    with contextlib.redirect_stderr(terminal), contextlib.redirect_stdout(io.StringIO()):
        before = place.get()
        try:
            with pytest.raises(RuntimeError) if how == "failing" else contextlib.nullcontext():
                runner.run([make_loader(3)], TRAIN, sync_guard=SyncGuard(device="cpu"))
            if how in ("back", "not at all"):
                assert place.get() is before
            else:
                assert place.get() is change.other
            if how != "not at all":
                assert change.ours is not before  # the run had changed it
        finally:
            if place.get() is not before:
                place.set(before)


def test_what_wraps_a_guard_wakes_it_no_more() -> None:
    with SyncGuard("raise", device="cpu"):
        wrapped = around(Tensor, "item")()
        Tensor.item = wrapped  # type: ignore[method-assign]
    try:
        assert torch.ones(1).item() == 1.0
        with SyncGuard(device="cpu") as later:
            torch.ones(1).item()
        assert len(later.report) == 1
        assert Tensor.item is wrapped
    finally:
        del Tensor.item  # type: ignore[misc]


@pytest.mark.parametrize("first", [0, 1])
def test_guards_around_a_patch_of_somebody_else_end_in_any_order(first: int) -> None:
    guards = [SyncGuard(device="cpu"), SyncGuard(device="cpu")]
    guards[0].__enter__()
    theirs = around(Tensor, "item")()
    Tensor.item = theirs  # type: ignore[method-assign]
    try:
        guards[1].__enter__()
        torch.ones(1).item()
        guards[first].__exit__(None, None, None)
        torch.ones(1).item()
        guards[1 - first].__exit__(None, None, None)
        assert Tensor.item is theirs
        torch.ones(1).item()
        assert [len(guard.report) for guard in guards] == [1 + first, 2 - first]
    finally:
        del Tensor.item  # type: ignore[misc]


@pytest.mark.parametrize("mode", [None, 0, 2])
def test_the_debug_mode_of_cuda_goes_back_unless_it_is_another(
    monkeypatch: pytest.MonkeyPatch, mode: int | None
) -> None:
    at = [2]
    named = {"default": 0, "warn": 1, "error": 2}
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: at[0])
    monkeypatch.setattr(
        torch.cuda, "set_sync_debug_mode", lambda mode: at.__setitem__(0, named.get(mode, mode))
    )
    with watch_cuda(lambda call: None):
        assert at == [1]
        if mode is not None:
            at[0] = mode
    assert at == [2 if mode is None else mode]


def test_filters_of_warnings_set_meanwhile_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    with warnings.catch_warnings():
        before = list(warnings.filters)
        with watch_cuda(lambda call: None):
            warnings.filterwarnings("error", message="set meanwhile")
            theirs = warnings.filters[0]
            warnings.showwarning = theirs_shown = plain_function()
        assert warnings.filters == [theirs, *before]
        assert warnings.showwarning is theirs_shown
        with watch_cuda(lambda call: None):
            warnings.resetwarnings()
        assert warnings.filters == []


@pytest.mark.parametrize("chained", ["kept", "put back after the run"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_handler_of_the_run_that_is_called_later_does_what_the_signal_did_before(
    make_runner: Any, signum: signal.Signals, chained: str
) -> None:
    caught: list[Any] = []
    runner = make_runner()
    take = ClosureHook("before_train_iter", lambda _: caught.append(signal.getsignal(signum)))
    runner.register_hook(take)
    runner.run([make_loader(1)], TRAIN)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        if chained == "kept":
            signal.signal(signum, lambda *args: caught[0](*args))
        else:
            signal.signal(signum, caught[0])
        os.kill(os.getpid(), signum)
        signal.pause()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signum


def test_a_chained_handler_ends_the_run_after_the_step(make_runner: Any) -> None:
    runner = make_runner()
    called = []

    def chain(runner: Any) -> None:
        inner: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *args: (called.append(1), inner(*args)))

    runner.register_hook(ClosureHook("before_epoch", chain))
    runner.register_hook(
        ClosureHook("before_train_iter", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    )
    with pytest.raises(Preempted):
        runner.run([make_loader(3)], TRAIN)
    assert (called, runner.iter) == ([1], 1)


@pytest.mark.skipif(not hasattr(faulthandler, "register"), reason="not on this system")
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells")
def test_handlers_that_python_knows_nothing_of_stay(make_runner: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        faulthandler.register(signal.SIGUSR1, nowhere)
        try:
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
            runner = make_runner()
            kill = ClosureHook("before_train_iter", lambda _: os.kill(os.getpid(), signal.SIGUSR1))
            runner.register_hook(kill)
            runner.run([make_loader(3)], TRAIN)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert runner.iter == 6
        finally:
            faulthandler.unregister(signal.SIGUSR1)
