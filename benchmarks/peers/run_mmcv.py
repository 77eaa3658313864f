"""The work on MMCV 1.7.2."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

from mmcv.runner import EpochBasedRunner, epoch_based_runner
from mmcv.runner.hooks import Hook

from timing import Statement
from work import EVENT, HOOKS, NEVER, Loader, Model, make_optimizer

# It sleeps two seconds per epoch and one at the end, which is no work.
epoch_based_runner.time = SimpleNamespace(sleep=lambda seconds: None)

LOGGER = logging.getLogger("benchmarks.mmcv")
LOGGER.setLevel(logging.ERROR)


class Silent(Hook):
    """Overrides nothing."""


class NotDue(Hook):
    """Listens, and has nothing to do yet: MMCV's hooks ask on entry."""

    def after_train_iter(self, runner):
        if not self.every_n_iters(runner, NEVER):
            return


class Listening(Hook):
    def after_train_iter(self, runner):
        pass


SCENARIOS = {"silent": Silent, "not_due": NotDue, "listening": Listening}


def make_runner(work_dir: str | None = None) -> EpochBasedRunner:
    model = Model()
    optimizer = make_optimizer(model)
    return EpochBasedRunner(
        model, optimizer=optimizer, work_dir=work_dir, logger=LOGGER, max_epochs=1
    )


def event(scenario: str) -> Statement:
    """One event on ten hooks."""
    runner = make_runner()
    for _ in range(HOOKS):
        runner.register_hook(SCENARIOS[scenario]())
    return f"runner.call_hook({EVENT!r})", {"runner": runner}


def training_run(iterations: int, schedule: bool, work_dir: str) -> Callable[[], object]:
    """One epoch with the usual hooks, none due; without the optimizer hook."""
    runner = make_runner(work_dir)
    cosine = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False}
    runner.register_training_hooks(
        lr_config=cosine if schedule else None,
        checkpoint_config={"interval": NEVER, "by_epoch": False, "save_last": False},
        log_config={"interval": NEVER, "hooks": [{"type": "TextLoggerHook"}]},
    )
    return lambda: runner.run([Loader(iterations)], [("train", 1)])
