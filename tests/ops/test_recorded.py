"""Results that autograd has recorded are refused as outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, ones

from hookrun import ops

Call = Callable[[Tensor], Any]

CALLS: dict[str, Call] = {
    "ema_update_": lambda x: ops.ema_update_([x], [ones(4)], 0.5),
    "swap_, the first": lambda x: ops.swap_([x], [ones(4)]),
    "swap_, the second": lambda x: ops.swap_([ones(4)], [x]),
    "convert_": lambda x: ops.convert_([x], [ones(4)]),
    "convert_ to half": lambda x: ops.convert_([x], [ones(4).half()]),
    "pack_": lambda x: ops.pack_(x, [ones(4)]),
    "unpack_": lambda x: ops.unpack_([x], ones(4)),
    "one of several": lambda x: ops.ema_update_([ones(4), x], [ones(4)] * 2, 0.5),
}


def parameter() -> Tensor:
    return torch.arange(4.0).requires_grad_()


RECORDED: dict[str, Callable[[Tensor], Tensor]] = {
    "a result": lambda p: p * 2,
    "a view of a result": lambda p: (p * 2).view(2, 2).view(4),
    "a view of a parameter": lambda p: p[:],
}


@pytest.mark.parametrize("kind", RECORDED)
@pytest.mark.parametrize("name", CALLS)
def test_a_result_is_refused(name: str, kind: str) -> None:
    result = RECORDED[kind](parameter())
    before = result.detach().clone()
    with pytest.raises(ValueError, match=r"has recorded.*detach"):
        CALLS[name](result)
    assert torch.equal(result.detach(), before)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "make",
    [
        parameter,
        lambda: (parameter() * 2).detach(),
        lambda: parameter().data,
        lambda: ones(4),
    ],
)
def test_parameters_and_what_is_detached_are_written(name: str, make: Callable[[], Tensor]) -> None:
    CALLS[name](make())


@pytest.mark.parametrize("name", CALLS)
def test_without_recording_all_may_be_written(name: str) -> None:
    with torch.no_grad():
        CALLS[name](parameter() * 2)
    result = parameter() * 2
    with torch.no_grad():
        CALLS[name](result)


def test_gradients_of_a_written_parameter_are_refused_by_autograd_itself() -> None:
    x = parameter()
    y = (x * x).sum()
    ops.ema_update_([x], [ones(4)], 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
