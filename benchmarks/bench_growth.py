"""How cost grows: with the number of tensors and of parameters of a step, and of hooks of an event.

Claim: a straight line. A bound `FusedStep` with AdamW, clipping and averages costs a start and so
much for each tensor, from 1 to 10,000 tensors of 64 elements; and so much for each parameter, from
a million to a billion in tensors of a million, as far as memory goes: 20 bytes for each. An event
costs so much for each hook that listens, from 1 to 1,000, and nothing for one that does not listen
or is not due.

Work: steps as in `bench_small_steps.py`, on one thread, with torch's best by hand beside them;
events as in `bench_dispatch.py`, less an empty loop.

Floor: none; the figure is the line. It is that of least squares of relative errors, so that few
tensors count as much as many, and `farthest` says how far a point is from it at most.
`plot_growth.py` draws it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

import ours
from bench_small_steps import Work, repeated
from growth import Growth
from timing import Case, race
from timing import repeated as repeated_statement

TENSORS, ELEMENTS = (1, 10, 100, 1_000, 10_000), 64
MILLION, MILLIONS = 1 << 20, (1, 10, 100, 600, 1_000)
MOST_OF_TORCH = 100  # millions: its step has a state of its own
BYTES = 20  # of a parameter, its gradient, its average and its state
HOOKS = (1, 10, 100, 1_000)
EMPTY = "an empty for loop"
SCENARIOS = {"listening": "that listen", "not_due": "not due", "silent": "that don't listen"}

STEPS = Growth(
    title=f"A step of AdamW, clip and averages over tensors of {ELEMENTS} elements, one thread",
    counted="tensor",
    unit="us",
    per_second=1e6,
)
LARGE_STEPS = Growth(
    title="A step of AdamW, clip and averages over tensors of a million elements, one thread",
    counted="parameter",
    unit="ns",
    per_second=1e9,
)
EVENTS = Growth(
    title="One event on hooks",
    counted="hook",
    unit="ns",
    per_second=1e9,
    baseline=EMPTY,
)


def bench_tensors(benchmark, rounds, record):
    series: dict[str, dict[int, str]] = {"hookrun": {}, "torch, fused and foreach": {}}
    cases: dict[str, Case] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for count in TENSORS:
            work = Work(count, ELEMENTS)
            steps = (work.ours(""), work.torchs())
            calls = (max(10_000 // count, 5), max(1_000 // count, 1))
            for name, step, turns in zip(series, steps, calls, strict=True):
                case = f"{name}, {count}"
                cases[case] = repeated(step, turns)
                series[name][count] = case
        samples = race(benchmark, cases, rounds)
    finally:
        torch.set_num_threads(threads)
    record.add("growth/tensors", STEPS.figure(samples, series))


def bench_parameters(benchmark, rounds, record):
    millions = [count for count in MILLIONS if count * MILLION * BYTES < 0.75 * free_memory()]
    work = Work(millions[-1], MILLION)
    series: dict[str, dict[int, str]] = {"hookrun": {}, "torch, fused and foreach": {}}
    cases: dict[str, Case] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for count in millions:
            part = work.part(count)
            steps = {"hookrun": part.ours("")}
            if count <= MOST_OF_TORCH:
                steps["torch, fused and foreach"] = part.torchs()
            for name, step in steps.items():
                case = f"{name}, {count}"
                cases[case] = repeated(step, max(10 // count, 1))
                series[name][count * MILLION] = case
        samples = race(benchmark, cases, rounds)
    finally:
        torch.set_num_threads(threads)
    record.add("growth/parameters", LARGE_STEPS.figure(samples, series))


def free_memory() -> int:
    """Bytes that can be had without swapping: caches of files count."""
    (kilobytes,) = re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    return 1024 * int(kilobytes)


def bench_hooks(benchmark, rounds, record):
    series: dict[str, dict[int, str]] = {}
    cases: dict[str, Case] = {}
    for scenario, words in SCENARIOS.items():
        name = f"hooks {words}"
        for count in HOOKS:
            case = f"{name}, {count}"
            calls = max(300_000 // count, 500) if scenario == "listening" else 300_000
            cases[case] = repeated_statement(ours.event(scenario, hooks=count), calls)
            series.setdefault(name, {})[count] = case
    cases[EMPTY] = repeated_statement(("pass", {}), 2_000_000)
    samples = race(benchmark, cases, rounds)
    record.add("growth/hooks", EVENTS.figure(samples, series))
