"""What no operation takes: named before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun.ops import convert_, ema_update_, grad_norm, swap_, unscale_

from .support import Guarded

PAIRS: dict[str, Callable[[Any, Any], None]] = {
    "ema": lambda a, b: ema_update_(a, b, 0.5),
    "swap": swap_,
    "convert": convert_,
}


@pytest.fixture(params=[None, "reference", "cpu"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are the same whatever would do the work."""
    if request.param is None:
        monkeypatch.delenv("HOOKRUN_BACKEND")
    else:
        monkeypatch.setenv("HOOKRUN_BACKEND", request.param)


@pytest.mark.parametrize("op", PAIRS)
def test_lists_that_do_not_belong_together(op: str) -> None:
    a, b = Guarded([(3,), (4,)]), Guarded([(3,), (5,)])
    with pytest.raises(ValueError, match=r"2 tensors in \w+, but 1 in"):
        PAIRS[op](a.tensors, b.tensors[:1])
    with pytest.raises(ValueError, match=r"\[1\] has shape \(5,\), but its partner has \(4,\)"):
        PAIRS[op](a.tensors, b.tensors)
    a.check_unchanged()
    b.check_unchanged()


@pytest.mark.parametrize("op", PAIRS)
def test_shared_memory(op: str) -> None:
    store = torch.zeros(10)
    with pytest.raises(ValueError, match="share memory"):
        PAIRS[op]([store], [store])
    with pytest.raises(ValueError, match="share memory"):
        PAIRS[op]([store[:6]], [store[4:]])
    with pytest.raises(ValueError, match="share memory"):
        PAIRS[op]([store[:6], store[5:]], [torch.ones(6), torch.ones(5)])
    PAIRS[op]([store[:5]], [store[5:]])  # neighbours are fine
    double = torch.zeros(4, dtype=torch.float64)
    with pytest.raises(ValueError, match="share memory"):
        PAIRS[op]([double], [double])


@pytest.mark.parametrize("op", PAIRS)
def test_expanded_outputs(op: str) -> None:
    with pytest.raises(ValueError, match="expanded"):
        PAIRS[op]([torch.zeros(1).expand(4)], [torch.ones(4)])
    with pytest.raises(ValueError, match="expanded"):
        unscale_([torch.zeros(2, 1).expand(2, 4)], 0.5, torch.zeros(()))


@pytest.mark.parametrize("op", PAIRS)
def test_what_is_no_tensor(op: str) -> None:
    with pytest.raises(TypeError, match=r"\[1\] is a float, not a tensor"):
        PAIRS[op]([torch.zeros(1), 1.0], [torch.zeros(1), torch.zeros(())])
    with pytest.raises(TypeError, match="NoneType"):
        grad_norm([None])  # type: ignore[list-item]


def test_nothing_is_nothing() -> None:
    for op in PAIRS.values():
        op([], [])
    unscale_([], 0.5, torch.zeros(()))
