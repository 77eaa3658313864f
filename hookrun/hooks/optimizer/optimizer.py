"""Backward and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hookrun import ops
from hookrun.core import HOOKS, Hook, overrides
from hookrun.core.errors import did_you_mean
from hookrun.ops import LossScale

from .. import _arguments as check
from .. import _layouts
from .._parameters import ParameterWatch
from ..schedule.updater import UpdaterHook
from .loss import check_loss, parameters_without_loss
from .own_training import FirstIteration, used_already, warn_if_nothing_steps
from .phase import OptimizerPhase, Step

_CLIP_ARGUMENTS = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")
# Every so many iterations all parameters are looked at, which takes a walk through the model.
_WATCH_EVERY = 100


@HOOKS.register_module()
class OptimizerHook(Hook):
    """Takes an optimizer step after each training iteration: zero, backward, clip, step.

    A dict of optimizers steps together after one backward pass.

    Args:
        grad_clip: keyword arguments of ``torch.nn.utils.clip_grad_norm_``, such as
            ``dict(max_norm=35, norm_type=2)``; None not to clip. The norm before clipping is logged
            as ``grad_norm``, without making the host wait for it.
        detect_anomalous_params: warn about trainable parameters that take no part in the loss, by
            name, once for each set of them. For debugging: it walks through the graph at every
            iteration.
        fused: False takes torch's own calls one by one. Otherwise :class:`~hookrun.ops.FusedStep`
            does them in two passes over memory, with the same result to rounding.
        skip_nonfinite: skip a step whose gradients are not finite, and count it. It hides
            divergence.
        hold_schedules: whether skipped steps hold back learning-rate and momentum schedules by
            iteration, so that these count the steps taken; on a GPU the host waits for each step.
            Otherwise they count iterations.

    Attributes:
        skipped_steps: how many were skipped so far.

    Raises:
        TypeError: ``grad_clip`` is no dict, or has arguments that ``clip_grad_norm_`` has not; at
            an iteration, the loss is no tensor.
        ValueError: a ``max_norm`` that is not above 0: gradients would vanish or turn around; at an
            iteration, the loss is no scalar or depends on no parameter, ``train_step`` has trained
            by itself, or parameters were replaced or moved since the run began.
        KeyError: at an iteration, there is no loss.

    Different from MMCV: gradients stay scaled and unclipped in ``.grad`` after a fused step, unless
    the optimizer has step hooks of torch's, which see them as its own step would show them.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"learning_rate", "momentum"})
    writes: ClassVar[frozenset[str]] = frozenset({"parameters", "gradients", "log"})
    state_layout: ClassVar[Any] = staticmethod(_layouts.optimizer)

    #: The loss scale, in the hooks that have one.
    loss_scaler: LossScale | None = None

    # What belongs to a run; copies of the hook begin without it.
    _phase: OptimizerPhase | None = None
    _watch: ParameterWatch | None = None
    _first: FirstIteration | None = None  # until its step
    _has_stepped = False
    _ema_momentum: Callable[[Any], float | None] | None = None  # for averages that the step moves
    _averaged_at = _skipped_at = -1
    _told: frozenset[frozenset[str]] = frozenset()  # sets of parameters that were warned about
    _OF_A_RUN: ClassVar[tuple[str, ...]] = (
        *("_phase", "_watch", "_first", "_has_stepped", "_ema_momentum"),
        *("_averaged_at", "_skipped_at", "_told"),
    )

    def __init__(
        self,
        grad_clip: Mapping[str, Any] | None = None,
        detect_anomalous_params: bool = False,
        *,
        fused: bool | str = "auto",
        skip_nonfinite: bool = False,
        hold_schedules: bool = False,
    ) -> None:
        name = type(self).__name__
        if grad_clip is not None:
            _check_grad_clip(grad_clip)
        if not isinstance(fused, bool) and fused != "auto":
            raise ValueError(f"{name}: fused must be True, False or 'auto', not {fused!r}")
        self.grad_clip = grad_clip
        self.detect_anomalous_params = detect_anomalous_params
        self.fused = fused
        self.skip_nonfinite = skip_nonfinite
        self.hold_schedules = hold_schedules
        check.flag(self, "skip_nonfinite")
        check.flag(self, "hold_schedules")
        self._skipped_before = 0  # by phases of the past

    @property
    def skipped_steps(self) -> int:
        """Steps not taken because a gradient was not finite. On a GPU the host waits to read it."""
        return self._skipped_before + (0 if self._phase is None else int(self._phase.skipped_steps))

    def before_run(self, runner: Any) -> None:
        check.has_optimizer(self, runner, "steps the optimizer")
        self._drop_phase()
        self._told = frozenset()
        if isinstance(runner.model, nn.Module):
            self._watch = ParameterWatch(type(self).__name__, runner.model)
        self._hold_schedules(runner)
        self._forget_first()
        self._first = FirstIteration(optimizers_of(runner))
        self._has_stepped = False

    def after_train_iter(self, runner: Any) -> None:
        phase = self._ready_phase(runner)
        loss = self.loss_of(runner)
        phase.clear()
        if self.detect_anomalous_params:
            self.detect_anomalous_parameters(loss, runner)
        self._backward(phase, loss, 1)
        self._take_step(runner, phase, runner.outputs.get("num_samples", 1))

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._drop_phase()
        self._forget_first()

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped, if any."""
        return {"skipped_steps": self.skipped_steps} if self.skipped_steps else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._phase, self._skipped_before = None, state.get("skipped_steps", 0)

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Whether what a checkpoint has of the hook fits the run; here everything does."""

    def loss_of(self, runner: Any) -> Tensor:
        """The loss that the step returned.

        Raises:
            KeyError, TypeError, ValueError: there is none, or it is no scalar to learn from.
        """
        return check_loss(type(self).__name__, runner.outputs)

    def clip_grads(self, params: Iterable[nn.Parameter]) -> Tensor | None:
        """Clip the gradients; returns their norm before that, or None where there are none.

        A subclass that overrides it is called with the model's parameters, or with their fp32
        masters, at every step.
        """
        with_grad = [p for p in params if p.requires_grad and p.grad is not None]
        if not with_grad:
            return None
        if self.fused is False:
            return torch.nn.utils.clip_grad_norm_(with_grad, **(self.grad_clip or {}))
        return ops.clip_grad_norm_(with_grad, **(self.grad_clip or {}))

    def detect_anomalous_parameters(self, loss: Tensor, runner: Any) -> None:
        """Warn about trainable parameters that the loss does not depend on, if they are others."""
        found = dict(parameters_without_loss(loss, runner.model))
        names = frozenset(found)
        if names in self._told:
            return
        self._told |= {names}
        for name, parameter in found.items():
            runner.logger.warning(
                "parameter %s of shape %s takes no part in the loss", name, tuple(parameter.shape)
            )

    def average_in_step(
        self, averages: Mapping[int, Tensor], momentum: Callable[[Any], float | None]
    ) -> bool:
        """Let each step move averages of the parameters in its pass over them.

        Args:
            averages: by the ``id`` of the optimizer's parameter, one for each.
            momentum: gives their momentum at this iteration, from the runner; None to stop.

        Returns:
            Whether steps will; ask ``averaged_at`` after each, for not every iteration steps.
        """
        if self._phase is None or not self._phase.average_in_step(averages):
            return False
        self._ema_momentum = momentum
        return True

    def stop_averaging(self) -> None:
        """Leave averages alone again."""
        self._ema_momentum = None
        if self._phase is not None:
            self._phase.stop_averaging()

    def averaged_at(self, iteration: int) -> bool:
        """Whether the step of this iteration has moved the averages, or left them with itself."""
        return self._averaged_at == iteration

    def skipped_at(self, iteration: int) -> bool:
        """Whether this iteration is known to have skipped its step."""
        return self._skipped_at == iteration

    def __getstate__(self) -> dict[str, Any]:
        state = {**super().__getstate__(), "_skipped_before": self.skipped_steps}
        return {name: value for name, value in state.items() if name not in self._OF_A_RUN}

    def _ready_phase(self, runner: Any) -> OptimizerPhase:
        """The phase, made anew where the runner has another optimizer or more parameters."""
        if self._first is not None:
            first, self._first = self._first, None
            first.check(type(self).__name__, self._adds_up())
        if self._watch is not None:
            self._watch.check_first()
            if runner.iter % _WATCH_EVERY == 0 or runner.iter + 1 == runner.max_iters:
                self._watch.check(runner.model)
        optimizers = optimizers_of(runner)
        if self._phase is None or not self._phase.is_of(runner.model, optimizers):
            self._drop_phase()
            self._phase = self._make_phase(runner, optimizers)
        self._phase.grad_clip = self.grad_clip
        return self._phase

    def _make_phase(self, runner: Any, optimizers: list[Any], **options: Any) -> OptimizerPhase:
        return OptimizerPhase(
            runner.model,
            optimizers,
            grad_clip=self.grad_clip,
            clip=self.clip_grads,
            clips_itself=overrides(self, OptimizerHook, ("clip_grads",)),
            scaler=self.loss_scaler,
            fused=self.fused,
            skip_nonfinite=self.skip_nonfinite,
            **options,
        )

    def _drop_phase(self) -> None:
        self._skipped_before = self.skipped_steps
        self._phase, self._ema_momentum = None, None
        self._averaged_at = self._skipped_at = -1

    def _forget_first(self) -> None:
        if self._first is not None:
            self._first.end()
            self._first = None

    def _adds_up(self) -> bool:
        """Whether gradients that are there when an iteration begins count for the next step."""
        return False

    def _backward(self, phase: OptimizerPhase, loss: Tensor, iterations: int) -> None:
        try:
            phase.backward(loss, iterations)
        except RuntimeError as error:
            explanation = used_already(type(self).__name__, error)
            if explanation is None:
                raise
            raise ValueError(explanation) from error

    def _take_step(self, runner: Any, phase: OptimizerPhase, samples: float) -> Step:
        self._skipped_at = -1
        if not self._has_stepped:
            self._has_stepped = True
            name = type(self).__name__
            warn_if_nothing_steps(name, runner.model, phase.optimizers, runner.logger)
        momentum = None if self._ema_momentum is None else self._ema_momentum(runner)
        if momentum is None:
            self.stop_averaging()
        step = phase.step(momentum or 0.0)
        if step.averaged:
            self._averaged_at = runner.iter
        if step.grad_norm is not None:
            runner.log_buffer.update({"grad_norm": step.grad_norm}, samples)
        if not step.taken:
            self._skipped_at = runner.iter
            self._report_skip(runner)
        skipped = phase.skipped_steps
        if isinstance(skipped, Tensor):
            runner.log_buffer.update({"skipped_steps": skipped.clone()}, samples)
        if not step.taken or isinstance(skipped, Tensor):
            self._hold_schedules(runner)
        return step

    def _iterations_per_step(self) -> int:
        return 1

    def _hold_schedules(self, runner: Any) -> None:
        """Let schedules count the steps taken, if asked."""
        if self.hold_schedules:
            for hook in runner.hooks:
                if isinstance(hook, UpdaterHook):
                    hook.skipped_iters = self.skipped_steps * self._iterations_per_step()

    def _report_skip(self, runner: Any) -> None:
        scale = (
            ""
            if self.loss_scaler is None
            else f"; the loss scale is now {self.loss_scaler.scale:g}"
        )
        runner.logger.warning(
            "iteration %d: the gradients are not finite, so the optimizer's step is skipped (%d so "
            "far)%s",
            runner.iter + 1,
            self.skipped_steps,
            scale,
        )


def optimizers_of(runner: Any) -> list[Any]:
    """The runner's optimizers, one or several."""
    optimizer = runner.optimizer
    return list(optimizer.values()) if isinstance(optimizer, Mapping) else [optimizer]


def _check_grad_clip(grad_clip: Any) -> None:
    if not isinstance(grad_clip, Mapping):
        raise TypeError(
            "grad_clip is a dict of arguments of clip_grad_norm_, such as dict(max_norm=35), "
            f"not {grad_clip!r}"
        )
    for name in grad_clip:
        if name not in _CLIP_ARGUMENTS:
            raise TypeError(
                f"grad_clip: clip_grad_norm_ has no argument {name!r}. "
                + did_you_mean(str(name), _CLIP_ARGUMENTS)
            )
    max_norm = grad_clip.get("max_norm")
    if isinstance(max_norm, bool) or not isinstance(max_norm, (int, float, torch.Tensor)):
        raise TypeError(f"grad_clip needs max_norm, a number; got {dict(grad_clip)!r}")
    if not isinstance(max_norm, torch.Tensor) and not max_norm > 0:
        raise ValueError(f"grad_clip: max_norm must be above 0, not {max_norm!r}")
