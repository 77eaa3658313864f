"""When EvalHook evaluates: every ``interval`` epochs or iterations, beginning with ``start``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from hookrun.core import Trigger
from hookrun.core.triggers import NEVER
from hookrun.distributed import fsdp_modules

DECIDING_METHODS = (
    "before_train_epoch",
    "before_train_iter",
    "after_train_epoch",
    "after_train_iter",
    "after_run",
    "catch_up_evaluation",
    "every_n_epochs",
    "every_n_iters",
    "_catch_up",
    "_should_evaluate",
    "_do_evaluate",
)
"""The methods of EvalHook that decide when there are evaluations."""


def is_due(finished: int, start: int | None, interval: int) -> bool:
    """Whether an evaluation is due after ``finished`` epochs or iterations.

    Args:
        finished: the number of finished epochs or iterations.
        start: the first that is evaluated, counted from 1; None for the first multiple of interval.
        interval: how many there are from one evaluation to the next.
    """
    first = start or 0
    return finished >= first and (finished - first) % interval == 0


def evaluation_triggers(start: int | None, interval: int, by_epoch: bool) -> Mapping[str, Trigger]:
    """The triggers for `is_due`, and one for the evaluation before the first iteration."""
    first = start or 0
    at_first = Trigger(once=True)
    if by_epoch:
        return {
            "before_train_epoch": at_first,
            "before_train_iter": NEVER,
            "after_train_epoch": Trigger(epochs=interval, start=first),
            "after_train_iter": NEVER,
        }
    return {
        "before_train_epoch": NEVER,
        "before_train_iter": at_first,
        "after_train_epoch": NEVER,
        "after_train_iter": Trigger(iters=interval, start=first),
    }


def evaluation_plan(
    runner: Any, start: int | None, interval: int, by_epoch: bool, evaluated: tuple[bool, int]
) -> Any:
    """Values that ranks must share to evaluate at the same points; None if they are unknown.

    They are by iteration in a run whose number of iterations is unknown.

    Args:
        runner: the runner.
        start, interval, by_epoch: as for EvalHook.
        evaluated: whether it is known when a resumed run was evaluated last, and when that was.
    """
    if not by_epoch and runner.max_iters is None:
        return None  # their epochs may differ in length
    plan = start, interval, by_epoch, *evaluated
    return (*plan, runner.max_epochs, runner.max_iters, runner.epoch, runner.iter)


def is_sharded_model(model: Any) -> bool:
    """Whether FSDP2 shards the model, so that its forward pass takes all ranks."""
    return isinstance(model, nn.Module) and bool(fsdp_modules(model))
