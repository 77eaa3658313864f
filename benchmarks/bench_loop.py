"""What a training iteration costs above a bare loop, when no hook has anything to do.

Claim: EpochBasedRunner with a cosine learning rate by iteration, timer, checkpoint and text logger,
the last two registered and not due, adds at most 0.3 µs per iteration to
``for batch in loader: model.train_step(batch, optimizer)``. The step returns a constant dict with
two values to log; there is no optimizer hook.

Floor. A run that times its batches and iterations cannot do with less than two readings of the
clock: the floor is the bare loop with two calls of ``time.perf_counter``, less the bare loop. One
Python call per iteration is the step itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ours
from comparison import Comparison, Target
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
