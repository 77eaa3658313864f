"""cast_tensor_type: what is cast inside nested containers, and what comes back as it was."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hookrun import cast_tensor_type
from tests.oracle import import_mmcv

Pair = namedtuple("Pair", "first second")

LEAVES = st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64]).map(
    lambda dtype: torch.tensor([1, 2], dtype=dtype)
) | st.sampled_from(["text", 3, None, 1.5])
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_it_casts_what_mmcv_casts() -> None:
    mmcv_cast = import_mmcv("mmcv.runner.fp16_utils").cast_tensor_type

    @given(NESTED)
    def check(value: Any) -> None:
        ours = cast_tensor_type(value, torch.float32, torch.float16)
        theirs = mmcv_cast(value, torch.float32, torch.float16)
        assert type(ours) is type(theirs)
        assert same(ours, theirs)

    check()


@given(NESTED)
def test_there_and_back_changes_dtypes_only(value: Any) -> None:
    down = cast_tensor_type(value, torch.float32, torch.float16)
    assert same(cast_tensor_type(down, torch.float32, torch.float16), down)
    up = cast_tensor_type(down, torch.float16, torch.float32)
    assert same(up, cast_tensor_type(value, torch.float16, torch.float32))


def test_only_tensors_of_the_source_dtype_are_cast() -> None:
    half, single, count = torch.ones(1).half(), torch.ones(1), torch.ones(1).long()
    cast = cast_tensor_type({"a": [half, single], "b": (count,)}, torch.float32, torch.float64)
    assert [each.dtype for each in cast["a"]] == [torch.float16, torch.float64]
    assert cast["a"][0] is half
    assert cast["b"][0] is count
    assert single.dtype == torch.float32


@pytest.mark.parametrize(
    "container",
    [
        Pair(torch.ones(1), "x"),
        deque([torch.ones(1)], maxlen=3),
        defaultdict(list, {"a": torch.ones(1)}),
        OrderedDict(a=[torch.ones(1)]),
        {torch.ones(1)},
    ],
)
def test_containers_are_rebuilt_as_their_own_type(container: Any) -> None:
    cast = cast_tensor_type(container, torch.float32, torch.float16)
    assert type(cast) is type(container)
    assert len(cast) == len(container)
    first = next(iter(cast.values() if isinstance(cast, dict) else cast))
    assert (first[0] if isinstance(first, list) else first).dtype == torch.float16
    if isinstance(container, deque):
        assert cast.maxlen == 3
    if isinstance(container, defaultdict):
        assert cast["new"] == []
        assert "new" not in container


class Settings(dict[str, Any]):
    """A dict that is not made from one, and keeps more."""

    def __init__(self, title: str, **items: Any) -> None:
        super().__init__(**items)
        self.title = title


def test_mappings_keep_what_they_have_besides_their_items() -> None:
    settings = Settings("batch", x=torch.ones(1), y=1)
    cast = cast_tensor_type(settings, torch.float32, torch.float16)
    assert type(cast) is Settings
    assert (cast.title, cast["x"].dtype, cast["y"]) == ("batch", torch.float16, 1)
    assert settings["x"].dtype == torch.float32


@pytest.mark.parametrize(
    "value", ["text", b"bytes", range(3), np.ones(2), nn.Linear(1, 1), [1, "x"], iter([1]), None]
)
def test_everything_else_comes_back_as_it_is(value: Any) -> None:
    assert cast_tensor_type(value, torch.float32, torch.float16) is value


def test_gradients_flow_through_casts() -> None:
    x = torch.ones(2, requires_grad=True)
    cast_tensor_type([x], torch.float32, torch.float16)[0].sum().backward()
    assert torch.equal(x.grad, torch.ones(2))


def test_dtypes_are_checked() -> None:
    with pytest.raises(TypeError, match=r"src_type must be a torch\.dtype, not 'half'"):
        cast_tensor_type([], "half", torch.float32)  # type: ignore[arg-type]
