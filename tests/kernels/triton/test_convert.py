"""convert_, pack_ and unpack_ against torch's conversion, bit by bit."""

from __future__ import annotations

import pytest
import torch

from hookrun.kernels import triton as kernels
from tests.ops.support import assert_same_bits

from .support import DEVICE, FLOATS, SHAPES, guarded


@pytest.mark.parametrize("to", FLOATS)
@pytest.mark.parametrize("offset", [0, 1])
def test_it_is_torchs(to: torch.dtype, offset: int) -> None:
    dst = guarded(SHAPES, to, offset, seed=1)
    src = guarded(SHAPES, (FLOATS * 5)[: len(SHAPES)], seed=2)
    kernels.convert_(dst.tensors, src.tensors)
    dst.check()
    src.check_unchanged()
    assert_same_bits(dst.tensors, [t.to(to) for t in src.tensors])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ties_denormals_and_overflow_round_as_torchs_do(dtype: torch.dtype) -> None:
    # Every 64th half and the points between it and the next, with their neighbours in fp32.
    halves = torch.arange(0, 2**15, 64, dtype=torch.int32).to(torch.int16)
    both = torch.stack([halves.view(dtype).float(), (halves + 1).view(dtype).float()])
    both = both[:, both.isfinite().all(0)]
    points = torch.cat([both[0], both.mean(0)]).view(torch.int32)
    bits = torch.cat([points - 1, points, points + 1])
    wide = torch.cat([bits.view(torch.float32), torch.tensor([65504.0, 65520.0, 3.4e38])])
    wide = torch.cat([wide[~wide.isnan()], torch.tensor([float("inf")])]).to(DEVICE)
    wide = torch.cat([wide, -wide])
    narrow = torch.empty_like(wide, dtype=dtype)
    kernels.convert_([narrow], [wide])
    assert_same_bits([narrow], [wide.to(dtype)])
    kernels.convert_([narrow[:1]], [torch.tensor([float("nan")], device=DEVICE)])
    assert narrow[0].isnan()


def test_integers_are_copied() -> None:
    counters = [torch.arange(20, device=DEVICE), torch.tensor(3, device=DEVICE)]
    copies = [torch.zeros_like(t) for t in counters]
    kernels.convert_(copies, counters)
    assert_same_bits(copies, counters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pack_and_unpack(dtype: torch.dtype) -> None:
    tensors = guarded(SHAPES, torch.float32, seed=1)
    (flat,) = guarded([(sum(t.numel() for t in tensors.tensors),)], dtype).tensors
    kernels.pack_(flat, tensors.tensors)
    expected = torch.cat([t.reshape(-1) for t in tensors.tensors]).to(dtype)
    assert_same_bits([flat], [expected])
    kernels.unpack_(tensors.tensors, flat)
    tensors.check()
    assert_same_bits([torch.cat([t.reshape(-1) for t in tensors.tensors]).to(dtype)], [expected])
