"""Which parameter of a model an optimizer's entry stands for."""

from __future__ import annotations

from torch import Tensor

STANDS_FOR = "_hookrun_stands_for"
"""The attribute of an fp32 master that holds the parameter of the model."""


def model_parameter(entry: Tensor) -> Tensor:
    """The tensor that the model computes with, for an entry of ``param_groups``."""
    found: Tensor = getattr(entry, STANDS_FOR, entry)
    return found
