"""The whole optimizer phase in two passes over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from . import rules
from .backend import declined
from .clip_grad_norm import clip_factor
from .convert import convert_as
from .ema import check_momentum, ema_update_
from .loss_scale import LossScale
from .norm import grad_norm, norm_on_cpu
from .rows import Rows, collect
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
    with sparse or complex gradients, gets its gradients scaled and clipped in place and takes its
    own step.

    A step whose gradients are not finite is skipped under a loss scale or ``skip_nonfinite``: then
    parameters, state, step counts and averages stay as they are, and no hook fires. Otherwise it is
    taken, as torch would.

    Args:
        optimizer: a torch optimizer.
        grad_clip: arguments of `clip_grad_norm_`, such as ``dict(max_norm=35)``; None not to clip.
        loss_scaler: the `LossScale` that multiplied the loss; None if nothing did. It is updated by
            each step.
        ema: averages of the parameters, one tensor each, in the order of the optimizer's groups; a
            list that is read at each step.
        ema_momentum: weight of the parameters in the averages, or a function that returns it at
            each step. Can be assigned.
        model_params: the tensors that the model computes with, where the optimizer's parameters are
            fp32 masters of them, in the same order. Their gradients are read and they are written;
            one that is the optimizer's own parameter is no copy.
        skip_nonfinite: skip a step with inf or NaN without a loss scale too. It hides divergence.

    Raises:
        TypeError: ``grad_clip`` or ``loss_scaler`` is of another type.
        ValueError: only one of ``ema`` and ``ema_momentum`` is given, or lists do not fit the
            optimizer's parameters.
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
    ) -> None:
        if grad_clip is not None:
            _check_grad_clip(grad_clip)
        if loss_scaler is not None and not isinstance(loss_scaler, LossScale):
            raise TypeError(
                f"FusedStep: loss_scaler must be a LossScale, not a {type(loss_scaler).__name__}; "
                "LossScale().load_state_dict(scaler.state_dict()) takes over torch's GradScaler"
            )
        if (ema is None) != (ema_momentum is None):
            raise ValueError("FusedStep: ema and ema_momentum go together; give both or neither")
        self.optimizer = optimizer
        self.grad_clip = grad_clip
        self.loss_scaler = loss_scaler
        self.ema = ema
        self.ema_momentum = ema_momentum
        self.model_params = model_params
        self.skip_nonfinite = skip_nonfinite
        #: Norm of the unscaled gradients of the latest step before clipping, 0-dim; None if neither
        #: clipping nor a loss scale asked for it.
        self.grad_norm: Tensor | None = None
        #: Steps skipped so far because a gradient was not finite.
        self.skipped_steps = 0
        collect(optimizer, model_params, ema)

    @torch.no_grad()
    def step(self) -> None:
        """Take one step with the gradients there are; it may be skipped (see the class).

        Raises:
            RuntimeError: the norm is not finite, under ``grad_clip``'s ``error_if_nonfinite``.
            ValueError: lists that do not fit, or tensors that share memory. Nothing is changed.
        """
        self.optimizer._opt_called = True  # what torch's schedulers look for
        rows = collect(self.optimizer, self.model_params, self.ema)
        momentum = self._momentum()
        factor = self._first_pass(rows)
        if factor is None:
            return
        obstacle = rules.why_unknown(self.optimizer, rows)
        if obstacle is not None:
            declined("FusedStep", obstacle)
            self._own_step(rows, factor, momentum)
        else:
            self._second_pass(rows, factor, momentum)
        if rows.idle_ema:
            ema_update_(rows.idle_ema, rows.idle_params, momentum)

    def state_dict(self) -> dict[str, Any]:
        """What the step itself remembers; the optimizer's state is in the optimizer's."""
        scaler = self.loss_scaler
        return {
            "skipped_steps": self.skipped_steps,
            "loss_scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.skipped_steps = state["skipped_steps"]
        if self.loss_scaler is not None and state["loss_scaler"] is not None:
            self.loss_scaler.load_state_dict(state["loss_scaler"])

    def _momentum(self) -> float:
        if self.ema_momentum is None:
            return 0.0
        momentum = self.ema_momentum() if callable(self.ema_momentum) else self.ema_momentum
        check_momentum("FusedStep", momentum)
        return float(momentum)

    def _first_pass(self, rows: Rows) -> float | None:
        """What the gradients are to be multiplied by; None if the step is skipped."""
        self.grad_norm = None
        scaler = self.loss_scaler
        may_skip = scaler is not None or self.skip_nonfinite
        if self.grad_clip is None and not may_skip:
            return 1.0
        inverse = 1.0 if scaler is None else 1.0 / scaler.scale
        clip = self.grad_clip or {}
        norm, finite = _norm(rows.grads, float(clip.get("norm_type", 2.0)), inverse)
        self.grad_norm = torch.tensor(norm, dtype=torch.float32)
        if scaler is not None:
            scaler.update(finite)
        if may_skip and not finite:
            self.skipped_steps += 1
            return None
        if clip.get("error_if_nonfinite") and not finite:
            raise RuntimeError(
                f"the norm of the gradients is {norm}, so they cannot be clipped; with "
                "error_if_nonfinite=False they are scaled by it all the same"
            )
        return inverse * clip_factor(norm, float(clip["max_norm"])) if clip else inverse

    def _second_pass(self, rows: Rows, factor: float, momentum: float) -> None:
        optimizer = self.optimizer
        before = [*_hooks("_global_optimizer_pre_hooks"), *_values(optimizer, "pre")]
        for hook in before:
            hook(optimizer, (), {})
        if before:  # a hook may have exchanged gradients or groups
            rows = collect(optimizer, self.model_params, self.ema)
        rules.update(optimizer, rows, factor, momentum)
        increment_version([*rows.params, *(m for m in rows.model_params if m is not None)])
        after = chain(_values(optimizer, "post"), _hooks("_global_optimizer_post_hooks"))
        for hook in after:
            hook(optimizer, (), {})

    def _own_step(self, rows: Rows, factor: float, momentum: float) -> None:
        """Scaled gradients in place, then the optimizer's own step, with its own hooks."""
        if factor != 1.0:
            unscale_(rows.grads, factor, torch.zeros(()))
        copies = [
            (param, model_param)
            for param, model_param in zip(rows.params, rows.model_params, strict=True)
            if model_param is not None
        ]
        for param, model_param in copies:
            assert model_param.grad is not None
            param.grad = model_param.grad.to(param)
        self.optimizer.step()
        for param, _ in copies:
            param.grad = None
        if copies:
            convert_as("convert_", [m for _, m in copies], [p for p, _ in copies])
        averages = [average for average in rows.ema if average is not None]
        if averages:
            ema_update_(averages, rows.params, momentum)


def _norm(grads: list[Tensor], norm_type: float, inverse: float) -> tuple[float, bool]:
    """Norm of the unscaled gradients, and whether all of them are finite.

    On a GPU the host waits for it: there are no kernels yet that would keep it on the device.
    """
    found = norm_on_cpu("grad_norm", grads, norm_type)
    norm = float(grad_norm(grads, norm_type)) if found is None else found[0]
    return norm * inverse, math.isfinite(norm)


def _hooks(name: str) -> list[Callable[..., Any]]:
    return list(getattr(torch_optimizer, name).values())


def _values(optimizer: Any, when: str) -> list[Callable[..., Any]]:
    return list(getattr(optimizer, f"_optimizer_step_{when}_hooks").values())


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
