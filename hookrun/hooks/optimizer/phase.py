"""The optimizer phase: what happens between a loss and updated parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from hookrun.core.masters import model_parameter
from hookrun.ops import FusedStep, LossScale, sync_buffers_, unscale_
from hookrun.ops.step_hooks import own_step, why_replaced

from .masters import (
    LOW_PRECISION,
    master_pairs,
    take_gradients,
    update_model,
)

Clip = Callable[[Iterable[nn.Parameter]], Tensor | None]


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        grad_norm: of the gradients before clipping, where they were clipped.
        taken: False where it is known to be skipped because a gradient was not finite; on a GPU
            nobody waits to know.
        averaged: whether the averages given to ``average_in_step`` are done with.
    """

    grad_norm: Tensor | None
    taken: bool
    averaged: bool = False


class OptimizerPhase:
    """Backward, unscale, clip and step, as one object, composed of its parts.

    One optimizer whose gradients nobody else clips takes a `FusedStep`, which does it all in two
    passes over memory. Several optimizers, a hook's own clipping, and what is no torch optimizer
    take the way of torch's calls, where only the update itself is fused.

    Args:
        model: the model; its parameters are clipped.
        optimizers: the optimizers that step together.
        grad_clip: arguments of ``clip_grad_norm_``, or None.
        clip: does the clipping where ``clips_itself``, or where the way of torch's calls is taken.
        clips_itself: whether ``clip`` must be called, because someone overrode it.
        scaler: the loss scale, or None.
        fused: False for torch's own calls, else ``'auto'`` or True.
        skip_nonfinite: skip a step whose gradients are not finite, without a loss scale too.
        clears_model: whether gradients are cleared in the whole model, not only where they step.
        reduces: whether to average gradients over the processes, which nothing else does.
    """

    def __init__(
        self,
        model: Any,
        optimizers: Sequence[Any],
        *,
        grad_clip: Mapping[str, Any] | None,
        clip: Clip,
        clips_itself: bool,
        scaler: LossScale | None,
        fused: bool | str,
        skip_nonfinite: bool,
        clears_model: bool = False,
        reduces: bool = False,
    ) -> None:
        self.model = model
        self.optimizers = list(optimizers)
        self.grad_clip = grad_clip
        self.clip = clip
        self.scaler = scaler
        self.skip_nonfinite = skip_nonfinite
        self.clears_model = clears_model
        self.reduces = reduces
        self._skipped_by_calls = 0
        self.masters = bool(master_pairs(each for each in optimizers if _is_torch(each)))
        fusible = fused is not False and all(map(_is_torch, optimizers))
        self.whole: FusedStep | None = None
        how = True if fused is True else "auto"
        self._updates: list[Callable[[], Any]] = [partial(own_step, o) for o in self.optimizers]
        if fusible and len(self.optimizers) == 1 and not clips_itself:
            self.whole = FusedStep(
                self.optimizers[0],
                grad_clip=grad_clip,
                loss_scaler=scaler,
                model_params=self._model_params() if self.masters else None,
                skip_nonfinite=skip_nonfinite,
                fused=how,
            )
        elif fusible:
            self._updates = [FusedStep(each, fused=how).step for each in self.optimizers]
        self._known = self._groups_entries()
        self._strangers = self._find_strangers() if self.whole is not None else []

    @property
    def skipped_steps(self) -> Any:
        """Steps not taken because a gradient was not finite; on a GPU a 0-dim tensor."""
        whole = self.whole
        return self._skipped_by_calls + (0 if whole is None else whole.skipped_steps)

    def is_of(self, model: Any, optimizers: Sequence[Any]) -> bool:
        """Whether the phase was made for these, with their groups' entries as they are now."""
        return (
            model is self.model
            and _are_the_same(self.optimizers, optimizers)
            and _are_the_same(self._known, self._groups_entries())
        )

    def clear(self) -> None:
        """Forget the gradients."""
        if self.clears_model or self.masters:
            self.model.zero_grad()
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def backward(self, loss: Tensor, iterations: int) -> None:
        """Add the loss's gradients, scaled.

        Args:
            loss: a scalar.
            iterations: over how many of them the step averages.
        """
        if iterations != 1:
            loss = loss / iterations
        if self.scaler is not None:
            wide = loss.float() if loss.dtype in LOW_PRECISION else loss
            loss = wide * self.scaler.scale
        loss.backward()  # type: ignore[no-untyped-call]

    def rescale(self, factor: float) -> None:
        """Multiply the gradients, where fewer iterations came than they were divided by."""
        unscale_(self._gradients(), factor, torch.zeros(1, dtype=torch.float32, device="cpu"))

    def step(self, ema_momentum: float = 0.0) -> Step:
        """Step with the gradients there are.

        Args:
            ema_momentum: weight of the new parameters in the averages of ``average_in_step``.
        """
        if self.reduces:
            sync_buffers_(self._gradients())
        if self.whole is None or any(map(_has_gradient, self._strangers)):
            return self._step_by_calls()
        return self._step_fused(self.whole, ema_momentum)

    def average_in_step(self, averages: Mapping[int, Tensor]) -> bool:
        """Let the fused step move these averages of parameters too, from now on.

        Args:
            averages: by the ``id`` of the optimizer's entry.

        Returns:
            Whether it will: not if it is not fused, or an entry has no average.
        """
        if self.whole is None:
            return False
        found = [averages.get(id(entry)) for entry in self._entries()]
        partners = [average for average in found if average is not None]
        if len(partners) != len(found):
            return False
        self.whole.ema, self.whole.ema_momentum = partners, 0.0
        return True

    def stop_averaging(self) -> None:
        """Leave averages alone again."""
        if self.whole is not None:
            self.whole.ema = self.whole.ema_momentum = None

    def _step_fused(self, whole: FusedStep, ema_momentum: float) -> Step:
        whole.grad_clip = self.grad_clip
        if whole.ema is not None and _has_post_hooks(whole.optimizer):
            self.stop_averaging()  # they may write parameters
        if whole.ema is not None:
            whole.ema_momentum = ema_momentum
        before = whole.skipped_steps
        whole.step()
        on_device = isinstance(whole.skipped_steps, Tensor)
        taken = on_device or whole.skipped_steps == before
        clipped = self.grad_clip is not None and any(map(_has_gradient, self._entries()))
        norm = whole.grad_norm if clipped else None
        return Step(norm, taken, averaged=whole.ema is not None)

    def _step_by_calls(self) -> Step:
        if not self._unscale():
            self._skipped_by_calls += 1
            return Step(None, taken=False)
        norm = None
        if self.grad_clip is not None:
            norm = self.clip(self._entries() if self.masters else self.model.parameters())
        for update in self._updates:
            update()
        if self.masters:
            update_model(self.optimizers)
        return Step(norm, taken=True)

    def _unscale(self) -> bool:
        """Make gradients what they are without the loss scale; whether the step can be taken."""
        if self.masters:
            take_gradients(self.optimizers)
        if self.scaler is None and not self.skip_nonfinite:
            return True
        gradients = [e.grad for e in self._entries() if e.grad is not None]
        if not gradients:
            return True
        found_inf = torch.zeros(1, dtype=torch.float32, device=gradients[0].device)
        inverse = 1.0 if self.scaler is None else 1.0 / self.scaler.scale
        unscale_(gradients, inverse, found_inf)
        finite = not bool(found_inf)
        if self.scaler is not None:
            self.scaler.update(finite=finite)
        return finite

    def _entries(self) -> Iterator[Any]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]

    def _model_params(self) -> list[Tensor]:
        return [model_parameter(entry) for entry in self._entries()]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in map(model_parameter, self._entries()) if p.grad is not None]

    def _find_strangers(self) -> list[nn.Parameter]:
        """Parameters of the model that are clipped, but step elsewhere or nowhere.

        While they have gradients, these count in the norm, as in MMCV.
        """
        if self.masters or not isinstance(self.model, nn.Module):
            return []
        known = {id(entry) for entry in self._entries()}
        return [each for each in self.model.parameters() if id(each) not in known]

    def _groups_entries(self) -> list[Any]:
        return [
            entry
            for optimizer in self.optimizers
            if _is_torch(optimizer)
            for group in optimizer.param_groups
            for entry in group["params"]
        ]


def _are_the_same(ours: Sequence[Any], given: Sequence[Any]) -> bool:
    return len(ours) == len(given) and all(map(is_, ours, given))


def _is_torch(optimizer: Any) -> bool:
    """Whether it is a torch optimizer whose own ``step`` nobody replaced."""
    return isinstance(optimizer, Optimizer) and why_replaced(optimizer) is None


def _has_post_hooks(optimizer: Optimizer) -> bool:
    """Whether functions of others run at the end of a step."""
    return bool(
        optimizer._optimizer_step_post_hooks or torch_optimizer._global_optimizer_post_hooks
    )


def _has_gradient(parameter: Tensor) -> bool:
    return model_parameter(parameter).grad is not None
