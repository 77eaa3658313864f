"""The work on hookrun itself, with the native dispatcher or the reference in Python."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hookrun import BaseRunner, EpochBasedRunner, Hook, every
from hookrun.core.dispatcher import ReferenceDispatcher, resolve, warn_no_listener
from timing import Statement
from work import EVENT, HOOKS, NEVER, Loader, Model, make_optimizer

LOGGER = logging.getLogger("benchmarks.hookrun")
LOGGER.setLevel(logging.ERROR)


class Silent(Hook):
    """Overrides nothing."""


class NotDue(Hook):
    """Listens, and has nothing to do yet."""

    @every(iters=NEVER)
    def after_train_iter(self, runner: Any) -> None:
        pass


class Listening(Hook):
    def after_train_iter(self, runner: Any) -> None:
        pass


SCENARIOS = {"silent": Silent, "not_due": NotDue, "listening": Listening}


def make_runner(work_dir: str | None = None, reference: bool = False) -> EpochBasedRunner:
    model = Model()
    optimizer = make_optimizer(model)
    runner = EpochBasedRunner(
        model, optimizer=optimizer, work_dir=work_dir, logger=LOGGER, max_epochs=1
    )
    if reference:  # what HOOKRUN_BACKEND=reference does, for this runner only
        runner._dispatcher = ReferenceDispatcher(runner, resolve, warn_no_listener)
    return runner


def event(
    scenario: str,
    reference: bool = False,
    direct: bool = False,
    hooks: int = HOOKS,
    measured: bool = False,
) -> Statement:
    """One event on so many hooks: through ``call_hook``, or ``direct`` to the dispatcher.

    ``measured`` has the time of each call taken, for ``hook_stats()``.
    """
    runner = make_runner(reference=reference)
    for _ in range(hooks):
        runner.register_hook(SCENARIOS[scenario]())
    runner.measure_hooks(measured)
    if direct:
        return f"dispatcher({EVENT!r})", {"dispatcher": runner._dispatcher, "runner": runner}
    return f"runner.call_hook({EVENT!r})", {"runner": runner}


def training_run(
    iterations: int,
    schedule: bool,
    work_dir: str,
    reference: bool = False,
    hooks: bool = True,
) -> Callable[[], object]:
    """One epoch with the usual hooks, none due; without the optimizer hook."""
    runner = make_runner(work_dir, reference)
    cosine = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False}
    if hooks:
        runner.register_training_hooks(
            lr_config=cosine if schedule else None,
            optimizer_config=None,
            checkpoint_config={"interval": NEVER, "by_epoch": False, "save_last": False},
            log_config={"interval": NEVER, "hooks": [{"type": "TextLoggerHook"}]},
        )
    return lambda: runner.run([Loader(iterations)], [("train", 1)])


def run_by(kind: type[BaseRunner], modules: int, iterations: int) -> Callable[[], object]:
    """So many iterations of a runner without hooks, on a model of so many modules."""
    model = Model(modules)
    limit = {"max_epochs": 1} if kind is EpochBasedRunner else {"max_iters": iterations}
    runner = kind(model, optimizer=make_optimizer(model), logger=LOGGER, **limit)
    return lambda: runner.run([Loader(iterations)], [("train", 1)])


def bare_loop(iterations: int) -> Callable[[], object]:
    """The training loop that nobody can do without."""
    model = Model()
    optimizer = make_optimizer(model)
    loader = Loader(iterations)

    def run() -> None:
        for batch in loader:
            model.train_step(batch, optimizer)

    return run


def timed_loop(iterations: int) -> Callable[[], object]:
    """The bare loop, with the two clock readings that any timing of batch and iteration needs."""
    from time import perf_counter

    model = Model()
    optimizer = make_optimizer(model)
    loader = Loader(iterations)

    def run() -> None:
        for batch in loader:
            perf_counter()
            model.train_step(batch, optimizer)
            perf_counter()

    return run
