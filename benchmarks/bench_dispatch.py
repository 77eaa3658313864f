"""Firing one event on ten hooks.

Claims: with ten hooks that don't listen, ``runner.call_hook(event)`` costs at most 2 empty Python
calls and the dispatcher itself 1.3; a hook whose interval is not due counts as not listening; with
ten that listen, at most as much as a Python loop over ten bound methods.

Floors. Nobody fires an event from Python for less than one call; so where no hook is to be called,
the floor is one empty Python function with one argument. Where ten are, it is those ten calls: a
``for`` loop over ten bound methods with empty bodies. The empty ``for`` loop around every statement
is measured too and taken off.

Beside them stands the event whose calls ``runner.measure_hooks()`` has timed, for ``hook_stats()``.
"""

from __future__ import annotations

import pytest

import ours
from comparison import Comparison, Target
from timing import Case, Statement, race, repeated
from work import EVENT, HOOKS

CALL_HOOK, FIRE, REFERENCE = "hookrun", "hookrun, dispatcher alone", "hookrun, Python reference"
MEASURED = "hookrun, timing each call"
LOOP = "an empty for loop"
CALL, TEN_CALLS = "an empty Python call", "a Python loop over ten bound methods"


def empty(event: str) -> None:
    pass


def empty_call() -> Statement:
    return f"function({EVENT!r})", {"function": empty}


def ten_calls() -> Statement:
    methods = [ours.Listening().after_train_iter for _ in range(HOOKS)]
    loop = "for method in methods: method(runner)"
    return loop, {"methods": methods, "runner": ours.make_runner()}


NOTHING_TO_CALL = (Target(FIRE, 1.3, "floor"), Target(CALL_HOOK, 2.0, "floor"))
COMPARISONS = {
    scenario: Comparison(
        title=f"One event, ten hooks, {words}",
        unit="ns per event",
        per_second=1e9,
        baseline=LOOP,
        floor=floor,
        floor_is=floor_is,
        subject=CALL_HOOK,
        targets=targets,
    )
    for scenario, words, floor, floor_is, targets in [
        ("silent", "none listens", CALL, "one call of a Python function", NOTHING_TO_CALL),
        ("not_due", "none is due", CALL, "one call of a Python function", NOTHING_TO_CALL),
        (
            "listening",
            "all listen",
            TEN_CALLS,
            "ten calls of Python functions",
            (Target(CALL_HOOK, 1.0, "floor"),),
        ),
    ]
}


@pytest.mark.parametrize("scenario", COMPARISONS)
def bench_event(scenario, benchmark, rounds, peers, record):
    comparison = COMPARISONS[scenario]
    found, missing = peers
    calls = 50_000 if scenario == "listening" else 500_000
    cases: dict[str, Case] = {
        CALL_HOOK: repeated(ours.event(scenario), calls),
        FIRE: repeated(ours.event(scenario, direct=True), calls),
        comparison.floor: repeated(ten_calls() if scenario == "listening" else empty_call(), calls),
        LOOP: repeated(("pass", {}), 500_000),
        MEASURED: repeated(ours.event(scenario, measured=True), calls),
        REFERENCE: repeated(ours.event(scenario, reference=True), 10_000),
        **{name: repeated(peer.event(scenario), 10_000) for name, peer in found.items()},
    }
    samples = race(benchmark, cases, rounds)
    record.add(f"dispatch/{scenario}", comparison.figure(samples, cases, missing))
