"""What a training iteration costs above a bare loop, when no hook has anything to do.

Claim: EpochBasedRunner with a cosine learning rate by iteration, timer, checkpoint and text logger,
the last two registered and not due, adds at most 0.3 µs per iteration to
``for batch in loader: model.train_step(batch, optimizer)``. The step returns a constant dict with
two values to log; there is no optimizer hook.

Floor. A run that times its batches and iterations cannot do with less than two readings of the
clock: the floor is the bare loop with two calls of ``time.perf_counter``, less the bare loop. One
Python call per iteration is the step itself.

Claim: IterBasedRunner, whose every phase here is one iteration, adds at most 0.5 µs to the bare
loop, on a model of 7 modules as on one of 161. Its loader counts passes, in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ours
from comparison import Comparison, Target
from hookrun import EpochBasedRunner, IterBasedRunner
from timing import Case, race

ALL, NO_SCHEDULE = "hookrun", "hookrun, without LR schedule"
NO_HOOKS, REFERENCE = "hookrun, no hooks", "hookrun, Python reference"
BARE, TIMED = "the bare loop", "the bare loop, reading the clock twice"

COMPARISON = Comparison(
    title="One training iteration above a bare loop, usual hooks, none due",
    unit="µs per iteration",
    per_second=1e6,
    baseline=BARE,
    floor=TIMED,
    floor_is="two readings of the clock",
    subject=ALL,
    targets=(Target(ALL, 0.3, "µs per iteration"),),
)

# MMEngine's history grows by copying, so that its iterations cost more the longer a run is.
PEER_ITERATIONS = {"MMCV": 20_000, "MMEngine": 5_000, "Ignite": 10_000}


def bench_iteration(benchmark, rounds, peers, record, tmp_path_factory):
    found, missing = peers

    def run(training_run: Callable[..., Any], iterations: int, **options: bool) -> Case:
        return Case(
            lambda n: training_run(n, work_dir=str(tmp_path_factory.mktemp("run")), **options),
            iterations,
        )

    cases = {
        ALL: run(ours.training_run, 200_000, schedule=True),
        BARE: Case(ours.bare_loop, 500_000),
        NO_SCHEDULE: run(ours.training_run, 200_000, schedule=False),
        TIMED: Case(ours.timed_loop, 500_000),
        NO_HOOKS: run(ours.training_run, 200_000, schedule=False, hooks=False),
        REFERENCE: run(ours.training_run, 10_000, schedule=True, reference=True),
    }
    for name, peer in found.items():
        measured = partial(run, peer.training_run, PEER_ITERATIONS[name])
        cases[name] = measured(schedule=True)
        cases[f"{name}, without LR schedule"] = measured(schedule=False)
    samples = race(benchmark, cases, rounds)
    record.add("loop/iteration", COMPARISON.figure(samples, cases, missing))


BY_ITER, BY_ITER_LARGE = "hookrun, by iteration, 7 modules", "hookrun, by iteration, 161 modules"
BY_EPOCH, BY_EPOCH_LARGE = "hookrun, by epoch, 7 modules", "hookrun, by epoch, 161 modules"

BOTH_RUNNERS = Comparison(
    title="One training iteration above a bare loop, no hooks, in phases of one iteration",
    unit="µs per iteration",
    per_second=1e6,
    baseline=BARE,
    floor=TIMED,
    floor_is="two readings of the clock",
    subject=BY_ITER,
    targets=(
        Target(BY_ITER, 0.5, "µs per iteration"),
        Target(BY_ITER_LARGE, 0.5, "µs per iteration"),
    ),
)


def bench_both_runners(benchmark, rounds, record):
    cases = {
        BY_ITER: Case(partial(ours.run_by, IterBasedRunner, 7), 200_000),
        BARE: Case(ours.bare_loop, 500_000),
        BY_ITER_LARGE: Case(partial(ours.run_by, IterBasedRunner, 161), 200_000),
        BY_EPOCH: Case(partial(ours.run_by, EpochBasedRunner, 7), 200_000),
        BY_EPOCH_LARGE: Case(partial(ours.run_by, EpochBasedRunner, 161), 200_000),
        TIMED: Case(ours.timed_loop, 500_000),
    }
    samples = race(benchmark, cases, rounds)
    record.add("loop/both runners", BOTH_RUNNERS.figure(samples, cases, {}))
