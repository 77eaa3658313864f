"""Finds a train_step that trains by itself: an optimizer hook would train a second time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hookrun.core.masters import model_parameter
from hookrun.distributed import get_dist_info

from .masters import parameters_of

_REMEDY = (
    "A train_step that trains by itself, calling backward() and step(), needs no optimizer hook: "
    "leave it out (optimizer_config=None)."
)


class FirstIteration:
    """Watches the optimizers in the first iteration, up to the optimizer hook's own work.

    Args:
        optimizers: those that the hook steps.
    """

    def __init__(self, optimizers: Iterable[Any]) -> None:
        self._stepped = False
        self._optimizers = [each for each in optimizers if isinstance(each, Optimizer)]
        self._handles = [each.register_step_post_hook(self._note) for each in self._optimizers]
        self._gradients = dict(self._find_gradients())

    def end(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._gradients = [], {}

    def check(self, hook: str, adds_up: bool) -> None:
        """Stop watching, and raise where something else has trained already.

        Args:
            hook: its name, for the error.
            adds_up: whether the hook adds its gradients to those that are there.

        Raises:
            ValueError: an optimizer was stepped; with ``adds_up``, one has gradients that this
                iteration has written.
        """
        left = adds_up and any(
            bool(gradient.any())
            for key, (gradient, version) in self._find_gradients()
            if self._gradients.get(key, (None, 0))[0] is not gradient
            or self._gradients[key][1] != version
        )
        self.end()
        if self._stepped:
            raise ValueError(
                f"{hook}: train_step, or a hook, has stepped the optimizer in this iteration, and "
                f"{hook} would step it a second time. {_REMEDY}"
            )
        if left:
            raise ValueError(
                f"{hook}: train_step, or a hook, has left gradients in the parameters, to which "
                f"those of the loss would be added. {_REMEDY} One that needs backward() for "
                "something else must clear what it leaves, or take torch.autograd.grad()."
            )

    def _note(self, *_: Any) -> None:
        self._stepped = True

    def _find_gradients(self) -> Iterator[tuple[int, tuple[Tensor, int]]]:
        """By the ``id`` of the parameter, its gradient and how often that was written in place."""
        for optimizer in self._optimizers:
            for parameter in map(model_parameter, parameters_of(optimizer)):
                if parameter.grad is not None:
                    yield id(parameter), (parameter.grad, parameter.grad._version)


def warn_if_nothing_steps(
    hook: str, model: Any, optimizers: Sequence[Any], logger: logging.Logger
) -> None:
    """Warn where no parameter of the optimizers has a gradient, so that a step does nothing.

    Args:
        hook: whose step it is, after its backward pass.
        model: nothing is said of optimizers that have none of its parameters: the runner warns of
            these when the run starts.
        optimizers: those that it steps.
        logger: of the run.
    """
    if get_dist_info()[0] != 0 or not all(isinstance(each, Optimizer) for each in optimizers):
        return
    own = {id(each) for each in model.parameters()} if isinstance(model, nn.Module) else set()
    entries = [entry for optimizer in optimizers for entry in parameters_of(optimizer)]
    parameters = [(entry, model_parameter(entry)) for entry in entries]
    if any(id(parameter) in own for _, parameter in parameters) and all(
        entry.grad is None and parameter.grad is None for entry, parameter in parameters
    ):
        logger.warning(
            "%s: no parameter of the optimizer has a gradient at the first step, so that nothing "
            "is trained: they are frozen, or the loss does not depend on them. Give the optimizer "
            "the parameters that are to be trained",
            hook,
        )


def explain_second_backward(hook: str, error: RuntimeError) -> str | None:
    """What to say where ``backward()`` failed because it was called before; None for other errors.

    Args:
        hook: the name of the hook whose backward pass has failed.
        error: what torch has raised.
    """
    if "second time" not in str(error):
        return None
    return (
        f"{hook}: backward() has been called already on the loss, or on what it was computed from. "
        f"{_REMEDY} A model that uses tensors of an earlier iteration must detach() them."
    )
