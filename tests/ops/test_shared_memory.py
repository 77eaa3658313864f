"""Which tensors share memory: found exactly, at a cost that grows with elements, not with pairs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hookrun.ops import ema_update_
from hookrun.ops.checks import Column, check_lists


def bytes_of(tensor: Tensor) -> list[int]:
    """The address of every byte of every element."""
    offsets = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        offsets = offsets.unsqueeze(-1) + torch.arange(size) * stride
    size = tensor.element_size()
    begin = tensor.data_ptr()
    return [begin + size * at + i for at in offsets.flatten().tolist() for i in range(size)]


def conflict(written: Sequence[Tensor], read: Sequence[Tensor]) -> bool:
    seen_written: set[int] = set()
    seen: set[int] = set()
    for tensor, writes in [*((each, True) for each in written), *((each, False) for each in read)]:
        own = bytes_of(tensor)
        if writes and len(set(own)) < len(own):
            return True
        if (seen if writes else seen_written) & set(own):
            return True
        seen.update(own)
        seen_written.update(own if writes else [])
    return False


@st.composite
def views(draw: st.DrawFn, store: Tensor) -> Tensor:
    """A view of a store of bytes, as any dtype, in up to two dimensions."""
    dtype = draw(st.sampled_from([torch.float16, torch.float32, torch.float64]))
    data = store[draw(st.sampled_from([0, 8])) :].view(dtype)
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    strides = draw(st.lists(st.integers(0, 6), min_size=len(shape), max_size=len(shape)))
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    offset = draw(st.integers(0, data.numel() - 1 - reach))
    return data.as_strided(shape, strides, data.storage_offset() + offset)


@settings(max_examples=400)
@given(data=st.data())
def test_exactly_what_shares_memory_is_refused(data: st.DataObject) -> None:
    store = torch.zeros(400, dtype=torch.uint8)
    written = data.draw(st.lists(views(store), min_size=1, max_size=3))
    read = data.draw(st.lists(views(store), max_size=3))
    # A row for each, for the shapes of one row must be equal.
    lists = [
        Column("out", [*written, *(None for _ in read)], written=True, optional=True),
        Column("in", [*(None for _ in written), *read], optional=True),
    ]
    if conflict(written, read):
        with pytest.raises(ValueError, match=r"share memory"):
            check_lists("op", *lists)
    else:
        check_lists("op", *lists)


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("count", [2, 100, 400])
def test_columns_of_a_matrix_are_marked_once_each(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **kw: made.append(size) or zeros(*size, **kw))
    matrix = torch.ones(50, count)
    params = [torch.full((50,), 3.0) for _ in range(count)]
    made.clear()
    ema_update_([matrix[:, i] for i in range(count)], params, 0.5)
    assert matrix.eq(2.0).all()
    assert len(made) == 1  # one set of marks for all of them


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("place", [0, 57, 99])
def test_the_two_that_share_memory_are_named(place: int) -> None:
    matrix = torch.zeros(20, 101)
    ema = [matrix[:, i] for i in range(100)]
    ema.append(matrix[:, place])
    with pytest.raises(ValueError, match=rf"ema\[100\] and ema\[{place}\]|ema\[{place}\] and"):
        ema_update_(ema, [torch.ones(20) for _ in ema], 0.5)
    assert not matrix.any()
