"""Timing several contestants in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

SECONDS = 15.0  # that a race should last
FEWEST = 7  # rounds

Samples = dict[str, list[float]]
Statement = tuple[str, dict[str, Any]]
"""A Python statement and the names that it uses."""


@dataclass(frozen=True)
class Case:
    """One contestant.

    Attributes:
        make: given how many calls to make (events to fire, iterations to run), prepares and returns
            the function that makes them; only the function is timed.
        calls: how many to make in a turn: for at least ten milliseconds.
        own_clock: whether the function returns the seconds that count, as one does that has a
            start and an end beside its calls.
    """

    make: Callable[[int], Callable[[], object]]
    calls: int
    own_clock: bool = False

    def prepare(self) -> Callable[[], object]:
        return self.make(self.calls)


def repeated(statement: Statement, calls: int) -> Case:
    """A case that repeats the statement in a ``for`` loop of its own, compiled for it alone."""
    code, names = statement
    return Case(lambda n: partial(timeit.Timer(code, globals=names).timeit, n), calls)


def race(
    benchmark: Any,
    cases: Mapping[str, Case],
    rounds: int,
    clock: Callable[[], float] = time.thread_time,
) -> Samples:
    """Time every case once per round; the first is the one that pytest-benchmark's table shows.

    Args:
        benchmark: pytest-benchmark's fixture.
        cases: the contestants by name. They take their turns from the last to the first, so that
            what is compared most closely, placed first, also runs closest in time.
        rounds: how often each is timed, after a first round that does not count; fewer where that
            takes longer than ``SECONDS``, but not fewer than ``FEWEST``.
        clock: seconds. The thread's processor time leaves out what else runs on the machine;
            work on several threads or on a GPU needs ``time.perf_counter``.

    Returns:
        Seconds per call, by name; position ``i`` of each list belongs to the same round.
    """
    subject, *rivals = cases
    samples: Samples = {name: [] for name in cases}

    def take_turn(name: str, function: Callable[[], Any]) -> None:
        case = cases[name]
        seconds = function() if case.own_clock else _seconds(function, clock)
        samples[name].append(seconds / case.calls)

    def time_rivals() -> tuple[tuple[str, Callable[[], object]], dict[str, Any]]:
        gc.collect()
        for name in reversed(rivals):
            take_turn(name, cases[name].prepare())
        return (subject, cases[subject].prepare()), {}

    def first_round() -> None:
        arguments, _ = time_rivals()
        take_turn(*arguments)

    gc.disable()  # a collection would land on whoever runs at that moment
    try:
        affordable = int(SECONDS / _seconds(first_round, time.perf_counter))
        rounds = min(rounds, max(affordable, FEWEST))
        benchmark.pedantic(take_turn, setup=time_rivals, rounds=rounds)
    finally:
        gc.enable()
    return {name: seconds[1:] for name, seconds in samples.items()}


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


@dataclass(frozen=True)
class Summary:
    """Seconds per call above the baseline."""

    median: float
    least: float


def above(samples: Samples, name: str, baseline: str | None) -> Summary:
    """What a contestant takes above the baseline, if there is one.

    The median is that of the differences within each round, which cancels what slowed both.
    """
    if baseline is None:
        return Summary(statistics.median(samples[name]), min(samples[name]))
    pairs = zip(samples[name], samples[baseline], strict=True)
    return Summary(
        median=statistics.median(own - base for own, base in pairs),
        least=min(samples[name]) - min(samples[baseline]),
    )


def ratio(samples: Samples, name: str, other: str) -> float:
    """How many times as long a contestant takes as another: the median of the rounds' ratios."""
    pairs = zip(samples[name], samples[other], strict=True)
    return statistics.median(own / others for own, others in pairs)


def python_calls(case: Case) -> float:
    """How many Python functions are entered per call: a count, the same on every machine.

    Two lengths are compared, so that what happens once does not count.
    """
    calls = min(case.calls, 500)
    return (_count(case.make(2 * calls)) - _count(case.make(calls))) / calls


def _count(function: Callable[[], object]) -> int:
    entered = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return entered
