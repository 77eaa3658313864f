"""Chunks cover every element once, whatever the sizes and addresses are."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun.kernels.triton.step_table import StepLists, StepTable
from hookrun.kernels.triton.table import (
    BEGIN,
    CHUNK,
    COUNT,
    FORM,
    NARROW,
    NARROW_GRAD,
    ROW,
    UNIT,
    WIDE,
    Ints,
    cut,
)

from .support import DEVICE

WIDTHS = {torch.float16: 2, torch.float32: 4, torch.float64: 8}


def chunks_of(
    sizes: list[int],
    places: list[list[int]],
    dtypes: list[list[torch.dtype]],
    grads: int | None = None,
) -> Ints:
    itemsizes = np.array([[WIDTHS[d] for d in row] for row in dtypes], dtype=np.int64)
    addresses = np.array(places, dtype=np.int64) * itemsizes
    kinds = [tuple(row) for row in dtypes]
    groups = [(kind,) for kind in dict.fromkeys(kinds)]
    chunks, launches = cut(
        np.array(sizes, dtype=np.int64), addresses, itemsizes, kinds, groups, grads=grads
    )
    assert sum(launch.chunks for launch in launches) == len(chunks)
    for launch in launches:
        part = chunks[launch.first : launch.first + launch.chunks]
        assert {kinds[row] for row in part[:, ROW]} == set(launch.kinds)
    row, begin, count = chunks[:, ROW], chunks[:, BEGIN], chunks[:, COUNT]
    assert ((count > 0) & (count <= CHUNK)).all()
    starts = addresses[row] + begin[:, None] * itemsizes[row]
    odd, misaligned = count % UNIT != 0, starts % UNIT != 0
    assert not ((odd | misaligned.any(axis=1)) & (chunks[:, FORM] == WIDE.value)).any()
    but_grads = misaligned if grads is None else np.delete(misaligned, grads, axis=1)
    assert not ((odd | but_grads.any(axis=1)) & (chunks[:, FORM] == NARROW_GRAD.value)).any()
    assert grads is not None or not (chunks[:, FORM] == NARROW_GRAD.value).any()
    return chunks


def assert_cover(chunks: Ints, sizes: list[int]) -> None:
    for row, size in enumerate(sizes):
        spans = sorted((c[BEGIN], c[BEGIN] + c[COUNT]) for c in chunks if c[ROW] == row)
        ends = [0, *(end for _, end in spans)]
        assert ends == [*(begin for begin, _ in spans), size]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3 * CHUNK),
            st.lists(st.integers(1, 40), min_size=2, max_size=2),
            st.lists(st.sampled_from(list(WIDTHS)), min_size=2, max_size=2),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([None, 1]),
)
def test_every_element_once(
    rows: list[tuple[int, list[int], list[torch.dtype]]], grads: int | None
) -> None:
    sizes, places, dtypes = map(list, zip(*rows, strict=True))
    assert_cover(chunks_of(sizes, places, dtypes, grads), sizes)


def test_a_tensor_that_misses_alignment_is_wide_behind_its_head() -> None:
    chunks = chunks_of([20_000], [[33, 1]], [[torch.float32, torch.float16]])
    wide = chunks[chunks[:, FORM] == WIDE.value]
    assert wide[0, BEGIN] == 7  # address 40 * 4 and 8 * 2: both multiples of 16
    assert wide[:, COUNT].sum() == 19_984  # what is a multiple of 16 of the rest
    never = chunks_of([20_000], [[1, 2]], [[torch.float32, torch.float32]])
    assert (never[:, FORM] == NARROW.value).all()


def test_only_misaligned_gradients_are_narrow() -> None:
    dtypes = [[torch.float32] * 3] * 4
    places = [[4, 4, 8], [4, 8, 1], [5, 5, 5], [4, 1, 8]]  # all, all but gradients, all, not
    chunks = chunks_of([4096] * 4, places, dtypes, grads=2)
    for row, form, count in ((0, WIDE, 4096), (1, NARROW_GRAD, 4096), (2, WIDE, 4080)):
        part = chunks[(chunks[:, ROW] == row) & (chunks[:, FORM] == form.value)]
        assert part[:, COUNT].sum() == count
    assert (chunks[chunks[:, ROW] == 3][:, FORM] == NARROW.value).all()


def test_the_second_pass_begins_with_what_the_first_read_last() -> None:
    grads = [torch.zeros(3 * 4 * CHUNK, device=DEVICE) for _ in range(2)]
    others = [torch.zeros_like(g) for g in grads]
    none = [None, None]
    lists = StepLists(others, none, none, none, none, none, grads)
    table = StepTable(lists, [0, 0])
    chunks, norm_chunks = table.chunks.cpu().numpy(), table.norm_chunks.cpu().numpy()
    ends = norm_chunks[:, [ROW, BEGIN]] + norm_chunks[:, [FORM, COUNT]]
    assert (norm_chunks[:, FORM] == WIDE.value).all()
    assert ends[-1].tolist() == [1, 12 * CHUNK]
    assert chunks[0, [ROW, BEGIN]].tolist() == [1, 11 * CHUNK]
    assert chunks[-1, [ROW, BEGIN]].tolist() == [0, 0]


def test_offsets_beyond_what_32_bits_hold() -> None:
    size = 3 * 2**31 + 5
    chunks = chunks_of([17, size], [[0], [0]], [[torch.float16], [torch.float16]])
    assert chunks[:, BEGIN].max() == size - 5
    assert chunks[chunks[:, ROW] == 1][:, COUNT].sum() == size
