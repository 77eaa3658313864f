"""Tensors whose memory is freed or does not hold their values; the versions autograd sees."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hookrun.ops import (
    FusedStep,
    clip_grad_norm_,
    convert_,
    ema_update_,
    grad_norm,
    pack_,
    swap_,
    unpack_,
    unscale_,
)

NUMBERS = [1.0, -2.0, 3.0, 0.5]

# The kernels leave most of these to torch.
pytestmark = pytest.mark.usefixtures("reference_allowed")


def negated(values: list[float]) -> Tensor:
    """A tensor of these values whose memory has them with the other sign."""
    return torch._neg_view(-torch.tensor(values))


def conjugated(values: list[complex]) -> Tensor:
    return torch.tensor(values).conj_physical().conj()


def test_negated_views_are_read() -> None:
    assert conjugated([1 + 2j]).imag.is_neg()  # where they come from
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        outputs = [torch.zeros(4, dtype=dtype), torch.zeros(4, dtype=dtype)]
        ema_update_(outputs[:1], [negated(NUMBERS)], 1.0)
        convert_(outputs[1:], [negated(NUMBERS)])
        assert [each.tolist() for each in outputs] == [NUMBERS, NUMBERS]
    flat = torch.zeros(4)
    pack_(flat, [negated(NUMBERS)])
    assert flat.tolist() == NUMBERS


def test_negated_views_are_written() -> None:
    view, other = negated(NUMBERS), torch.ones(4)
    swap_([view], [other])
    assert (view.tolist(), other.tolist()) == ([1.0] * 4, NUMBERS)
    unpack_([view], torch.tensor(NUMBERS))
    assert view.tolist() == NUMBERS
    unscale_([view], 2.0, torch.zeros(()))
    assert view.tolist() == [2 * number for number in NUMBERS]


def test_conjugated_views() -> None:
    view, other = conjugated([1 + 2j, 3 - 1j]), torch.tensor([5 + 6j, 7 + 8j])
    swap_([view], [other])
    assert view.tolist() == [5 + 6j, 7 + 8j]
    assert other.tolist() == [1 + 2j, 3 - 1j]
    convert_([view], [other])
    assert view.tolist() == [1 + 2j, 3 - 1j]


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_with_a_negated_gradient(optimizer_type: type) -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    ours.grad, theirs.grad = negated(NUMBERS), torch.tensor(NUMBERS)
    FusedStep(optimizer_type([ours], lr=0.1)).step()
    optimizer_type([theirs], lr=0.1).step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("offset", [0, 1, 5000])
def test_memory_that_was_freed(offset: int) -> None:
    """Also of a part of it, whose address is not null."""
    freed, parameter = (
        torch.ones(offset + 6)[offset : offset + 4],
        torch.nn.Parameter(torch.ones(4)),
    )
    parameter.grad = freed
    freed.untyped_storage().resize_(0)
    runs: list[Callable[[], object]] = [
        lambda: grad_norm([freed]),
        lambda: ema_update_([torch.ones(4)], [freed], 0.5),
        lambda: swap_([torch.ones(4)], [freed]),
        lambda: convert_([freed], [torch.ones(4)]),
        lambda: unscale_([freed], 0.5, torch.zeros(1)),
        lambda: pack_(torch.ones(4), [freed]),
        lambda: clip_grad_norm_([parameter], 1.0),
        lambda: FusedStep(torch.optim.SGD([parameter], lr=0.1)).step(),
    ]
    for run in runs:
        with pytest.raises(ValueError, match="has no memory: its storage was resized to 0"):
            run()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_tensors_that_never_had_memory() -> None:
    zeros, average = torch._efficientzerotensor(4), torch.ones(4)
    assert float(grad_norm([zeros])) == 0.0
    ema_update_([average], [zeros], 0.5)
    assert average.tolist() == [0.5] * 4

    def halve(tensor: Tensor) -> Tensor:
        unscale_([tensor], 0.5, torch.zeros(1))
        return tensor

    assert torch.func.functionalize(halve)(torch.ones(3)).tolist() == [0.5] * 3
    with FakeTensorMode():
        swap_([torch.ones(4)], [torch.zeros(4)])


@pytest.mark.parametrize(
    "write",
    [
        lambda a, b: ema_update_([a], [b], 0.5),
        lambda a, b: swap_([a], [b]),
        lambda a, b: convert_([a], [b]),
        lambda a, b: unpack_([a], b),
        lambda a, b: unscale_([a], 0.5, torch.zeros(())),
    ],
)
def test_autograd_notices_what_is_written(write: Callable[[Tensor, Tensor], None]) -> None:
    weight, x = torch.full((4,), 2.0), torch.ones(4, requires_grad=True)
    loss = (weight * x).sum()
    write(weight, torch.zeros(4))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_autograd_notices_clipped_gradients_and_averages_of_a_step() -> None:
    param, average = torch.nn.Parameter(torch.ones(4)), torch.full((4,), 2.0)
    param.grad = torch.ones(4)
    x = torch.ones(4, requires_grad=True)
    losses = [(param.grad * x).sum(), (average * x).sum()]
    clip_grad_norm_([param], 0.5)
    optimizer = torch.optim.SGD([param], lr=0.1)
    FusedStep(optimizer, ema=[average], ema_momentum=0.5).step()
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
