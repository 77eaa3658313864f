"""Values of parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD

from hookrun import format_param

OPTIMIZER = SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], lr=0.1)


@pytest.mark.parametrize(
    ("param", "expected"),
    [(0.5, [0.5, 0.5]), ([1, 2], [1, 2]), ((1, 2), (1, 2)), ({"net": [3, 4]}, [3, 4])],
)
def test_format_param(param: Any, expected: Any) -> None:
    assert format_param("net", OPTIMIZER, param) == expected


def test_as_many_values_as_groups() -> None:
    with pytest.raises(ValueError, match="max_lr needs 2 values, one per parameter group"):
        format_param("max_lr", OPTIMIZER, [1.0])


def test_a_name_that_is_missing() -> None:
    with pytest.raises(KeyError, match=r"no value for the optimizer 'nets'. Did you mean 'net'"):
        format_param("nets", OPTIMIZER, {"net": 1.0})
