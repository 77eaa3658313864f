"""Windows of iterations whose gradients make one optimizer step."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hookrun.ops import sync_buffers_

from .._parameters import named_parameters


class Accumulation:
    """Which iterations belong to a step, and how many there are to average over.

    A window ends where the count of the run's iterations is a multiple of ``iters``, or with the
    run. One that begins late, because a run was resumed inside of it, or ends early is shorter, and
    its gradients are averaged over the iterations that it has.

    Args:
        iters: the iterations of a whole window.
    """

    def __init__(self, iters: int) -> None:
        self.iters = iters
        self.length = iters  # of the window at work
        self.done = 0  # iterations of it whose gradients are there
        self.samples = 0.0
        self._next = -1  # the iteration that would continue it

    def enter(self, iteration: int, max_iters: int | None) -> None:
        """Continue the window, or begin one, with this iteration; may be called twice for it."""
        if self.is_open and iteration == self._next:
            return
        end = (iteration // self.iters + 1) * self.iters
        if max_iters is not None and iteration < max_iters:
            end = min(end, max_iters)
        self.length, self.done, self.samples, self._next = end - iteration, 0, 0.0, iteration

    @property
    def is_open(self) -> bool:
        """Whether there are gradients that wait for more."""
        return 0 < self.done < self.length

    @property
    def steps_next(self) -> bool:
        """Whether the iteration entered is the window's last."""
        return self.done + 1 == self.length

    def count(self, samples: float) -> bool:
        """Take note of an iteration's gradients; whether the window is complete."""
        self.done += 1
        self.samples += samples
        self._next += 1
        return self.done == self.length

    def state_dict(self) -> dict[str, Any]:
        """Where in a window the run is."""
        return {
            "length": self.length,
            "done": self.done,
            "samples": self.samples,
            "next": self._next,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on inside a window; its gradients must be restored too."""
        self.length, self.done = state["length"], state["done"]
        self.samples, self._next = state["samples"], state["next"]


class NoSync:
    """Keeps parallel wrappers from exchanging gradients; entered before the forward pass.

    Args:
        model: the model; every module in it that has ``no_sync`` counts.
    """

    def __init__(self, model: nn.Module) -> None:
        self.wrappers: list[Any] = [
            module for module in model.modules() if callable(getattr(module, "no_sync", None))
        ]
        self._entered = contextlib.ExitStack()

    def enter(self) -> None:
        """From now on, gradients stay in the process."""
        self.leave()
        for wrapper in self.wrappers:
            self._entered.enter_context(wrapper.no_sync())

    def leave(self) -> None:
        """Exchange gradients again; nothing happens if they are."""
        self._entered.close()


def gradients_by_name(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that there are, by the names of their parameters."""
    return {
        name: parameter.grad.detach()
        for name, parameter in named_parameters(model)
        if parameter.grad is not None
    }


def mean_gradients_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients, averaged over the processes; all must call it.

    Where a step averages what each process has added up, going on from the average everywhere comes
    to the same.
    """
    means = {
        name: torch.zeros_like(each) if each.grad is None else each.grad.detach().clone()
        for name, each in named_parameters(model)
        if each.requires_grad
    }
    sync_buffers_(means.values())
    return means


def restore_gradients(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Put back what :func:`gradients_by_name` gave.

    Raises:
        ValueError: a name or shape that the model does not have.
    """
    parameters = dict(named_parameters(model))
    for name, gradient in gradients.items():
        if name not in parameters or parameters[name].shape != gradient.shape:
            raise ValueError(f"the checkpoint has a gradient of {name!r}, which the model has not")
        parameters[name].grad = gradient.to(parameters[name])
