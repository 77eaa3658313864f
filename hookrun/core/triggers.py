"""Triggers: when a hook's method is due, as data that the dispatcher can evaluate natively.

Examples:
    >>> from hookrun import Hook, every
    >>> class Report(Hook):
    ...     @every(iters=50)
    ...     def after_train_iter(self, runner):
    ...         print(runner.iter + 1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Trigger:
    """Conditions under which a method is called: any of them is enough; without any, never.

    Attributes:
        epochs, iters, inner_iters: due when this many have been completed, and at each multiple;
            0: not set.
        start: the first epoch or iteration, counted from 1, from which the periods count.
        last_epoch, last_iter: due at the run's last epoch or iteration.
        end_of_epoch: due at the last batch of the loader.
        end_of_short_epoch: the same, but only if the loader is known to have fewer batches than
            this.
        log_ready: due when ``log_buffer.ready`` is set.
        once: due the first time the event fires after registration.
    """

    epochs: int = 0
    iters: int = 0
    inner_iters: int = 0
    start: int = 0
    last_epoch: bool = False
    last_iter: bool = False
    end_of_epoch: bool = False
    end_of_short_epoch: int = 0
    log_ready: bool = False
    once: bool = False

    def due(self, runner: Any) -> bool:
        """Whether any condition but ``once`` holds now; the definition of the native triggers."""
        return (
            self._every(runner.epoch, self.epochs)
            or self._every(runner.iter, self.iters)
            or self._every(runner.inner_iter, self.inner_iters)
            or (self.last_epoch and runner.epoch + 1 == runner._max_epochs)
            or (self.last_iter and runner.iter + 1 == runner._max_iters)
            or (self.end_of_epoch and runner.epoch_length in (None, runner.inner_iter + 1))
            or self._ends_short_epoch(runner.epoch_length, runner.inner_iter)
            or (self.log_ready and getattr(runner.log_buffer, "ready", True))
        )

    def _ends_short_epoch(self, length: int | None, inner_iter: int) -> bool:
        return length == inner_iter + 1 and length < self.end_of_short_epoch

    def _every(self, count: int, period: int) -> bool:
        since_start = count + 1 - self.start
        return period > 0 and since_start >= 0 and since_start % period == 0


NEVER = Trigger()

ONLY_ONCE = 1 << 60
"""A period that no run reaches: with it, a trigger is due at its ``start`` and not again."""


def every(
    *, iters: int = 0, inner_iters: int = 0, epochs: int = 0, start: int = 0
) -> Callable[[F], F]:
    """Call the decorated hook method only at multiples of some iterations or epochs.

    Args:
        iters: the period in training iterations of the run.
        inner_iters: the period in iterations of an epoch.
        epochs: the period in epochs.
        start: the first iteration or epoch, counted from 1, from which the period counts.

    Raises:
        ValueError: no period, or one that is not a positive int.
    """
    periods = {"iters": iters, "inner_iters": inner_iters, "epochs": epochs}
    given = {name: period for name, period in periods.items() if period != 0}
    if not given:
        raise ValueError("every() needs iters, inner_iters or epochs")
    for name, period in {**given, "start": start or 1}.items():
        if not isinstance(period, int) or isinstance(period, bool) or period <= 0:
            raise ValueError(f"every({name}=...) takes a positive int, not {period!r}")
    return lambda method: _declare(method, **given, start=start)


def once(method: F) -> F:
    """Call the decorated hook method only the first time its event fires after registration."""
    return _declare(method, once=True)


def last(method: F) -> F:
    """Call the decorated hook method only at the last iteration, or last epoch, of the run."""
    if method.__name__.endswith("_iter"):
        return _declare(method, last_iter=True)
    if method.__name__.endswith("_epoch"):
        return _declare(method, last_epoch=True)
    raise ValueError(
        f"@last belongs on an ..._iter or ..._epoch method, not on {method.__name__!r}"
    )


def _declare(method: F, **conditions: Any) -> F:
    declared = declared_trigger(method)
    function = undecorated(method)
    trigger = replace(declared or NEVER, **conditions)
    set_conditions = [f.name for f in fields(trigger) if getattr(trigger, f.name) != f.default]
    if trigger.once and set_conditions != ["once"]:
        raise ValueError("@once cannot be combined with other triggers")

    @wraps(function)
    def checked(self: Any, runner: Any) -> Any:
        # The dispatcher calls the undecorated function; this check is for super() and direct calls.
        if trigger.once:
            done = self.__dict__.setdefault("_once_done", set())
            if function.__name__ in done:
                return None
            done.add(function.__name__)
        elif not trigger.due(runner):
            return None
        return function(self, runner)

    checked.__trigger__ = trigger  # type: ignore[attr-defined]  # read by declared_trigger
    return cast(F, checked)


def declared_trigger(method: Any) -> Trigger | None:
    """The trigger set by a decorator, or None."""
    return getattr(method, "__trigger__", None)


def undecorated(method: Any) -> Any:
    """The function without the trigger decorator."""
    return method.__wrapped__ if declared_trigger(method) is not None else method
