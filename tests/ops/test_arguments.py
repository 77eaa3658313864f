"""What no operation takes: named before anything is written, whatever would do the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hookrun.ops import (
    clip_grad_norm_,
    convert_,
    ema_update_,
    grad_norm,
    pack_,
    swap_,
    sync_buffers_,
    unpack_,
    unscale_,
)

from .inputs import BACKENDS
from .support import Guarded, assert_same_bits


def clip(grads: list[Tensor]) -> None:
    params = [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    clip_grad_norm_(params, 0.1)


PAIRS: dict[str, Callable[[Any, Any], None]] = {
    "ema": lambda a, b: ema_update_(a, b, 0.5),
    "swap": swap_,
    "convert": convert_,
}
# Operations that write one list.
SINGLE: dict[str, Callable[[Any], None]] = {
    "unscale": lambda a: unscale_(a, 0.5, torch.zeros(())),
    "clip": clip,
    "sync_buffers": sync_buffers_,
    "unpack": lambda a: unpack_(a, torch.ones(sum(t.numel() for t in a))),
    "swap": lambda a: swap_(a, [torch.ones(t.shape, dtype=t.dtype) for t in a]),
    "ema": lambda a: ema_update_(a, [torch.ones(t.shape, dtype=t.dtype) for t in a], 0.5),
}


@pytest.fixture(params=[None, *BACKENDS], autouse=True)
def _any_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is None:
        monkeypatch.delenv("HOOKRUN_BACKEND")
    else:
        monkeypatch.setenv("HOOKRUN_BACKEND", request.param)


def refuse(run: Callable[..., Any], error: type[Exception], match: str, *lists: list[Any]) -> None:
    """The call raises, and changes none of the tensors."""
    tensors = [t for each in lists for t in each if isinstance(t, Tensor)]
    before = [t.clone() for t in tensors]
    with pytest.raises(error, match=match):
        run(*lists)
    for tensor, kept in zip(tensors, before, strict=True):
        if tensor.device.type != "meta":
            assert_same_bits([tensor.to_dense()], [kept.to_dense()])


@pytest.mark.parametrize("op", PAIRS)
def test_lists_that_do_not_belong_together(op: str) -> None:
    a, b = Guarded([(3,), (4,)]), Guarded([(3,), (5,)])
    refuse(PAIRS[op], ValueError, r"2 tensors in \w+, but 1 in", a.tensors, b.tensors[:1])
    match = r"\[1\] has shape \(5,\), but its partner has \(4,\)"
    refuse(PAIRS[op], ValueError, match, a.tensors, b.tensors)
    a.check()
    b.check()


@pytest.mark.parametrize("op", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shared_memory(op: str, dtype: torch.dtype) -> None:
    store = torch.arange(24).to(dtype)
    matrix = store.view(4, 6)
    ones = torch.ones(6, dtype=dtype)
    for a, b in (
        ([store], [store]),
        ([store[:6]], [store[4:10]]),
        ([store[:6], store[5:11]], [ones, ones.clone()]),
        ([matrix[:, :3]], [matrix[:, 2:5]]),  # columns that overlap
        ([matrix.t()[::2]], [matrix.t()[:3]]),
        ([ones, store[::2]], [ones + 1, store[6:18]]),
    ):
        refuse(PAIRS[op], ValueError, "share memory", a, b)


@pytest.mark.usefixtures("reference_allowed")
@pytest.mark.parametrize("op", PAIRS)
def test_neighbours_do_not_share_memory(op: str) -> None:
    store = torch.zeros(24)
    matrix = store.view(4, 6)
    PAIRS[op]([store[:5]], [store[5:10]])
    PAIRS[op]([matrix[:, :3]], [matrix[:, 3:]])
    PAIRS[op]([store[::2]], [store[1::2]])
    woven = torch.zeros(8).as_strided((2, 3), (3, 2))  # 0 2 4 and 3 5 7
    PAIRS[op]([woven], [torch.ones(2, 3)])


@pytest.mark.parametrize("op", SINGLE)
def test_outputs_that_are_expanded_or_overlap_themselves(op: str) -> None:
    plain = torch.ones(3)
    refuse(SINGLE[op], ValueError, "expanded", [plain, torch.ones(1).expand(4)])
    refuse(SINGLE[op], ValueError, "expanded", [plain, torch.ones(2, 1).expand(2, 4)])
    refuse(SINGLE[op], ValueError, "overlaps itself", [plain, torch.ones(9).unfold(0, 3, 1)])
    refuse(SINGLE[op], ValueError, "share memory", [plain, plain[1:]])


@pytest.mark.parametrize("op", PAIRS)
def test_what_is_no_tensor(op: str) -> None:
    match = r"\[1\] is a float, not a tensor"
    refuse(PAIRS[op], TypeError, match, [torch.zeros(1), 1.0], [torch.zeros(1), torch.zeros(())])
    with pytest.raises(TypeError, match="NoneType"):
        grad_norm([None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="found_inf"):
        unscale_([], 1.0, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", SINGLE)
def test_sparse_tensors_where_they_cannot_be_written(op: str) -> None:
    sparse = torch.eye(3).to_sparse()
    if op == "unscale":  # takes this one
        sparse = torch.eye(3).to_sparse_csr()
    if op not in ("clip", "unpack"):
        refuse(SINGLE[op], TypeError, "layout torch.sparse", [torch.ones(2), sparse])


@pytest.mark.parametrize("op", PAIRS)
def test_sparse_and_complex_partners(op: str) -> None:
    plain, sparse = [torch.ones(2), torch.ones(3, 3)], [torch.ones(2), torch.eye(3).to_sparse()]
    refuse(PAIRS[op], TypeError, "layout torch.sparse_coo", plain, sparse)
    refuse(PAIRS[op], TypeError, "layout torch.sparse_coo", sparse, plain)
    real, imaginary = [torch.ones(2)], [torch.ones(2, dtype=torch.complex64)]
    refuse(PAIRS[op], TypeError, "complex", real, imaginary)
    if op == "swap":
        refuse(PAIRS[op], TypeError, "complex", imaginary, real)


@pytest.mark.parametrize("op", SINGLE)
def test_devices_without_memory(op: str) -> None:
    here = torch.ones(3)
    refuse(SINGLE[op], ValueError, "meta device", [here, torch.ones(3, device="meta")])
    with pytest.raises(ValueError, match="meta device"):
        grad_norm([torch.ones(3), torch.ones(3, device="meta")])


def test_integers_have_no_average_and_no_scale() -> None:
    tensors = [torch.ones(2), torch.ones(2, dtype=torch.int64)]
    for op in ("unscale", "ema"):
        refuse(SINGLE[op], TypeError, r"\[1\] is torch.int64", tensors)


def test_pack_into_what_overlaps() -> None:
    flat = torch.ones(6)
    with pytest.raises(ValueError, match="share memory"):
        pack_(flat, [flat[2:5], torch.ones(3)])
    with pytest.raises(ValueError, match="share memory"):
        unpack_([flat[2:5], torch.ones(3)], flat)
    assert flat.tolist() == [1.0] * 6


def test_numbers_out_of_their_range() -> None:
    tensors = [torch.ones(3)]
    for momentum in (-0.1, 1.1, float("nan")):
        refuse(lambda a, m=momentum: ema_update_(a, a, m), ValueError, "between 0 and 1", tensors)
    nan = float("nan")
    flag = torch.zeros(())
    for scale in (nan, torch.tensor(nan)):
        refuse(lambda a, s=scale: unscale_(a, s, flag), ValueError, "NaN", tensors)
    for scale in (torch.ones(2), torch.ones(0)):
        refuse(lambda a, s=scale: unscale_(a, s, flag), ValueError, "one element", tensors)
    for p in (0.0, -1.0, nan):
        with pytest.raises(ValueError, match="norm_type"):
            grad_norm(tensors, p)
        with pytest.raises(ValueError, match="norm_type"):
            clip_grad_norm_(tensors, 1.0, p)
    with pytest.raises(ValueError, match="clip_grad_norm_: max_norm is NaN"):
        clip_grad_norm_(tensors, nan)
    for bad in ("x", None, [1.0]):
        with pytest.raises(TypeError, match="clip_grad_norm_: max_norm must be a number, not "):
            clip_grad_norm_(tensors, bad)  # type: ignore[arg-type]


def test_nothing_is_nothing() -> None:
    for pair in PAIRS.values():
        pair([], [])
    for single in SINGLE.values():
        single([])
    pack_(torch.zeros(0), [])
