"""The model's parameter for an entry of an optimizer, which may be an fp32 master of it."""

from __future__ import annotations

from torch import Tensor

STANDS_FOR = "_hookrun_stands_for"
"""The attribute of an fp32 master that holds the model's parameter."""


def model_parameter(entry: Tensor) -> Tensor:
    """The model's parameter for an entry of ``param_groups``: the entry itself unless a master."""
    found: Tensor = getattr(entry, STANDS_FOR, entry)
    return found
