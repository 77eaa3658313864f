"""Calls that signal handlers do not interrupt, and what within them does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hookrun.core.interrupts import interrupted_by_second, interruptible, uninterrupted

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGHUP]


class Interrupt(Exception):
    pass


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """All of the signals raise; afterwards they have the handlers from before."""
    before = {each: signal.getsignal(each) for each in SIGNALS}

    def interrupt(signum: int, frame: Any) -> None:
        raise Interrupt(signal.Signals(signum).name)

    for each in SIGNALS:
        signal.signal(each, interrupt)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_handler_runs_behind_the_call(signum: int) -> None:
    done: list[str] = []

    def change() -> None:
        signal.raise_signal(signum)
        done.append("changed")
        for _ in range(3):  # Python looks for signals at each turn
            done.append("noted")

    with pytest.raises(Interrupt, match=signal.Signals(signum).name):
        uninterrupted(change)
    assert done == ["changed", "noted", "noted", "noted"]


@pytest.mark.parametrize("call", [uninterrupted, interruptible, interrupted_by_second])
def test_arguments_results_and_errors_go_through(call: Callable[..., Any]) -> None:
    assert call(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        call(divmod, 7, 0)
    for arguments in ((), (3,)):
        with pytest.raises(TypeError, match="function to call"):
            call(*arguments)


def test_an_error_is_not_lost_where_a_signal_has_come_too() -> None:
    def fail() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the error")

    with pytest.raises(Interrupt) as caught:
        uninterrupted(fail)
    assert isinstance(caught.value.__context__, ValueError)


def test_what_may_take_long_is_interrupted_and_nothing_behind_it() -> None:
    done: list[str] = []

    def wait() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("never")

    def frame() -> None:
        with pytest.raises(Interrupt):
            interruptible(wait)
        signal.raise_signal(signal.SIGTERM)
        done.append("held again")

    with pytest.raises(Interrupt, match="SIGTERM"):
        uninterrupted(frame)
    assert done == ["held again"]


def test_a_signal_that_waits_ends_the_next_interruptible_call_before_it_begins() -> None:
    begun: list[int] = []

    def frame() -> str:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupt):
            interruptible(begun.append, 1)
        return "whole"

    assert uninterrupted(frame) == "whole"
    assert begun == []


def test_an_interruptible_call_that_fails_keeps_its_error_as_the_context() -> None:
    def fail() -> None:
        try:
            raise ValueError("the error")
        finally:
            os.kill(os.getpid(), 0)
            signal.raise_signal(signal.SIGINT)

    def frame() -> None:
        with pytest.raises(Interrupt) as caught:
            interruptible(fail)
        assert isinstance(caught.value.__context__, ValueError)

    uninterrupted(frame)


def test_the_second_signal_of_a_kind_ends_what_one_does_not() -> None:
    done: list[str] = []

    def close() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)  # another kind
        done.append("one of each")
        signal.raise_signal(signal.SIGINT)
        done.append("never")

    def frame() -> None:
        with pytest.raises(Interrupt, match="SIGINT"):
            interrupted_by_second(close)
        done.append("held again")

    with pytest.raises(Interrupt, match="SIGTERM"):
        uninterrupted(frame)
    assert done == ["one of each", "held again"]


def test_calls_nest() -> None:
    def inner() -> None:
        signal.raise_signal(signal.SIGINT)

    def outer() -> str:
        uninterrupted(inner)
        return "whole"

    with pytest.raises(Interrupt):
        uninterrupted(lambda: done.append(outer()))
    assert done == ["whole"]


done: list[str] = []


def test_python_knows_the_handlers_that_it_had() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    assert uninterrupted(lambda: [signal.getsignal(each) for each in SIGNALS]) == before
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_a_handler_that_is_set_meanwhile_stays() -> None:
    caught: list[int] = []

    def change() -> None:
        signal.signal(signal.SIGUSR1, lambda signum, frame: caught.append(signum))

    uninterrupted(change)
    signal.raise_signal(signal.SIGUSR1)
    assert caught == [signal.SIGUSR1]
    uninterrupted(signal.signal, signal.SIGUSR1, signal.SIG_IGN)
    signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN


def test_other_threads_call_plainly() -> None:
    results: list[Any] = []

    def work() -> None:
        results.append(uninterrupted(interruptible, divmod, 7, 2))

    thread = threading.Thread(target=work)
    uninterrupted(thread.start)
    thread.join()
    assert results == [(3, 1)]


def test_a_child_that_was_forked_meanwhile_is_not_held() -> None:
    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
                os._exit(1)
            except Interrupt:
                os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert uninterrupted(fork) == 7


def test_it_may_be_called_at_any_time_from_a_handler() -> None:
    seen: list[str] = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(uninterrupted(str, "handled")))
    for _ in range(3):
        uninterrupted(signal.raise_signal, signal.SIGUSR1)
    assert seen == ["handled"] * 3
