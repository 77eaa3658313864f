"""convert_ against torch's conversion, bit by bit."""

from __future__ import annotations

import pytest
import torch

from hookrun.ops import convert_

from .support import FLOATS, SHAPES, Guarded, assert_same_bits

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("to", FLOATS)
@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("offset", [0, 1])
def test_it_is_torchs(to: torch.dtype, source: torch.dtype, offset: int) -> None:
    dst, src = Guarded(SHAPES, to, offset, seed=1), Guarded(SHAPES, source, seed=2)
    convert_(dst.tensors, src.tensors)
    dst.check()
    src.check_unchanged()
    assert_same_bits(dst.tensors, [t.to(to) for t in src.tensors])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_widened_exactly(dtype: torch.dtype) -> None:
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = torch.empty(halves.shape)
    convert_([wide], [halves])
    numbers = ~halves.isnan()
    assert_same_bits([wide[numbers]], [halves[numbers].float()])
    assert wide[~numbers].isnan().all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", HALVES)
def test_ties_denormals_and_overflow_round_as_torchs_do(dtype: torch.dtype) -> None:
    # Every half and the points between two of them, with their neighbours in fp32.
    halves = torch.arange(0, 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    halves = halves[halves.isfinite()]
    points = torch.cat([halves, (halves[1:] + halves[:-1]) / 2]).view(torch.int32)
    bits = torch.cat([points - 1, points, points + 1])
    wide = torch.cat([bits, bits ^ -(2**31)]).view(torch.float32)
    wide = torch.cat([wide, torch.tensor([3e38, -3e38, torch.inf, -torch.inf, 65519.0, 65520.0])])
    wide = wide[~wide.isnan()]
    narrow = torch.empty(wide.shape, dtype=dtype)
    convert_([narrow], [wide])
    assert_same_bits([narrow], [wide.to(dtype)])
    convert_([narrow], [torch.full(wide.shape, torch.nan)])
    assert narrow.isnan().all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("source", [torch.float32, torch.float16], ids=["narrowed", "copied"])
@pytest.mark.parametrize("offset", [0, 1, 7])
def test_large_outputs_that_go_past_the_caches(source: torch.dtype, offset: int) -> None:
    shapes = [(1_200_003,), (17,), (1_200_001,)]
    dst, src = Guarded(shapes, torch.float16, offset, seed=1), Guarded(shapes, source, seed=2)
    convert_(dst.tensors, src.tensors)
    dst.check()
    src.check_unchanged()
    assert_same_bits(dst.tensors, [t.half() for t in src.tensors])


@pytest.mark.usefixtures("reference_allowed")
def test_other_dtypes() -> None:
    dst = torch.zeros(3, dtype=torch.int64)
    convert_([dst], [torch.arange(3)])
    wide = torch.zeros(3, dtype=torch.float64)
    convert_([wide], [dst])
    assert wide.tolist() == [0, 1, 2]
