"""Backward and the optimizer's step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from hookrun.core import HOOKS, Hook
from hookrun.core.errors import did_you_mean

_CLIP_ARGUMENTS = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")


class OptimizerPhase:
    """What happens between a loss and updated parameters, as one object.

    The one place where gradients are made, scaled, clipped and applied, so that these can be fused
    without the hooks noticing.

    Args:
        optimizer: a torch optimizer.
        clip_grads: clips the gradients and returns their norm before that, or None not to clip.
    """

    def __init__(
        self, optimizer: Any, clip_grads: Callable[[], Tensor | None] | None = None
    ) -> None:
        self.optimizer = optimizer
        self.clip_grads = clip_grads

    def run(self, loss: Tensor) -> Tensor | None:
        """Take one step down the loss; returns the gradients' norm where they are clipped."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = self.clip_grads() if self.clip_grads is not None else None
        self.optimizer.step()
        return norm


@HOOKS.register_module()
class OptimizerHook(Hook):
    """Takes an optimizer step after each training iteration: zero, backward, clip, step.

    Args:
        grad_clip: keyword arguments of ``torch.nn.utils.clip_grad_norm_``, such as
            ``dict(max_norm=35, norm_type=2)``; None not to clip. The norm before clipping is logged
            as ``grad_norm``, without making the host wait for it.
        detect_anomalous_params: warn about trainable parameters that take no part in the loss, by
            name. For debugging: it walks through the graph at every iteration.

    Raises:
        TypeError: ``grad_clip`` is no dict, or has arguments that ``clip_grad_norm_`` has not.
        ValueError: a ``max_norm`` that is not above 0: gradients would vanish or turn around.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"learning_rate", "momentum"})
    writes: ClassVar[frozenset[str]] = frozenset({"parameters", "gradients", "log"})

    def __init__(
        self, grad_clip: Mapping[str, Any] | None = None, detect_anomalous_params: bool = False
    ) -> None:
        if grad_clip is not None:
            _check_grad_clip(grad_clip)
        self.grad_clip = grad_clip
        self.detect_anomalous_params = detect_anomalous_params

    def before_run(self, runner: Any) -> None:
        if runner.optimizer is None:
            raise ValueError(
                f"{type(self).__name__} steps the optimizer, but the runner has none: give "
                "optimizer=torch.optim.SGD(model.parameters(), ...) to the runner"
            )
        if isinstance(runner.optimizer, Mapping):
            raise TypeError(
                f"{type(self).__name__} steps one optimizer, but the runner has a dict of them "
                f"({', '.join(runner.optimizer)}): step them in the model's train_step and leave "
                "the optimizer hook out"
            )

    def after_train_iter(self, runner: Any) -> None:
        loss = self.loss_of(runner)
        if self.detect_anomalous_params:
            self.detect_anomalous_parameters(loss, runner)
        clip = None
        if self.grad_clip is not None:
            clip = lambda: self.clip_grads(runner.model.parameters())  # noqa: E731
        norm = OptimizerPhase(runner.optimizer, clip).run(loss)
        if norm is not None:
            runner.log_buffer.update({"grad_norm": norm}, runner.outputs.get("num_samples", 1))

    def loss_of(self, runner: Any) -> Tensor:
        """The loss that the step returned.

        Raises:
            KeyError: there is none.
        """
        try:
            return runner.outputs["loss"]  # type: ignore[no-any-return]
        except KeyError:
            raise KeyError(
                f"{type(self).__name__} needs outputs['loss'], but train_step returned "
                f"{sorted(map(str, runner.outputs))}"
            ) from None

    def clip_grads(self, params: Iterable[nn.Parameter]) -> Tensor | None:
        """Clip the gradients; returns their norm before that, or None where there are none."""
        with_grad = [p for p in params if p.requires_grad and p.grad is not None]
        if not with_grad:
            return None
        return clip_grad_norm_(with_grad, **(self.grad_clip or {}))

    def detect_anomalous_parameters(self, loss: Tensor, runner: Any) -> None:
        """Warn about trainable parameters that the loss does not depend on."""
        reached: set[int] = set()
        seen = set()
        to_visit = [loss.grad_fn]
        while to_visit:
            node = to_visit.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None:
                reached.add(id(variable))
            to_visit.extend(parent for parent, _ in node.next_functions)
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad and id(parameter) not in reached:
                runner.logger.warning(
                    "parameter %s of shape %s takes no part in the loss",
                    name,
                    tuple(parameter.shape),
                )


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
