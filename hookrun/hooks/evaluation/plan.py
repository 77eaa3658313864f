"""When a model is evaluated: every so many epochs or iterations, from a first one on."""

from __future__ import annotations

from collections.abc import Mapping

from hookrun.core import Trigger
from hookrun.core.triggers import NEVER


def is_due(finished: int, start: int | None, interval: int) -> bool:
    """Whether so many epochs or iterations are followed by an evaluation."""
    first = start or 0
    return finished >= first and (finished - first) % interval == 0


def evaluation_triggers(start: int | None, interval: int, by_epoch: bool) -> Mapping[str, Trigger]:
    """The triggers of an evaluation that is due so, and once before training goes on."""
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
