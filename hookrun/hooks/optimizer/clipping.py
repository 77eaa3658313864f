"""Gradient clipping: what its arguments may be, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun import ops
from hookrun.core.errors import did_you_mean

ClipGrads = Callable[[Iterable[nn.Parameter]], Tensor | None]
_ARGUMENTS = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")


class Clipping:
    """Clips gradients by their total norm, or lets a user's function do it.

    Args:
        grad_clip: keyword arguments of ``torch.nn.utils.clip_grad_norm_``, such as
            ``dict(max_norm=35)``; None not to clip. Can be assigned.
        fused: False for torch's own call.
        override: called with the parameters instead, where ``grad_clip`` is not None; gives the
            norm before clipping, or None. The fused step cannot stand in for it.
    """

    def __init__(
        self,
        grad_clip: Mapping[str, Any] | None,
        *,
        fused: bool = True,
        override: ClipGrads | None = None,
    ) -> None:
        self.grad_clip = grad_clip
        self.fused = fused
        self.override = override

    def clip(self, params: Iterable[nn.Parameter]) -> Tensor | None:
        """Clip the gradients of these in place.

        Returns:
            Their norm before that; None without ``grad_clip``, or where there are no gradients.
        """
        if self.grad_clip is None:
            return None
        if self.override is not None:
            return self.override(params)
        return clip_grads(params, self.grad_clip, self.fused)


def clip_grads(
    params: Iterable[nn.Parameter], grad_clip: Mapping[str, Any], fused: bool
) -> Tensor | None:
    """Clip the gradients of trainable parameters; returns the norm before that, if there are any.

    Args:
        params: those without a gradient are left out.
        grad_clip: arguments of ``clip_grad_norm_``.
        fused: False for torch's own call.
    """
    with_grad = [p for p in params if p.requires_grad and p.grad is not None]
    if not with_grad:
        return None
    if fused:
        return ops.clip_grad_norm_(with_grad, **grad_clip)
    return torch.nn.utils.clip_grad_norm_(with_grad, **grad_clip)


def check_grad_clip(grad_clip: Any) -> None:
    """Refuse what ``clip_grad_norm_`` would not take, before the run.

    Raises:
        TypeError: it is no dict, has unknown arguments, or no number as ``max_norm``.
        ValueError: a ``max_norm`` that is not above 0.
    """
    if not isinstance(grad_clip, Mapping):
        raise TypeError(
            "grad_clip is a dict of arguments of clip_grad_norm_, such as dict(max_norm=35), "
            f"not {grad_clip!r}"
        )
    for name in grad_clip:
        if name not in _ARGUMENTS:
            raise TypeError(
                f"grad_clip: clip_grad_norm_ has no argument {name!r}. "
                + did_you_mean(str(name), _ARGUMENTS)
            )
    max_norm = grad_clip.get("max_norm")
    if isinstance(max_norm, bool) or not isinstance(max_norm, (int, float, torch.Tensor)):
        raise TypeError(f"grad_clip needs max_norm, a number; got {dict(grad_clip)!r}")
    if not isinstance(max_norm, torch.Tensor) and not max_norm > 0:
        raise ValueError(f"grad_clip: max_norm must be above 0, not {max_norm!r}")
