"""The optimizer phase: what happens between a loss and updated parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

from hookrun._native import are_params_of, clear_gradients
from hookrun.core.masters import model_parameter
from hookrun.core.overrides import overrides
from hookrun.distributed import allreduce_grads, sharded_parameters
from hookrun.ops import FusedStep, unscale_
from hookrun.ops.step_hooks import own_step, why_replaced

from .accumulation import Accumulation
from .clipping import Clipping
from .masters import master_pairs, take_gradients, update_model
from .own_training import explain_second_backward
from .precision import Precision


class Step(NamedTuple):
    """What one step did.

    Attributes:
        grad_norm: of the gradients before clipping, where they were clipped: a number, or a 0-dim
            tensor that the host need not wait for.
        taken: False where a gradient was not finite and the step was skipped; always True on a GPU,
            which is not waited for.
        averaged: whether the step took care of the averages given to ``average_in_step``.
        skipped_steps: how many steps were skipped so far, as a 0-dim tensor, where they are counted
            on a GPU; else None.
    """

    grad_norm: float | Tensor | None
    taken: bool
    averaged: bool = False
    skipped_steps: Tensor | None = None


class OptimizerPhase:
    """Backward, unscale, clip and step, for one model and its optimizers.

    An iteration calls ``enter``, ``backward`` and ``count``, and ``step`` where that completes the
    gradient accumulation window.

    One torch optimizer, whose gradients no function of the user's clips, takes a `FusedStep`, which
    does everything in two passes over memory. Otherwise, the parts do their work one after the
    other, as torch's own calls, and only the optimizer's update is fused.

    Args:
        model: the model; the gradients of its parameters are clipped.
        optimizers: the optimizers that step together.
        precision: loss scale and fp32 masters.
        accumulation: the window; it outlives the phase.
        clipping: what clips the gradients.
        fused: False for torch's own calls, else ``'auto'`` or True, as for `FusedStep`.
        skip_nonfinite: skip a step whose gradients are not finite, without a loss scale too.
        owner: the hook's name, for errors.
    """

    def __init__(
        self,
        model: Any,
        optimizers: Sequence[Any],
        *,
        precision: Precision | None = None,
        accumulation: Accumulation | None = None,
        clipping: Clipping | None = None,
        fused: bool | str = "auto",
        skip_nonfinite: bool = False,
        owner: str = "OptimizerPhase",
    ) -> None:
        self.model = model
        self.optimizers = list(optimizers)
        self._torch_optimizers = [each for each in self.optimizers if _is_torch(each)]
        self.precision = Precision() if precision is None else precision
        self.accumulation = Accumulation() if accumulation is None else accumulation
        self.clipping = Clipping(None) if clipping is None else clipping
        self.skip_nonfinite = skip_nonfinite
        self.owner = owner
        self._has_masters = bool(master_pairs(self._torch_optimizers))
        self._averages_gradients = self.precision.must_average(model)
        self._skipped_by_calls = 0
        self._updates: list[Callable[[], Any]] = [partial(own_step, o) for o in self.optimizers]
        self.fused_step: FusedStep | None = None
        if fused is not False and self._torch_optimizers == self.optimizers:
            self._fuse("auto" if fused == "auto" else True)
        self._known = self._params_of_torch()  # all that there are, where the step is fused
        self.find_parameters()

    @property
    def skipped_steps(self) -> Any:
        """Steps not taken because a gradient was not finite; on a GPU a 0-dim tensor."""
        fused = self.fused_step
        return self._skipped_by_calls + (0 if fused is None else fused.skipped_steps)

    def find_parameters(self) -> None:
        """Look which parameters the model has now, besides those that are stepped."""
        self._zero_grads = self._find_zero_grads()
        fuses_all = self.fused_step is not None
        self._params_outside_optimizer = self._find_params_outside() if fuses_all else []

    def is_of(self, model: Any, optimizers: list[Any]) -> bool:
        """Whether the phase was made for these, with the parameters that their groups have now."""
        return (
            model is self.model
            and optimizers == self.optimizers
            and are_params_of(self._known, self._torch_optimizers)
        )

    def enter(self, iteration: int, max_iters: int | None) -> bool:
        """Begin an iteration, and clear the gradients where it begins a window.

        Args:
            iteration: its number, from 0.
            max_iters: how many the run has, if that is known.

        Returns:
            Whether a window begins late, see `Accumulation.enter`.
        """
        begins_late = self.accumulation.enter(iteration, max_iters, self.model)
        if self.accumulation.done == 0:
            for clear in self._zero_grads:
                clear()
        return begins_late

    def backward(self, loss: Tensor, iterations: int) -> None:
        """Add the gradients of the loss, scaled.

        Args:
            loss: a scalar.
            iterations: how many of them the step averages.

        Raises:
            ValueError: the graph of the loss has been used already.
        """
        if iterations != 1:
            loss = loss / iterations
        if self.precision.scaler is not None:
            loss = self.precision.scale(loss)
        try:
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
        except RuntimeError as error:
            explanation = explain_second_backward(self.owner, error)
            if explanation is None:
                raise
            raise ValueError(explanation) from error
        if self.accumulation.no_sync is not None:
            self.accumulation.no_sync.leave()

    def end_early(self) -> None:
        """Let a window end with the iterations that it has: ``step`` comes next."""
        window = self.accumulation
        # What was left to an iteration that does not come.
        self._averages_gradients |= window.synchronize_early()
        none = torch.zeros(1, dtype=torch.float32, device="cpu")
        unscale_(self._gradients(), window.length / window.done, none)

    def step(self, ema_momentum: float = 0.0) -> Step:
        """Step with the gradients there are.

        Args:
            ema_momentum: weight of the new parameters in the averages of ``average_in_step``.
        """
        if self._averages_gradients:
            allreduce_grads(map(model_parameter, self._params()))
        fused, outside = self.fused_step, self._params_outside_optimizer
        if fused is None or (outside and any(map(_has_gradient, outside))):
            return self._step_by_calls()
        return self._step_fused(fused, ema_momentum)

    def average_in_step(self, averages: Mapping[int, Tensor]) -> bool:
        """Let the fused step move these averages of parameters too, from now on.

        Args:
            averages: by the ``id`` of the optimizer's parameter.

        Returns:
            Whether it will: not if the step is not fused, or a parameter has no average.
        """
        if self.fused_step is None:
            return False
        found = [averages.get(id(param)) for param in self._params()]
        partners = [average for average in found if average is not None]
        if len(partners) != len(found):
            return False
        self.fused_step.ema, self.fused_step.ema_momentum = partners, 0.0
        return True

    def stop_averaging(self) -> None:
        """Leave averages alone again."""
        if self.fused_step is not None:
            self.fused_step.ema = self.fused_step.ema_momentum = None

    def _fuse(self, fused: bool | str) -> None:
        """Make the fused step, or fused updates where it cannot do everything."""
        if len(self.optimizers) != 1 or self.clipping.override is not None:
            self._updates = [FusedStep(each, fused=fused).step for each in self.optimizers]
            return
        copies = [model_parameter(param) for param in self._params()]
        self.fused_step = FusedStep(
            self.optimizers[0],
            grad_clip=self.clipping.grad_clip,
            loss_scaler=self.precision.scaler,
            model_params=copies if self._has_masters else None,
            skip_nonfinite=self.skip_nonfinite,
            fused=fused,
        )

    def _step_fused(self, fused: FusedStep, ema_momentum: float) -> Step:
        fused.grad_clip = self.clipping.grad_clip
        fused.loss_scaler = self.precision.scaler
        if fused.ema is not None:
            if _has_post_hooks(fused.optimizer):
                self.stop_averaging()  # they may write parameters
            else:
                fused.ema_momentum = ema_momentum
        before = fused.skipped_steps
        fused.step()
        norm = None if fused.grad_clip is None else fused.grad_norm_value
        may_be_of_nothing = isinstance(norm, Tensor) or norm == 0.0
        if may_be_of_nothing and not any(map(_has_gradient, self._known)):
            norm = None
        skipped, averaged = fused.skipped_steps, fused.ema is not None
        if isinstance(skipped, Tensor):
            return Step(norm, True, averaged, self._skipped_on_device(fused))
        return Step(norm, skipped == before, averaged)

    def _step_by_calls(self) -> Step:
        norm, taken = None, True
        if self._has_masters:
            take_gradients(self.optimizers)
        if self.precision.scaler is not None or self.skip_nonfinite:
            gradients = [p.grad for p in self._params() if p.grad is not None]
            taken = not gradients or self.precision.unscale(gradients)
        if not taken:
            self._skipped_by_calls += 1
        else:
            if self.clipping.grad_clip is not None:
                clipped = self._params() if self._has_masters else self.model.parameters()
                norm = self.clipping.clip(clipped)
            for update in self._updates:
                update()
            if self._has_masters:
                update_model(self.optimizers)
        on_device = None if self.fused_step is None else self._skipped_on_device(self.fused_step)
        return Step(norm, taken, skipped_steps=on_device)

    def _skipped_on_device(self, fused: FusedStep) -> Tensor | None:
        """How many steps were skipped, where they are counted on a GPU."""
        skipped = fused.skipped_steps
        return self._skipped_by_calls + skipped if isinstance(skipped, Tensor) else None

    def _params(self) -> Iterator[Any]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]

    def _params_of_torch(self) -> list[Any]:
        """The parameters of those optimizers that are torch's, as their groups have them now."""
        return [
            param
            for optimizer in self._torch_optimizers
            for group in optimizer.param_groups
            for param in group["params"]
        ]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in map(model_parameter, self._params()) if p.grad is not None]

    def _find_zero_grads(self) -> list[Callable[[], None]]:
        """What clears all gradients: natively, unless someone has replaced torch's ``zero_grad``.

        A phase is made anew where the optimizers' parameters change, and calls this again where the
        model gets others.
        """
        clears_model = self.precision.clears_model or self._has_masters
        owners = [self.model, *self.optimizers] if clears_model else self.optimizers
        if self._torch_optimizers != self.optimizers or not all(map(_has_torch_zero_grad, owners)):
            return [each.zero_grad for each in owners]
        params = [*sharded_parameters(self.model), *self._known] if clears_model else self._known
        return [partial(clear_gradients, list(dict.fromkeys(params)))]

    def _find_params_outside(self) -> list[nn.Parameter]:
        """Parameters of the model that are clipped, but step elsewhere or nowhere.

        While they have gradients, these count in the norm, as in MMCV.
        """
        if self._has_masters or not isinstance(self.model, nn.Module):
            return []
        known = {id(param) for param in self._params()}
        return [each for each in sharded_parameters(self.model) if id(each) not in known]


def _has_torch_zero_grad(owner: Any) -> bool:
    """Whether the ``zero_grad`` of a model or an optimizer is that of torch's class."""
    base = nn.Module if isinstance(owner, nn.Module) else Optimizer
    return isinstance(owner, base) and not overrides(owner, base, ("zero_grad",))


def _is_torch(optimizer: Any) -> bool:
    """Whether it is a torch optimizer whose own ``step`` is not replaced."""
    return isinstance(optimizer, Optimizer) and why_replaced(optimizer) is None


def _has_post_hooks(optimizer: Optimizer) -> bool:
    """Whether step hooks of torch's run at the end of a step."""
    return bool(
        optimizer._optimizer_step_post_hooks or torch_optimizer._global_optimizer_post_hooks
    )


def _has_gradient(parameter: Tensor) -> bool:
    return model_parameter(parameter).grad is not None
