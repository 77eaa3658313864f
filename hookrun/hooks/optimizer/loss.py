"""The loss that ``train_step`` returned: whether it can be trained on, and what it depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hookrun.distributed import full_copies

from .._parameters import named_parameters


def check_loss(hook: str, outputs: Mapping[str, Any]) -> Tensor:
    """The loss, once it is known to be a scalar that depends on parameters; its value is not read.

    Args:
        hook: the name of the hook that needs it.
        outputs: what ``train_step`` returned.

    Raises:
        KeyError: there is no ``loss``.
        TypeError: it is None or no tensor.
        ValueError: it has more than one element, or does not depend on any parameter.
    """
    try:
        loss = outputs["loss"]
    except KeyError:
        raise KeyError(
            f"{hook} needs outputs['loss'], but train_step returned {sorted(map(str, outputs))}"
        ) from None
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"{hook} needs a tensor in outputs['loss'], but train_step returned {loss!r:.80}: "
            "return the loss itself, not loss.item()"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"{hook} needs one number in outputs['loss'], but train_step returned a tensor of "
            f"shape {tuple(loss.shape)}: return its mean() or sum()"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"{hook}: outputs['loss'] depends on no parameter: it was detached, or computed under "
            "torch.no_grad(), or every parameter is frozen. A train_step that steps the optimizers "
            "itself needs no optimizer hook (optimizer_config=None)."
        )
    return loss


def parameters_without_loss(loss: Tensor, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Trainable parameters that the loss does not depend on, with their names."""
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
    copies = full_copies(model)
    reached |= {id(copies[key]) for key in reached & copies.keys()}
    for name, parameter in named_parameters(model):
        if parameter.requires_grad and id(parameter) not in reached:
            yield name, parameter
