"""The lifecycle events, in firing order, and what a hook's methods listen to."""

from __future__ import annotations

from hookrun._native import EVENTS as EVENTS

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
"""The ten points of a run."""

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
"""For each specific point, the method that serves it when a hook does not override the point."""

CATCH_UP = "catch_up_evaluation"
"""A custom event: a resumed run goes on amid an epoch, and fetches its next batch after this.

A hook that did something at that point of the run that was stopped, and drew random numbers for it,
does it now, in the same order.
"""
