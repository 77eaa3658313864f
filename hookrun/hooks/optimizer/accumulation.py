"""Gradient accumulation: which iterations make one optimizer step, and their gradients so far."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.checkpoint import shard_like
from hookrun.distributed import (
    drop_kept_gradients,
    fsdp_modules,
    get_dist_info,
    keeps_gradients,
    reduce_kept_gradients,
    set_gradient_sync,
)
from hookrun.ops import sync_buffers_
from hookrun.ops.sharded import is_sharded

from .._parameters import named_parameters


class Accumulation:
    """The gradient accumulation window: the iterations whose mean gradient makes one step.

    A window ends where the number of finished iterations is a multiple of ``iters``, and with the
    run. One that begins late, because a run was resumed in the middle of it, or ends early is
    shorter; its gradients are averaged over the iterations that it has.

    A copy has the window, but not what belongs to the run.

    Args:
        iters: the iterations of a full window; 1 for a step at every iteration. Can be assigned.

    Attributes:
        length: the iterations of the current window.
        done: how many of them have added their gradients.
        samples: of these iterations.
        no_sync: keeps wrappers from synchronizing gradients that do not step yet; None outside of
            a run.
    """

    no_sync: NoSync | None = None

    def __init__(self, iters: int = 1) -> None:
        self.iters = iters
        self._resumed: Mapping[str, Any] | None = None
        self._gathered: dict[str, Tensor] | None = None  # gradients, for the next checkpoint
        self.reset()

    def reset(self) -> None:
        """Forget the current window."""
        self.length, self.done, self.samples = self.iters, 0, 0.0
        self._next = -1  # the iteration that would continue it

    def begin_run(self, model: nn.Module) -> None:
        """Prepare for a run, in which ``before_forward`` is called at each iteration."""
        self.no_sync = NoSync(model)

    def end_run(self, error: BaseException | None) -> None:
        """Leave the model as it was. A run that ended by an error may go on in its window."""
        if self.no_sync is not None:
            self.no_sync.leave()
            self.no_sync = None
        if error is None:
            self.reset()

    def enter(self, iteration: int, max_iters: int | None, model: nn.Module | None = None) -> bool:
        """Continue the window, or begin one, with this iteration; may be called twice for it.

        Args:
            iteration: its number, from 0.
            max_iters: how many the run has, if that is known.
            model: which gets back the gradients of a window that a checkpoint had.

        Returns:
            Whether a window begins late, with fewer iterations than ``iters``; only the first of
            two calls says so.
        """
        self._gathered = None
        if self._resumed is not None and model is not None:
            self._resume(model, self._resumed)
        is_next = iteration == self._next
        if is_next and 0 < self.done < self.length:
            return False
        again = is_next and self.done == 0
        if self.no_sync is not None:  # of a run that was broken off
            drop_kept_gradients(self.no_sync.sharded)
        self.done, self.samples = 0, 0.0
        if self.iters == 1:  # whatever the iteration is
            self.length = 1
            return False
        self._next = iteration
        end = (iteration // self.iters + 1) * self.iters
        if max_iters is not None and iteration < max_iters:
            end = min(end, max_iters)
        self.length = end - iteration
        return iteration % self.iters != 0 and not again

    def before_forward(self) -> None:
        """Keep gradients on each rank, unless the iteration that was entered steps."""
        if self.no_sync is not None and not self.steps_next:
            self.no_sync.enter()

    @property
    def defers_sync(self) -> bool:
        """Whether gradients are synchronized by the last iteration of a window alone."""
        return self.no_sync is not None and self.no_sync.defers

    def synchronize_early(self) -> bool:
        """Synchronize the gradients so far where wrappers can; all ranks must call it.

        Returns:
            Whether gradients are still to be averaged, since wrappers have kept them on each rank
            and have no way to do it.
        """
        if self.no_sync is None:
            return False
        self.no_sync.reduce()
        return bool(self.no_sync.wrappers)

    @property
    def is_open(self) -> bool:
        """Whether there are gradients that wait for more."""
        return 0 < self.done < self.length

    @property
    def steps_next(self) -> bool:
        """Whether the iteration that was entered is the window's last."""
        return self.done + 1 == self.length

    def count(self, samples: float) -> bool:
        """Take note of an iteration's gradients; returns whether the window is complete."""
        self.samples = self.samples + samples if self.done else samples
        self.done += 1
        self._next += 1
        return self.done == self.length

    def gather(self, model: nn.Module) -> None:
        """Average the gradients so far over the ranks, for the next checkpoint; all must call it.

        Where the step averages what each rank has added up, going on from the average on all of
        them comes to the same, to rounding; so does FSDP2 reducing a window in two parts.
        """
        if self.is_open and not self._has_all_gradients:
            self.synchronize_early()
            self._gathered = mean_gradients_by_name(model)

    def state_dict(self, model: nn.Module) -> dict[str, Any] | None:
        """The current window with the model's gradients; None between two windows.

        On several ranks, and where FSDP2 keeps gradients, None too unless they were gathered since
        the latest iteration.
        """
        if not self.is_open:
            return None
        gradients = gradients_by_name(model) if self._has_all_gradients else self._gathered
        if gradients is None:
            return None
        return {
            "length": self.length,
            "done": self.done,
            "samples": self.samples,
            "next": self._next,
            "gradients": gradients,
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on in the middle of a window, from the next call of ``enter``; None for none."""
        self.reset()
        self._resumed = state

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "no_sync"}

    @property
    def _has_all_gradients(self) -> bool:
        """Whether the ``.grad`` of the parameters are all that there is."""
        kept = self.no_sync is not None and bool(self.no_sync.sharded)
        return get_dist_info()[1] == 1 and not kept

    def _resume(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if self.no_sync is not None:
            drop_kept_gradients(self.no_sync.sharded)
        restore_gradients(model, state["gradients"])
        self.length, self.done = state["length"], state["done"]
        self.samples, self._next = state["samples"], state["next"]
        self._resumed = None


class NoSync:
    """Keeps parallel wrappers from synchronizing gradients; entered before the forward pass.

    Args:
        model: the model; every module in it that has ``no_sync``, as DDP, counts, and those of
            FSDP2.

    Attributes:
        wrappers: the former; they keep gradients in the parameters' ``.grad``.
        sharded: the latter; they keep gradients themselves.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wrappers: list[Any] = [
            module for module in model.modules() if callable(getattr(module, "no_sync", None))
        ]
        # Torch records the graph in a first iteration, which must synchronize: what it averages
        # stays the same in the average of the window.
        self._recording = [each for each in self.wrappers if getattr(each, "static_graph", False)]
        sharded = fsdp_modules(model)
        self.sharded = sharded if keeps_gradients(sharded) else []
        self._entered = contextlib.ExitStack()

    @property
    def defers(self) -> bool:
        """Whether the model has such modules."""
        return bool(self.wrappers or self.sharded)

    def enter(self) -> None:
        """From now on, gradients stay on their rank."""
        self.leave()
        for wrapper in self.wrappers:
            if wrapper not in self._recording:
                self._entered.enter_context(wrapper.no_sync())
        self._recording = []
        set_gradient_sync(self.sharded, False)
        self._entered.callback(set_gradient_sync, self.sharded, True)

    def leave(self) -> None:
        """Synchronize gradients again; nothing happens if they are."""
        self._entered.close()

    def reduce(self) -> None:
        """Reduce the gradients that FSDP2 has kept into the parameters' ``.grad``."""
        self.leave()
        reduce_kept_gradients(self.sharded)


def gradients_by_name(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that there are, by the names of their parameters."""
    return {
        name: parameter.grad.detach()
        for name, parameter in named_parameters(model)
        if parameter.grad is not None
    }


def mean_gradients_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients, averaged over the ranks; all ranks must call it.

    One that some ranks lack counts as zeros there; what no rank has is left out. Sharded gradients
    (FSDP2) are averages already.
    """
    params = {name: each for name, each in named_parameters(model) if each.requires_grad}
    means = {
        name: torch.zeros_like(each) if each.grad is None else each.grad.detach().clone()
        for name, each in params.items()
    }
    has_grad = torch.tensor([float(each.grad is not None) for each in params.values()])
    dense = [each for each in means.values() if not is_sharded(each)]
    if dense:
        has_grad = has_grad.to(dense[0].device)
        sync_buffers_([*dense, has_grad])
    shares = dict(zip(params, has_grad.tolist(), strict=True))
    return {name: mean for name, mean in means.items() if shares[name] > 0}


def restore_gradients(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Put back what `gradients_by_name` gave.

    Raises:
        ValueError: a name or shape that the model does not have.
    """
    parameters = dict(named_parameters(model))
    for name, gradient in gradients.items():
        if name not in parameters or parameters[name].shape != gradient.shape:
            raise ValueError(f"the checkpoint has a gradient of {name!r}, which the model has not")
        ours = parameters[name]
        ours.grad = shard_like(gradient.to(ours.dtype), ours).to(ours.device)
