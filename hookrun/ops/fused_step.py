"""The whole optimizer phase in two passes over memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import forced
from .checks import check_lists
from .cpu_step import CpuStep
from .device_step import DeviceStep
from .ema import check_momentum
from .in_place_step import take_in_place
from .loss_scale import LossScale
from .step_arguments import check_grad_clip, check_step_arguments
from .step_hooks import ClosureCall, has_step_hooks
from .step_settings import StepEngine, StepResult, StepSettings
from .step_support import refuse_if_triton_is_forced
from .step_tensors import StepInputs, all_columns, collect


class FusedStep:
    """Unscale, check for inf, norm, clip, update, cast and average: all that follows ``backward``.

    The first pass reads the gradients for their norm; the second reads and writes parameters,
    state, low-precision copies and averages once. Gradients are not rewritten: after a step they
    are still scaled and unclipped.

    An optimizer's step hooks, and those of all optimizers, see what they would under torch:
    unscaled, clipped gradients and the arguments of ``optimizer.step``; what they change is used.
    Where there are any, gradients are rewritten, which takes a pass more; copies and averages are
    written after the hooks.

    It works on torch's own ``SGD``, ``Adam`` and ``AdamW`` objects and on their state tensors, so
    the optimizer's ``state_dict`` stays torch's, and steps of both kinds can alternate. Learning
    rates and other options are read from the groups at each step; parameters without a gradient
    are left out, groups may be added. Torch's schedulers see the step. Any other optimizer, or one
    with ``amsgrad``, ``differentiable`` or ``capturable``, with sparse gradients or complex
    parameters, or whose ``step`` someone replaced, gets its gradients scaled and clipped in place
    and takes its own step. Parameters may be DTensors; then all ranks take each step together.

    A step whose gradients are not finite is skipped under a loss scale or ``skip_nonfinite``: then
    parameters, state, step counts and averages stay as they are, and no hook fires. Otherwise it is
    taken, as torch would.

    A deep copy, or an unpickled one, steps its own copy of the optimizer; copy the model in the
    same call. Torch does not copy an optimizer's step hooks.

    On a GPU with Triton nothing of this makes the host wait, unless there are step hooks.
    ``grad_norm``, ``skipped_steps`` and the loss scale are tensors there; Adam's step counts move
    to the device, where torch keeps them for ``fused=True`` and ``capturable=True`` (its plain step
    reads them there too, but waits). ``capturable`` is
    supported there; a learning rate that is a tensor on the GPU is not. A step can be captured into
    a CUDA graph after one was taken outside; `refresh` before each replay sends changed settings.
    Whether a step is SGD's first is known only on the device: if that one is skipped, the
    optimizer's state has a momentum of zeros, which a resumed run with dampening takes for an old
    one.

    Args:
        optimizer: a torch optimizer.
        grad_clip: arguments of `clip_grad_norm_`, such as ``dict(max_norm=35)``; None not to clip.
        loss_scaler: the `LossScale` that multiplied the loss; None if nothing did. It is updated by
            each step, but see ``update_scale``.
        ema: averages of the parameters, one tensor each, in the order of the optimizer's groups; a
            list that is read at each step.
        ema_momentum: weight of the parameters in the averages, or a function that returns it at
            each step. Can be assigned.
        model_params: the tensors that the model computes with, where the optimizer's parameters are
            fp32 masters of them, in the same order. Their gradients are read and they are written;
            one that is the optimizer's own parameter needs no copy.
        skip_nonfinite: skip a step with inf or NaN without a loss scale too. It hides divergence.
        fused: ``'auto'`` lets an optimizer take its own step, and plain torch compute, where the
            kernels cannot; True raises a TypeError there.
        update_scale: False leaves the update of a loss scale that several optimizers share to you:
            ``loss_scaler.update()`` after the last one's step.

    Raises:
        TypeError: an argument of another type; an optimizer that cannot step without a closure;
            under ``fused=True`` an optimizer that must take its own step.
        ValueError: only one of ``ema`` and ``ema_momentum`` is given, a momentum is not between 0
            and 1, or lists do not fit the optimizer's parameters, or share memory.
    """

    def __init__(
        self,
        optimizer: Any,
        *,
        grad_clip: Mapping[str, Any] | None = None,
        loss_scaler: LossScale | None = None,
        ema: Sequence[Tensor] | None = None,
        ema_momentum: float | Callable[[], float] | None = None,
        model_params: Sequence[Tensor] | None = None,
        skip_nonfinite: bool = False,
        fused: str | bool = "auto",
        update_scale: bool = True,
    ) -> None:
        check_step_arguments(optimizer, grad_clip, loss_scaler, fused)
        if (ema is None) != (ema_momentum is None):
            raise ValueError("FusedStep: ema and ema_momentum go together; give both or neither")
        if ema_momentum is not None and not callable(ema_momentum):
            check_momentum("FusedStep", ema_momentum)
        self.optimizer = optimizer
        self.grad_clip = grad_clip
        self.loss_scaler = loss_scaler
        self.ema = ema
        self.ema_momentum = ema_momentum
        self.model_params = model_params
        self.skip_nonfinite = skip_nonfinite
        self.fused = fused
        self.update_scale = update_scale
        self._checked_clip: dict[str, Any] | None = None
        self._grad_norm: float | Tensor | None = None
        #: Steps skipped so far because a gradient was not finite; on a GPU a 0-dim tensor.
        self.skipped_steps: Any = 0
        self._engines: tuple[StepEngine, StepEngine] = (DeviceStep(), CpuStep())
        self._latest: StepEngine = self._engines[1]  # which took the latest step
        collect(optimizer, model_params, ema)
        check_lists("FusedStep", *all_columns(optimizer, model_params, ema))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients there are; it may be skipped (see the class).

        Args:
            closure: called once, with gradients enabled, to compute them; under ``fused='auto'``
                only. It is called first; but where the optimizer has step hooks, and nothing is to
                be done to the gradients, after the pre-hooks, as in torch.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: the norm is not finite, under ``grad_clip``'s ``error_if_nonfinite``; a
                step pre-hook returned something else than None or new arguments.
            TypeError: under ``fused=True`` a closure, or tensors that no kernel takes; sparse
                gradients for an optimizer that takes none.
            ValueError: lists that do not fit, or tensors that share memory. Nothing is changed.
            Exception: what a hook or an optimizer's own step raises. By then its gradients are
                unscaled and clipped in place, but not those of copies in ``model_params``; to try
                again, compute them anew.
        """
        if closure is not None and self.fused is True:
            raise TypeError("FusedStep: fused=True takes no closure; call it before step()")
        if closure is not None or not self._latest.is_bound or has_step_hooks(self.optimizer):
            return self._step(closure)
        if self.loss_scaler is not None:
            self._check_scale(self.loss_scaler)
        inputs = StepInputs(self.optimizer, self.model_params, self.ema)
        settings = self._settings()
        result = self._latest.take_bound(inputs, settings)
        if result is None:
            return self._step(None, settings)
        self._finish(result)
        return None

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any] | None, settings: StepSettings | None = None) -> Any:
        """Take a step whose tensors must be read anew.

        Args:
            settings: of this step, if they have been read.
        """
        if torch.is_inference_mode_enabled():  # state created in it could not be used outside
            with torch.inference_mode(False):
                return self._step(closure, settings)
        hooked = has_step_hooks(self.optimizer)
        closure_call = ClosureCall(closure)
        if not hooked or self._changes_gradients:
            closure_call.now()
        if self.loss_scaler is not None:
            self._check_scale(self.loss_scaler)
        inputs = StepInputs(self.optimizer, self.model_params, self.ema)
        settings = self._settings() if settings is None else settings
        self._grad_norm = None  # of no step, where this one raises
        result = self._own_step_reason(inputs) if hooked else self._take(inputs, settings)
        if not isinstance(result, StepResult):
            result = take_in_place(inputs, settings, result, closure_call, self._take)
        self._finish(result)
        return closure_call.result

    def _finish(self, result: StepResult) -> None:
        self._grad_norm, self.skipped_steps = result
        if self.loss_scaler is not None and self.update_scale:
            self.loss_scaler._updated_by = weakref.ref(self)

    @property
    def grad_norm(self) -> Tensor | None:
        """Norm of the unscaled gradients of the latest step before clipping, 0-dim.

        None if neither clipping nor a loss scale asked for it.
        """
        if isinstance(self._grad_norm, float):  # made only when someone looks
            with torch.inference_mode(False):
                self._grad_norm = torch.tensor(self._grad_norm, dtype=torch.float32, device="cpu")
        return self._grad_norm

    @property
    def grad_norm_value(self) -> float | Tensor | None:
        """The same, as a number unless it is on a GPU, where the host has not waited for it."""
        return self._grad_norm

    def _take(self, inputs: StepInputs, settings: StepSettings) -> StepResult | str:
        """Take a step on the faster engine that can; a text says why neither can."""
        for engine in self._engines:
            result = engine.take(inputs, settings)
            if isinstance(result, StepResult):
                self._latest = engine
                return result
            if forced() == "triton" and self._own_step_reason(inputs) is None:
                refuse_if_triton_is_forced(inputs, result)
        return result

    def _own_step_reason(self, inputs: StepInputs) -> str | None:
        """Why the optimizer must take its own step between its hooks; None if an engine can."""
        reasons = [engine.unsupported_reason(inputs, StepSettings()) for engine in self._engines]
        return None if None in reasons else reasons[-1]

    def refresh(self) -> None:
        """Send changed settings to the GPU, before a CUDA graph that holds a step is replayed.

        Learning rates, other options of the groups, the averages' momentum and what was assigned to
        the loss scale. A replay does nothing else on the host: no hook fires.
        """
        settings = self._settings()
        for engine in self._engines:
            engine.refresh(settings)

    def state_dict(self) -> dict[str, Any]:
        """The state of the step itself; the optimizer's is in the optimizer's own.

        Where the steps run on a GPU, the host waits for it.
        """
        scaler = self.loss_scaler
        return {
            "skipped_steps": int(self.skipped_steps),
            "loss_scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        if self.loss_scaler is not None and state["loss_scaler"] is not None:
            self.loss_scaler.load_state_dict(state["loss_scaler"])
        self.skipped_steps = state["skipped_steps"]

    def __getstate__(self) -> dict[str, Any]:
        """The host waits for the count of skipped steps on a GPU."""
        return {**vars(self), "skipped_steps": int(self.skipped_steps)}

    def _settings(self) -> StepSettings:
        """The settings of a step that is taken now."""
        clip = {} if self.grad_clip is None else self.grad_clip
        if self.grad_clip is not None and self.grad_clip != self._checked_clip:
            self._check_clip(self.grad_clip)
        return StepSettings(
            max_norm=None if self.grad_clip is None else float(clip["max_norm"]),
            norm_type=float(clip.get("norm_type", 2.0)),
            error_if_nonfinite=bool(clip.get("error_if_nonfinite")),
            loss_scaler=self.loss_scaler,
            update_scale=self.update_scale,
            may_skip=self._may_skip,
            skipped_steps=self.skipped_steps,
            ema_momentum=self._momentum(),
            fused=self.fused is True,
        )

    def _check_clip(self, clip: Mapping[str, Any]) -> None:
        """Check a dict that was assigned or changed since the last step."""
        check_grad_clip(clip)
        # The value of a tensor can change where the dict does not show it.
        self._checked_clip = None if isinstance(clip["max_norm"], Tensor) else dict(clip)

    def _momentum(self) -> float:
        if self.ema_momentum is None:
            if self.ema is not None:
                raise ValueError("FusedStep: ema is set, but ema_momentum is None")
            return 0.0
        momentum = self.ema_momentum() if callable(self.ema_momentum) else self.ema_momentum
        check_momentum("FusedStep", momentum)
        return float(momentum)

    def _check_scale(self, scaler: LossScale) -> None:
        scaler.check()
        other = None if scaler._updated_by is None else scaler._updated_by()
        if self.update_scale and other is not None and other.optimizer is not self.optimizer:
            raise ValueError(
                "FusedStep: another FusedStep updates this loss scale too, so the second one would "
                "unscale by a scale that the loss was not multiplied by; give both "
                "update_scale=False and call loss_scaler.update() after the last step"
            )

    @property
    def _may_skip(self) -> bool:
        return self.loss_scaler is not None or self.skip_nonfinite

    @property
    def _changes_gradients(self) -> bool:
        """Whether a step does something to the gradients before the pre-hooks see them."""
        return self.grad_clip is not None or self._may_skip or self.model_params is not None
