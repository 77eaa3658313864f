"""From reported values to Python's numbers and strings."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from hookrun.loggers.plain_values import plain_values


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (3, 3),
        (0.5, 0.5),
        (True, 1),
        ("text", "text"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([2.5]), 2.5),
        (np.bool_(True), 1),
        (torch.tensor(1.5), 1.5),
        (torch.tensor([2], dtype=torch.int64), 2.0),
        (torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True), 0.5),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (10**400, math.inf),
        (-(10**400), -math.inf),
        (2**70, float(2**70)),
        (math.inf, math.inf),
    ],
)
def test_numbers_and_strings(value: Any, plain: Any) -> None:
    values, others = plain_values({"name": value})
    assert (values, others) == ({"name": plain}, [])
    assert type(values["name"]) is type(plain)


@pytest.mark.parametrize(
    "value", [None, [1.0], {"a": 1}, 1j, np.array([1, 2]), torch.zeros(2), torch.tensor(1j)]
)
def test_what_is_neither_is_named(value: Any) -> None:
    assert plain_values({"good": 1.0, "bad": value}) == ({"good": 1.0}, ["bad"])


def test_tensors_are_read_in_one_transfer(host_reads: list[str]) -> None:
    tags = {str(index): torch.tensor(float(index)) for index in range(5)}
    values, _ = plain_values(tags)
    assert values == {str(index): float(index) for index in range(5)}
    assert host_reads == ["tolist"]
