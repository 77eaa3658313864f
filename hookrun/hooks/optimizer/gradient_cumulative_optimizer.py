"""Optimizer steps over several iterations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hookrun.core import HOOKS, last
from hookrun.distributed import get_dist_info

from .. import _arguments as check
from .. import _layouts
from .accumulation import (
    Accumulation,
    NoSync,
    gradients_by_name,
    mean_gradients_by_name,
    restore_gradients,
)
from .optimizer import OptimizerHook


@HOOKS.register_module()
class GradientCumulativeOptimizerHook(OptimizerHook):
    """Takes an optimizer step every so many iterations, with the mean of their gradients.

    Steps are due where the number of finished iterations is a multiple of ``cumulative_iters``, and
    at the end of the run. Gradients are averaged over the iterations that a step really has: fewer
    than ``cumulative_iters`` where the run ends. ``grad_norm`` is logged once per step.

    In DistributedDataParallel models only the iteration that steps exchanges gradients.

    Args:
        cumulative_iters: iterations per step.
        kwargs: of :class:`OptimizerHook`.

    Raises:
        TypeError, ValueError: ``cumulative_iters`` is no positive int.

    Different from MMCV: a run that is resumed between two steps goes on with the gradients that the
    checkpoint keeps, to the same bits. Where it keeps none (files of MMCV's, or of several
    processes), the first step averages the iterations that follow, where MMCV divides their sum by
    ``cumulative_iters``. The end of a run is known in runs whose loader has no length, too.
    """

    _no_sync: NoSync | None = None
    state_layout: ClassVar[Any] = staticmethod(_layouts.accumulation)

    _OF_A_RUN: ClassVar[tuple[str, ...]] = (*OptimizerHook._OF_A_RUN, "_no_sync")

    def __init__(self, cumulative_iters: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cumulative_iters = cumulative_iters
        check.count(self, "cumulative_iters")
        self._window = Accumulation(cumulative_iters)
        self._restored: Mapping[str, Any] | None = None
        self._means: dict[str, Tensor] | None = None  # gathered for the next checkpoint
        self._warned = False

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self._no_sync = NoSync(runner.model)
        if self.cumulative_iters > 1 and not self._warned and self.has_batch_norm(runner.model):
            self._warned = True
            runner.logger.warning(
                "%s: the model has BatchNorm layers, which normalise each of the %d batches of a "
                "step by itself: results differ from one large batch",
                type(self).__name__,
                self.cumulative_iters,
            )

    def before_train_iter(self, runner: Any) -> None:
        if self._no_sync is not None and self._no_sync.wrappers:
            self._enter(runner)
            if not self._window.steps_next:
                self._no_sync.enter()

    def after_train_iter(self, runner: Any) -> None:
        phase = self._ready_phase(runner)
        loss = self.loss_of(runner)
        self._enter(runner)
        if self._window.done == 0:
            phase.clear()
        if self.detect_anomalous_params:
            self.detect_anomalous_parameters(loss, runner)
        self._backward(phase, loss, self._get_loss_factor(runner))
        if self._no_sync is not None:
            self._no_sync.leave()
        if self._window.count(runner.outputs.get("num_samples", 1)):
            self._take_step(runner, phase, self._window.samples)

    @last
    def after_train_epoch(self, runner: Any) -> None:
        """Step with what is left, where the run ends before its window does."""
        window = self._window
        if not window.is_open:
            return
        phase = self._ready_phase(runner)
        phase.reduces |= bool(self._no_sync and self._no_sync.wrappers)  # none was exchanged
        phase.rescale(window.length / window.done)
        self._take_step(runner, phase, window.samples)
        self._window = Accumulation(self.cumulative_iters)

    def close(self, runner: Any, error: BaseException | None) -> None:
        super().close(runner, error)
        if self._no_sync is not None:
            self._no_sync.leave()
            self._no_sync = None
        if error is None:
            self._window = Accumulation(self.cumulative_iters)

    def has_batch_norm(self, module: nn.Module) -> bool:
        """Whether the module or one inside of it is a BatchNorm layer."""
        return any(isinstance(each, _BatchNorm) for each in module.modules())

    def gather_state(self, runner: Any) -> None:
        """Average the gradients so far over the processes, each of which has its own."""
        if self._window.is_open and self._phase is not None and get_dist_info()[1] > 1:
            self._means = mean_gradients_by_name(self._phase.model)

    def state_dict(self) -> dict[str, Any]:
        """Between two steps, the gradients so far; of several processes, if they were gathered."""
        state = super().state_dict()
        if self._window.is_open and self._phase is not None:
            gradients = self._means
            if get_dist_info()[1] == 1:
                gradients = gradients_by_name(self._phase.model)
            if gradients is not None:
                state["window"] = {**self._window.state_dict(), "gradients": gradients}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._window = Accumulation(self.cumulative_iters)
        self._restored = state.get("window")

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Refuse gradients of other parameters."""
        super().check_resumed(runner, checkpoint, state)
        window = (state or {}).get("window")
        if window is not None:
            _layouts.check_gradients(runner.model, window["gradients"], "its window.gradients")

    def _get_loss_factor(self, runner: Any) -> int:
        """What the loss of this iteration is divided by."""
        return self._window.length

    def _adds_up(self) -> bool:
        return self.cumulative_iters > 1 and not self._window.is_open

    def _iterations_per_step(self) -> int:
        return self.cumulative_iters

    def _enter(self, runner: Any) -> None:
        """Let this iteration continue its window, or begin one."""
        self._means = None
        if self._restored is not None:
            restore_gradients(runner.model, self._restored["gradients"])
            self._window.load_state_dict(self._restored)
            self._restored = None
        window = self._window
        window.iters = self.cumulative_iters
        window.enter(runner.iter, runner.max_iters)
        if window.done == 0 and runner.iter % self.cumulative_iters != 0:
            runner.logger.warning(
                "%s: begins with iteration %d, between two steps: the next step averages %d "
                "iterations instead of %d",
                type(self).__name__,
                runner.iter + 1,
                window.length,
                self.cumulative_iters,
            )
