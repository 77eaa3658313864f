"""The whole optimizer phase in two passes over memory."""

from __future__ import annotations

import inspect
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from . import rules
from .backend import declined, forced
from .checks import Column, check_lists
from .clip_grad_norm import check_finite, check_max_norm, clip_factor
from .convert import convert_as
from .device_step import DeviceStep
from .ema import check_ema, check_momentum, ema_update_
from .loss_scale import LossScale
from .norm import check_norm_type, total_norm
from .rows import Rows, all_columns, collect
from .unscale import unscale_

_CLIP_ARGUMENTS = {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}


class FusedStep:
    """Unscale, look for inf, norm, clip, update, cast and average: all that follows ``backward``.

    The first pass reads the gradients for their norm; the second reads and writes parameters,
    state, low-precision copies and averages once. Gradients are not rewritten: after a step they
    are still scaled and unclipped.

    It works on torch's own ``SGD``, ``Adam`` and ``AdamW`` objects and on their state tensors, so
    the optimizer's ``state_dict`` stays torch's, and steps of both kinds can alternate. Learning
    rates and other options are read from the groups at each step; parameters without a gradient
    are left out, groups may be added. The optimizer's step hooks fire and torch's schedulers see
    the step. Any other optimizer, or one with ``amsgrad``, ``differentiable`` or ``capturable``, or
    with sparse gradients or complex parameters, gets its gradients scaled and clipped in place and
    takes its own step. Parameters may be DTensors; then all processes take each step together.

    A step whose gradients are not finite is skipped under a loss scale or ``skip_nonfinite``: then
    parameters, state, step counts and averages stay as they are, and no hook fires. Otherwise it is
    taken, as torch would.

    On a GPU with Triton nothing of this makes the host wait. ``grad_norm``, ``skipped_steps`` and
    the loss scale are tensors there; hooks fire at skipped steps too, and before the norm is taken;
    Adam's step counts move to the device, where torch keeps them for ``fused=True`` and
    ``capturable=True`` (its plain step reads them there too, but waits). ``capturable`` is no
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
        _check_arguments(optimizer, grad_clip, loss_scaler, fused)
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
        self._on_device = DeviceStep(self)
        collect(optimizer, model_params, ema)
        check_lists("FusedStep", *all_columns(optimizer, model_params, ema))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients there are; it may be skipped (see the class).

        Args:
            closure: called first, once, with gradients enabled, to compute them; under
                ``fused='auto'`` only.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: the norm is not finite, under ``grad_clip``'s ``error_if_nonfinite``.
            TypeError: under ``fused=True`` a closure, or tensors that no kernel takes; sparse
                gradients for an optimizer that takes none.
            ValueError: lists that do not fit, or tensors that share memory. Nothing is changed.
            Exception: what an optimizer's own step raises. By then its gradients are unscaled and
                clipped in place, but not those of copies in ``model_params``; to try again, compute
                them anew.
        """
        loss = None
        if closure is not None:
            if self.fused is True:
                raise TypeError("FusedStep: fused=True takes no closure; call it before step()")
            with torch.enable_grad():
                loss = closure()
        self._check_scale()
        if self._on_device.take(self._fire):
            return loss
        rows = collect(self.optimizer, self.model_params, self.ema)
        momentum = self._momentum()
        obstacle = rules.why_unknown(self.optimizer) or rules.why_other_gradients(rows)
        self._check(rows, obstacle)
        self.optimizer._opt_called = True  # what torch's schedulers look for
        norm = self._first_pass(rows)
        finite = norm is None or math.isfinite(norm)
        if finite or not self._may_skip:
            self._take(rows, self._factor(norm), momentum, obstacle)
        else:
            self.skipped_steps += 1
        if self.loss_scaler is not None:
            self.loss_scaler.note(finite)
            if self.update_scale:
                self.loss_scaler._updated_by = weakref.ref(self)
                self.loss_scaler.update()
        return loss

    def refresh(self) -> None:
        """Send changed settings to the GPU, before a CUDA graph that holds a step is replayed.

        Learning rates, other options of the groups, the averages' momentum and what was assigned to
        the loss scale. A replay does nothing else on the host: no hook fires.
        """
        self._on_device.refresh()

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

    def _check(self, rows: Rows, obstacle: str | None) -> None:
        """Find what would raise only after something was written."""
        if obstacle is not None:
            if self.fused is True:
                raise TypeError(
                    f"FusedStep: fused=True, but {obstacle}; fused='auto' lets the optimizer take "
                    "its own step"
                )
            rules.check_own_step(self.optimizer, rows, scaled=self.grad_clip is not None)
        if rows.idle_ema or (obstacle is not None and self.ema is not None):
            averages = [average for average in rows.ema if average is not None]
            check_ema("FusedStep", averages + rows.idle_ema, rows.params + rows.idle_params)

    def _first_pass(self, rows: Rows) -> float | None:
        """The norm of the unscaled gradients; None if nobody asks.

        The host waits for it where the tensors are on a GPU and the step is not taken there.
        """
        self.grad_norm = None
        if self.grad_clip is None and not self._may_skip:
            return None
        column = Column("grads", rows.grads, sparse=True)
        norm_type = float((self.grad_clip or {}).get("norm_type", 2.0))
        norm = float(total_norm("grad_norm", column, norm_type)) * self._inverse_scale()
        if not self._may_skip and (self.grad_clip or {}).get("error_if_nonfinite"):
            check_finite(norm)
        self.grad_norm = torch.tensor(norm, dtype=torch.float32)
        return norm

    def _inverse_scale(self) -> float:
        return 1.0 if self.loss_scaler is None else 1.0 / self.loss_scaler.scale

    def _factor(self, norm: float | None) -> float:
        """What the gradients are to be multiplied by."""
        if self.grad_clip is None or norm is None:
            return self._inverse_scale()
        return self._inverse_scale() * clip_factor(norm, self.grad_clip["max_norm"])

    def _take(self, rows: Rows, factor: float, momentum: float, obstacle: str | None) -> None:
        if forced() == "triton" and rows.params:
            check_lists("FusedStep", *rows.columns(sparse=True))
            raise RuntimeError(
                "HOOKRUN_BACKEND=triton, but FusedStep cannot run there: "
                f"{self._on_device.obstacle}"
            )
        if obstacle is not None:
            declined("FusedStep", obstacle)
            self._own_step(rows, factor, momentum)
        else:
            self._second_pass(rows, factor, momentum)
        if rows.idle_ema:
            ema_update_(rows.idle_ema, rows.idle_params, momentum)

    def _second_pass(self, rows: Rows, factor: float, momentum: float) -> None:
        optimizer = self.optimizer
        if self._fire("pre"):  # a hook may have exchanged gradients or groups
            rows = collect(optimizer, self.model_params, self.ema)
        rules.update(optimizer, rows, factor, momentum, fused=self.fused is True)
        written = (*rows.params, *rows.model_params, *rows.ema)
        increment_version([each for each in written if each is not None])
        self._fire("post")

    def _fire(self, when: str) -> bool:
        """Call the optimizer's step hooks, "pre" or "post"; returns whether there are any."""
        everyones = _hooks(f"_global_optimizer_{when}_hooks")
        own = _values(self.optimizer, when)
        hooks = [*everyones, *own] if when == "pre" else [*own, *everyones]
        for hook in hooks:
            hook(self.optimizer, (), {})
        return bool(hooks)

    def _own_step(self, rows: Rows, factor: float, momentum: float) -> None:
        """Scaled gradients in place, then the optimizer's own step, with its own hooks.

        Where the gradients are a low-precision model's, they are copied to the masters first: in
        fp16 the unscaled ones would underflow.
        """
        copies = [
            (param, model_param)
            for param, model_param in zip(rows.params, rows.model_params, strict=True)
            if model_param is not None
        ]
        try:
            for param, model_param in copies:
                assert model_param.grad is not None
                param.grad = model_param.grad.to(param)
            if factor != 1.0:
                grads = [p.grad for p in rows.params if p.grad is not None]
                unscale_(grads, factor, torch.zeros(()))
            self.optimizer.step()
        finally:
            for param, _ in copies:
                param.grad = None
        if copies:
            convert_as("convert_", [m for _, m in copies], [p for p, _ in copies])
        averages = [average for average in rows.ema if average is not None]
        if averages:
            ema_update_(averages, rows.params, momentum)


def _hooks(name: str) -> list[Callable[..., Any]]:
    return list(getattr(torch_optimizer, name).values())


def _values(optimizer: Any, when: str) -> list[Callable[..., Any]]:
    return list(getattr(optimizer, f"_optimizer_step_{when}_hooks").values())


def _check_arguments(optimizer: Any, grad_clip: Any, loss_scaler: Any, fused: Any) -> None:
    if fused is not True and fused != "auto":
        raise ValueError(f"FusedStep: fused must be 'auto' or True, not {fused!r}")
    if not hasattr(optimizer, "param_groups") or not callable(getattr(optimizer, "step", None)):
        raise TypeError(f"FusedStep: optimizer must be torch's, not {optimizer!r}")
    obstacle = rules.why_unknown(optimizer)
    if fused is True and obstacle is not None:
        raise TypeError(
            f"FusedStep: fused=True, but {obstacle}; fused='auto' lets the optimizer take its own "
            "step"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"FusedStep: {type(optimizer).__name__} cannot step without a closure, which it calls "
            "several times; call its own step"
        )
    if grad_clip is not None:
        _check_grad_clip(grad_clip)
    if loss_scaler is not None and not isinstance(loss_scaler, LossScale):
        raise TypeError(
            f"FusedStep: loss_scaler must be a LossScale, not a {type(loss_scaler).__name__}; "
            "LossScale().load_state_dict(scaler.state_dict()) takes over torch's GradScaler"
        )


def _check_grad_clip(grad_clip: Any) -> None:
    if not isinstance(grad_clip, Mapping) or "max_norm" not in grad_clip:
        raise TypeError(
            "FusedStep: grad_clip is a dict of arguments of clip_grad_norm_, such as "
            f"dict(max_norm=35), not {grad_clip!r}"
        )
    unknown = set(grad_clip) - _CLIP_ARGUMENTS
    if unknown:
        raise TypeError(
            f"FusedStep: clip_grad_norm_ has no argument {', '.join(map(repr, sorted(unknown)))}"
        )
    check_norm_type("FusedStep", grad_clip.get("norm_type", 2.0))
    check_max_norm("FusedStep: grad_clip", grad_clip["max_norm"])
