"""GradientCumulativeOptimizerHook: gradient accumulation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hookrun.core import HOOKS, last, starts_with_defaults

from .. import _arguments as check
from .. import _layouts
from .accumulation import Accumulation
from .optimizer import OptimizerHook
from .reports import warn_of_short_window


@HOOKS.register_module()
@starts_with_defaults()
class GradientCumulativeOptimizerHook(OptimizerHook):
    """Takes an optimizer step every so many iterations, with the mean of their gradients.

    Steps are due where the number of finished iterations is a multiple of ``cumulative_iters``, and
    at the end of the run. Gradients are averaged over the iterations that a step really has: fewer
    than ``cumulative_iters`` where the run ends. ``grad_norm`` is logged once per step.

    In DistributedDataParallel and FSDP2 models only the iteration that steps synchronizes
    gradients. Until then FSDP2 (``fully_shard``) keeps those of all parameters on each rank.

    Args:
        cumulative_iters: iterations per step.
        kwargs: of `OptimizerHook`.

    Raises:
        TypeError, ValueError: ``cumulative_iters`` is no positive int.

    Different from MMCV: a run that is resumed between two steps goes on with the gradients that the
    checkpoint keeps: to the same bits in one process, to rounding on several ranks. Where it keeps
    none (files of MMCV's, or of several ranks that did not call ``runner.gather_state()``), the
    first step averages the iterations that follow, where MMCV divides their sum by
    ``cumulative_iters``. The end of a run is known in runs whose loader has no length, too.
    """

    state_layout: ClassVar[Any] = staticmethod(_layouts.accumulation)

    def __init__(self, cumulative_iters: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._accumulation = Accumulation(cumulative_iters)
        check.count(self, "cumulative_iters")
        self._warned_of_batch_norm = False

    @property
    def cumulative_iters(self) -> int:
        """Iterations per step. Can be assigned; it counts from the next window on."""
        return self._accumulation.iters

    @cumulative_iters.setter
    def cumulative_iters(self, iters: int) -> None:
        self._accumulation.iters = iters

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._accumulation.begin_run(runner.model)
        if self.cumulative_iters == 1 or self._warned_of_batch_norm:
            return
        if self.has_batch_norm(runner.model):
            self._warned_of_batch_norm = True
            runner.logger.warning(
                "%s: the model has BatchNorm layers, which normalise each of the %d batches of a "
                "step by itself: results differ from one large batch",
                type(self).__name__,
                self.cumulative_iters,
            )

    def before_train_iter(self, runner: Any) -> None:
        """Keep gradients on each rank, where the iteration does not step."""
        window = self._accumulation
        if window.defers_sync:
            iteration = runner.iter
            if window.enter(iteration, runner.max_iters, runner.model):
                warn_of_short_window(runner, type(self).__name__, iteration, window)
            window.before_forward()

    @last
    def after_train_epoch(self, runner: Any) -> None:
        """Step with what is left, where the run ends before its window does."""
        if self._accumulation.is_open:
            iteration = runner.iter
            phase = self._ready_phase(runner, iteration)
            phase.end_early()
            self._take_step(runner, phase, iteration)
            self._accumulation.reset()

    def gather_state(self, runner: Any) -> None:
        """Average the gradients so far over the ranks, each of which has its own."""
        if self._phase is not None:
            self._accumulation.gather(self._phase.model)

    def has_batch_norm(self, module: nn.Module) -> bool:
        """Whether the module or one inside of it is a BatchNorm layer."""
        return any(isinstance(each, _BatchNorm) for each in module.modules())
