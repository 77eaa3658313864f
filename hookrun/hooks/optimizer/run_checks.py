"""What an optimizer hook checks while a run goes on: that its steps train the model, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .._parameters import ParameterWatch
from .optimizers import optimizers_of
from .own_training import FirstIteration, warn_if_nothing_steps

# Every so many iterations all parameters are looked at, which takes a walk through the model.
_WATCH_EVERY = 100


class RunChecks:
    """The checks of one run, from ``before_run`` on.

    Args:
        owner: the hook's name, for errors and warnings.
        runner: whose run begins.

    Attributes:
        has_stepped: whether a step of the run was begun.
    """

    def __init__(self, owner: str, runner: Any) -> None:
        self.owner = owner
        is_module = isinstance(runner.model, nn.Module)
        self._parameters = ParameterWatch(owner, runner.model) if is_module else None
        self._first: FirstIteration | None = FirstIteration(optimizers_of(runner))
        self.has_stepped = False

    def check(self, runner: Any, iteration: int, adds_up: bool) -> bool:
        """Look at what an iteration has done before the hook's own work.

        Args:
            runner: whose iteration it is.
            iteration: its number, from 0.
            adds_up: whether gradients that are there would be added to the next step's.

        Returns:
            Whether the model has got parameters since they were last looked at, which is not done
            at each iteration.

        Raises:
            ValueError: something else has trained in the first iteration, or parameters were
                replaced or moved.
        """
        if self._first is not None:
            first, self._first = self._first, None
            first.check(self.owner, adds_up)
        if self._parameters is not None and (
            iteration % _WATCH_EVERY == 0
            or self._parameters.has_moved()
            or iteration + 1 == runner.max_iters
        ):
            return self._parameters.check(runner.model)
        return False

    def before_first_step(self, runner: Any, optimizers: Sequence[Any]) -> None:
        """Warn where the step has nothing to do."""
        self.has_stepped = True
        warn_if_nothing_steps(self.owner, runner.model, optimizers, runner.logger)

    def end(self) -> None:
        """Let go of the optimizers."""
        if self._first is not None:
            self._first.end()
            self._first = None
