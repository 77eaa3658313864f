"""Drives a schedule hook, hookrun's or MMCV's, through a run and notes what it sets.

No hookrun in here: the script that makes the stored vectors runs it next to MMCV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from .drawing import Run


def make_optimizer(run: Run) -> Any:
    """A stand-in with the parameter groups of the run, or a dict of stand-ins."""

    def make() -> SimpleNamespace:
        groups: list[dict[str, Any]] = []
        for base in run.bases:
            momentum = {"betas": (base, 0.999)} if run.betas else {"momentum": base}
            groups.append({"lr": base, **momentum})
        return SimpleNamespace(param_groups=groups, defaults=dict(groups[0]))

    return {name: make() for name in run.optimizers} if run.optimizers else make()


def read(optimizer: Any, momentum: bool) -> list[float]:
    """What the hook has set, over all groups of all optimizers."""
    optimizers = optimizer.values() if isinstance(optimizer, dict) else [optimizer]
    groups = [group for each in optimizers for group in each.param_groups]
    if not momentum:
        return [float(group["lr"]) for group in groups]
    return [
        float(group["momentum"] if "momentum" in group else group["betas"][0]) for group in groups
    ]


def steps(run: Run, state: Any) -> Iterator[str]:
    """The events of a run that schedules hear, with the counters of ``state`` moved along.

    ``state`` has the counters ``_epoch``, ``_iter`` and ``_inner_iter``; iteration resumes where
    they stand.
    """
    yield "before_run"
    while state._iter < run.iters:
        if run.epochs:
            yield "before_train_epoch"
        while state._inner_iter < run.length:
            yield "before_train_iter"
            state._iter += 1
            state._inner_iter += 1
        state._epoch += run.epochs > 0
        state._inner_iter = 0


class StandIn(SimpleNamespace):
    """A runner as far as MMCV's hooks look at it."""

    def __init__(self, run: Run) -> None:
        super().__init__(
            optimizer=make_optimizer(run),
            data_loader=range(run.length),
            max_epochs=run.epochs or None,
            max_iters=run.iters,
            _epoch=0,
            _iter=0,
            _inner_iter=0,
        )

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        return self._iter


def record_calls(hook: Any, run: Run, momentum: bool) -> list[list[float]]:
    """The values at every iteration, with the hook's methods called as MMCV's runner calls them."""
    runner = StandIn(run)
    return record(lambda event: getattr(hook, event)(runner), run, runner, momentum)


def record(fire: Callable[[str], Any], run: Run, runner: Any, momentum: bool) -> list[list[float]]:
    """The values at every iteration from the runner's counters on.

    Args:
        fire: fires an event.
        runner: has the counters and the optimizer.
    """
    values = []
    for event in steps(run, runner):
        fire(event)
        if event == "before_train_iter":
            values.append(read(runner.optimizer, momentum))
    return values
