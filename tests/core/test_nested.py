"""map_tensors: which containers are gone through, and what they are rebuilt as."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from hookrun.core.nested import map_tensors

Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "value", [3, None, "text", b"bytes", range(2), np.ones(2), [1, {"a": ("x",)}], {}, iter([1])]
)
def test_what_has_no_tensors_comes_back_as_it_is(value: Any) -> None:
    assert map_tensors(lambda tensor: tensor + 1, value) is value


def test_tensors_at_any_depth_are_replaced_and_the_rest_shared() -> None:
    untouched = ["no", "tensors"]
    value = OrderedDict(
        a=[torch.zeros(1), {"b": (torch.ones(1),)}], c=Pair(torch.ones(1), untouched)
    )
    result = map_tensors(lambda tensor: float(tensor) + 1, value)
    assert result == OrderedDict(a=[1.0, {"b": (2.0,)}], c=Pair(2.0, untouched))
    assert type(result) is OrderedDict
    assert type(result["c"]) is Pair
    assert result["c"].second is untouched
    assert value["a"][0].item() == 0
