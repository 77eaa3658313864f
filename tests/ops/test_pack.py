"""pack_, unpack_ and sync_buffers_."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hookrun.ops import pack_, sync_buffers_, unpack_

from .support import FLOATS, SHAPES, Guarded, assert_same_bits


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
def test_there_and_back(dtype: torch.dtype) -> None:
    tensors, back = Guarded(SHAPES, dtype, 1, seed=1), Guarded(SHAPES, dtype, 0, seed=2)
    flat = torch.empty(sum(t.numel() for t in tensors.tensors), dtype=dtype)
    pack_(flat, tensors.tensors)
    assert_same_bits([flat], [torch.cat([t.reshape(-1) for t in tensors.tensors])])
    unpack_(back.tensors, flat)
    back.check()
    assert_same_bits(back.tensors, tensors.tensors)


@pytest.mark.usefixtures("reference_allowed")
def test_dtypes_and_layouts_change_on_the_way() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    flat, back = torch.empty(6), torch.empty(3, 2).t()
    pack_(flat, [matrix.half().t()])
    assert flat.tolist() == [0, 3, 1, 4, 2, 5]
    pack_(flat, [matrix])
    unpack_([back], flat)
    assert torch.equal(back, matrix)


@pytest.mark.parametrize("flat", [torch.empty(4), torch.empty(3, 1), torch.empty(6)[::2]])
def test_a_flat_tensor_that_does_not_fit(flat: torch.Tensor) -> None:
    tensors = Guarded([(2,), (1,)])
    with pytest.raises(ValueError, match="flat"):
        unpack_(tensors.tensors, flat)
    with pytest.raises(ValueError, match="flat"):
        pack_(flat, tensors.tensors)
    tensors.check_unchanged()


def test_errors_name_the_operation() -> None:
    flat = torch.ones(3)
    with pytest.raises(ValueError, match=r"^pack_: .* share memory"):
        pack_(flat, [flat])
    with pytest.raises(ValueError, match=r"^unpack_: .* expanded"):
        unpack_([torch.ones(1).expand(3)], flat)


@pytest.mark.parametrize(("flat", "tensors"), [(torch.ones(3), [3]), (3, [torch.ones(3)])])
def test_what_is_no_tensor(flat: Any, tensors: Any) -> None:
    with pytest.raises(TypeError, match=r"^pack_ takes tensors, not int"):
        pack_(flat, tensors)
    with pytest.raises(TypeError, match=r"^unpack_ takes tensors, not int"):
        unpack_(tensors, flat)


def test_nothing_packs_into_nothing() -> None:
    pack_(torch.empty(0), [])
    unpack_([], torch.empty(0))


def test_buffers_of_one_process_stay() -> None:
    buffer = torch.ones(3)
    sync_buffers_([buffer])
    assert torch.equal(buffer, torch.ones(3))
