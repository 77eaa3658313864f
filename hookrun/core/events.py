"""The lifecycle events, in firing order, and what a hook's methods listen to."""

from __future__ import annotations

from typing import Any

from hookrun._native import EVENTS as EVENTS
from hookrun._native import RunState

STAGES: tuple[str, ...] = (
    "before_run",
    "before_train_epoch",
    "before_train_iter",
    "after_train_iter",
    "after_train_epoch",
    "before_val_epoch",
    "before_val_iter",
    "after_val_iter",
    "after_val_epoch",
    "after_run",
)
"""The ten points of a run at which hooks are called, in firing order."""

GENERIC: dict[str, str] = {
    "before_train_epoch": "before_epoch",
    "before_val_epoch": "before_epoch",
    "after_train_epoch": "after_epoch",
    "after_val_epoch": "after_epoch",
    "before_train_iter": "before_iter",
    "before_val_iter": "before_iter",
    "after_train_iter": "after_iter",
    "after_val_iter": "after_iter",
}
"""For each specific point, the generic method that is called if a hook overrides only that one."""

CATCH_UP = "catch_up_evaluation"
"""A custom event: fires when a run resumes within an epoch, before it fetches the next batch.

A hook that drew random numbers at this point of the original run draws them again here, so that the
order of random numbers stays the same.
"""

EVALUATION_BEGINS = "evaluation_begins"
"""A custom event: fires before an evaluation by EvalHook."""

EVALUATION_SCORED = "evaluation_scored"
"""A custom event: fires when the scores are in ``log_buffer.output``, before the best checkpoint is
saved, so that it holds what hooks keep of these scores. An EvalHook whose subclass evaluates in its
own way may leave it out.
"""

EVALUATION_ENDS = "evaluation_ends"
"""A custom event: fires after it, where the scores are in ``log_buffer.output``: on all ranks that
evaluate, also on those that have no scores."""


def fire_own(runner: Any, event: str) -> None:
    """Fire one of hookrun's own custom events on a runner.

    It does not go through a ``call_hook`` of a subclass: one that is written for MMCV expects that
    each hook has a method of the event's name.
    """
    if isinstance(runner, RunState):
        RunState.call_hook(runner, event)
    else:
        runner.call_hook(event)
