"""set_random_seed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hookrun import set_random_seed


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    backend = torch.backends.cudnn
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    flags = (backend.deterministic, backend.benchmark)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    backend.deterministic, backend.benchmark = flags


def drawn() -> tuple[Any, ...]:
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_all_generators_are_seeded() -> None:
    set_random_seed(7)
    first = drawn()
    assert drawn() != first
    set_random_seed(7)
    assert drawn() == first
    assert os.environ["PYTHONHASHSEED"] == "7"


def test_deterministic() -> None:
    torch.backends.cudnn.benchmark = True
    set_random_seed(np.int64(7), deterministic=True)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), (1.0, TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_wrong_seed(seed: Any, error: type[Exception]) -> None:
    before = torch.get_rng_state()
    with pytest.raises(error, match="a seed is"):
        set_random_seed(seed)
    assert torch.equal(torch.get_rng_state(), before)
