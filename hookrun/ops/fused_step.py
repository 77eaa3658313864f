"""The whole optimizer phase in two passes over memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from . import rules
from .backend import declined, forced
from .checks import Column, check_lists
from .clip_grad_norm import check_finite, clip_factor
from .convert import convert_as
from .device import is_capturing
from .device_step import DeviceStep, Wanted
from .ema import check_ema, check_momentum, ema_update_
from .loss_scale import LossScale
from .norm import total_norm
from .rows import Rows, all_columns, collect, masters_with_copies
from .step_arguments import check_step_arguments
from .step_hooks import (
    ClosureCall,
    closure_in,
    fire_post_hooks,
    fire_pre_hooks,
    has_step_hooks,
    step_without_hooks,
)
from .unscale import unscale_


class FusedStep:
    """Unscale, look for inf, norm, clip, update, cast and average: all that follows ``backward``.

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
    and takes its own step. Parameters may be DTensors; then all processes take each step together.

    A step whose gradients are not finite is skipped under a loss scale or ``skip_nonfinite``: then
    parameters, state, step counts and averages stay as they are, and no hook fires. Otherwise it is
    taken, as torch would.

    A deep copy, or what is unpickled, steps its copy of the optimizer; copy the model in the same
    call. Torch's optimizers leave their step hooks behind then.

    On a GPU with Triton nothing of this makes the host wait, unless there are step hooks.
    ``grad_norm``, ``skipped_steps`` and the loss scale are tensors there; Adam's step counts move
    to the device, where torch keeps them for ``fused=True`` and ``capturable=True`` (its plain step
    reads them there too, but waits). ``capturable`` is no
    obstacle; a learning rate that is a tensor on the GPU is. A step can be captured into a CUDA
    graph after one was taken outside; `refresh` before each replay sends changed settings. SGD's
    first step is told from the later ones on the device: if it is skipped, the optimizer's state
    has a momentum of zeros, which a resumed run with dampening takes for an old one.

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
            one that is the optimizer's own parameter is no copy.
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
        #: Norm of the unscaled gradients of the latest step before clipping, 0-dim; None if neither
        #: clipping nor a loss scale asked for it.
        self.grad_norm: Tensor | None = None
        #: Steps skipped so far because a gradient was not finite; on a GPU a 0-dim tensor.
        self.skipped_steps: Any = 0
        self._on_device = DeviceStep()
        collect(optimizer, model_params, ema)
        check_lists("FusedStep", *all_columns(optimizer, model_params, ema))

    @torch.no_grad()
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
        if torch.is_inference_mode_enabled():  # where state is begun that later steps go on with
            with torch.inference_mode(False):
                return self.step(closure)
        optimizer = self.optimizer
        hooked = has_step_hooks(optimizer)
        call = ClosureCall(closure)
        if not hooked or self._changes_gradients:
            call.now()
        self._check_scale()
        if not hooked and DeviceStep.is_for(optimizer) and self._take_on_device():
            return call.result
        rows = collect(optimizer, self.model_params, self.ema)
        momentum = self._momentum()
        obstacle = self._why_own_step(rows, hooked)
        in_place = hooked or obstacle is not None
        self._check(rows, obstacle, in_place)
        optimizer._opt_called = True  # what torch's schedulers look for
        norm = self._first_pass(rows)
        finite = norm is None or math.isfinite(norm)
        if not finite and self._may_skip:
            self.skipped_steps += 1
        elif in_place:
            self._take_in_place(rows, self._factor(norm), momentum, obstacle, call)
        else:
            self._take_fused(rows, self._factor(norm), momentum)
        if self.loss_scaler is not None:
            self.loss_scaler.note(finite)
            if self.update_scale:
                self.loss_scaler._updated_by = weakref.ref(self)
                self.loss_scaler.update()
        return call.result

    def refresh(self) -> None:
        """Send changed settings to the GPU, before a CUDA graph that holds a step is replayed.

        Learning rates, other options of the groups, the averages' momentum and what was assigned to
        the loss scale. A replay does nothing else on the host: no hook fires.
        """
        self._on_device.refresh(self._wanted())

    def state_dict(self) -> dict[str, Any]:
        """What the step itself remembers; the optimizer's state is in the optimizer's.

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
        """Without what it keeps on a GPU, for which the host waits."""
        state = {**vars(self), "skipped_steps": int(self.skipped_steps)}
        return {**state, "_on_device": self._on_device.counts}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._on_device = DeviceStep(state["_on_device"])

    @property
    def _may_skip(self) -> bool:
        return self.loss_scaler is not None or self.skip_nonfinite

    def _momentum(self) -> float:
        if self.ema_momentum is None:
            if self.ema is not None:
                raise ValueError("FusedStep: ema is set, but ema_momentum is None")
            return 0.0
        momentum = self.ema_momentum() if callable(self.ema_momentum) else self.ema_momentum
        check_momentum("FusedStep", momentum)
        return float(momentum)

    def _check_scale(self) -> None:
        scaler = self.loss_scaler
        if scaler is None:
            return
        scaler.check()
        other = None if scaler._updated_by is None else scaler._updated_by()
        if self.update_scale and other is not None and other.optimizer is not self.optimizer:
            raise ValueError(
                "FusedStep: another FusedStep updates this loss scale too, so the second one would "
                "unscale by a scale that the loss was not multiplied by; give both "
                "update_scale=False and call loss_scaler.update() after the last step"
            )

    @property
    def _changes_gradients(self) -> bool:
        """Whether a step with hooks needs gradients to do something to them first."""
        return self.grad_clip is not None or self._may_skip or self.model_params is not None

    def _why_own_step(self, rows: Rows, hooked: bool) -> str | None:
        """Why the optimizer must take its own step; None where kernels know its update."""
        if hooked and self._on_device.can_take(self.optimizer, rows, Wanted()):
            return None
        return rules.why_unknown(self.optimizer) or rules.why_other_gradients(rows)

    def _check(self, rows: Rows, obstacle: str | None, in_place: bool) -> None:
        """Find what would raise only after something was written."""
        if obstacle is not None and self.fused is True:
            raise TypeError(
                f"FusedStep: fused=True, but {obstacle}; fused='auto' lets the optimizer take "
                "its own step"
            )
        if in_place:
            scaled = self.grad_clip is not None or self.loss_scaler is not None
            rules.check_own_step(self.optimizer, rows, scaled=scaled)
        if rows.idle_ema or (in_place and self.ema is not None):
            averages = [average for average in rows.ema if average is not None]
            check_ema("FusedStep", averages + rows.idle_ema, rows.params + rows.idle_params)

    def _take_on_device(self) -> bool:
        taken = self._on_device.take(self.optimizer, self._wanted())
        if taken is None:
            return False
        self.grad_norm, self.skipped_steps = taken
        self.optimizer._opt_called = True  # what torch's schedulers look for
        if self.loss_scaler is not None and self.update_scale:
            self.loss_scaler._updated_by = weakref.ref(self)
        return True

    def _wanted(self) -> Wanted:
        return Wanted(
            self.grad_clip,
            self.loss_scaler,
            self.update_scale,
            self._may_skip,
            self.skipped_steps,
            self.model_params,
            self.ema,
            self._momentum(),
        )

    def _first_pass(self, rows: Rows) -> float | None:
        """The norm of the unscaled gradients; None if nobody asks.

        The host waits for it where the tensors are on a GPU and the step is not taken there.
        """
        self.grad_norm = None
        if self.grad_clip is None and not self._may_skip:
            return None
        if rows.grads and is_capturing(rows.grads[0].device):
            raise RuntimeError(
                "FusedStep: the host needs the norm of this step, for its hooks or because "
                "no kernel takes it, so it cannot be captured into a CUDA graph"
            )
        column = Column("grads", rows.grads, sparse=True)
        norm_type = float((self.grad_clip or {}).get("norm_type", 2.0))
        norm = float(total_norm("grad_norm", column, norm_type)) * self._inverse_scale()
        if not self._may_skip and (self.grad_clip or {}).get("error_if_nonfinite"):
            check_finite(norm)
        self.grad_norm = torch.tensor(norm, dtype=torch.float32, device="cpu")
        return norm

    def _inverse_scale(self) -> float:
        return 1.0 if self.loss_scaler is None else 1.0 / float(self.loss_scaler.scale)

    def _factor(self, norm: float | None) -> float:
        """What the gradients are to be multiplied by."""
        if self.grad_clip is None or norm is None:
            return self._inverse_scale()
        return self._inverse_scale() * clip_factor(norm, self.grad_clip["max_norm"])

    def _take_fused(self, rows: Rows, factor: float, momentum: float) -> None:
        """Update, cast and average in one pass; the gradients stay as they are."""
        self._check_backend(rows, self._on_device.obstacle)
        rules.update(self.optimizer, rows, factor, momentum, fused=self.fused is True)
        written = (*rows.params, *rows.model_params, *rows.ema)
        increment_version([each for each in written if each is not None])
        if rows.idle_ema:
            ema_update_(rows.idle_ema, rows.idle_params, momentum)

    def _take_in_place(
        self, rows: Rows, factor: float, momentum: float, obstacle: str | None, call: ClosureCall
    ) -> None:
        """Scaled gradients in place, then the optimizer's own step, or ours between its hooks.

        Where the gradients are a low-precision model's, they are copied to the masters first: in
        fp16 the unscaled ones would underflow. Hooks may write parameters, so that copies and
        averages come last.
        """
        pairs = masters_with_copies(self.optimizer, self.model_params)
        stepped = [(p, m) for p, m in pairs if m.grad is not None]
        try:
            for param, model_param in stepped:
                param.grad = model_param.grad.to(param, copy=True)
            grads = [p.grad for p in rows.params if p.grad is not None]
            if factor != 1.0 and grads:
                nobody_asks = torch.zeros((), dtype=torch.float32, device=grads[0].device)
                unscale_(grads, factor, nobody_asks)
            if obstacle is None:
                self._update_between_hooks(call)
            else:
                self._check_backend(rows, obstacle)
                declined("FusedStep", obstacle)
                call.by_own_step(self.optimizer)
        finally:
            for param, _ in pairs:
                param.grad = None
        copied = pairs if has_step_hooks(self.optimizer) else stepped
        if copied:
            convert_as("convert_", [m for _, m in copied], [p for p, _ in copied])
        averaged = [(e, p) for e, p in zip(rows.ema, rows.params, strict=True) if e is not None]
        averaged += zip(rows.idle_ema, rows.idle_params, strict=True)
        if averaged:
            ema_update_([e for e, _ in averaged], [p for _, p in averaged], momentum)

    def _update_between_hooks(self, call: ClosureCall) -> None:
        """What torch's own step does: pre-hooks, the closure, the update, post-hooks."""
        optimizer = self.optimizer
        args, kwargs = fire_pre_hooks(optimizer, (optimizer, *call.arguments), {})
        call.of(closure_in(optimizer, args, kwargs))
        # Hooks and closures may have exchanged gradients, groups or their options.
        rows = collect(optimizer, None, None)
        if not (
            DeviceStep.is_for(optimizer)
            and self._on_device.take(optimizer, Wanted(skipped_steps=self.skipped_steps))
        ):
            obstacle = rules.why_unknown(optimizer) or rules.why_other_gradients(rows)
            self._check(rows, obstacle, in_place=False)
            self._check_backend(rows, obstacle or self._on_device.obstacle)
            if obstacle is None:
                rules.update(optimizer, rows, 1.0, 0.0, fused=self.fused is True)
                increment_version(rows.params)
            else:
                declined("FusedStep", obstacle)
                step_without_hooks(optimizer)
        fire_post_hooks(optimizer, args, kwargs)

    def _check_backend(self, rows: Rows, obstacle: str | None) -> None:
        """Refuse to take another way than the one that was asked for."""
        if forced() == "triton" and rows.params:
            check_lists("FusedStep", *rows.columns(sparse=True))
            raise RuntimeError(
                f"HOOKRUN_BACKEND=triton, but FusedStep cannot run there: {obstacle}"
            )
