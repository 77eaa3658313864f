"""Random numbers go on where their state was taken."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hookrun.data import rng_state, set_rng_state


def draw() -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.random(),
        np.random.standard_normal(),
        torch.rand(3).tolist(),
    ]


@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_state_survives_a_file(tmp_path: Path, drawn: int) -> None:
    for _ in range(drawn):
        draw()  # an odd number of normal numbers leaves one waiting
    torch.save(rng_state(), tmp_path / "rng.pth")
    expected = draw()
    draw()
    set_rng_state(torch.load(tmp_path / "rng.pth", weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("change", [{"python": 3}, {"numpy": ()}, {"torch": torch.zeros(2)}])
def test_what_is_no_state(change: dict[str, Any]) -> None:
    before = rng_state()
    with pytest.raises(ValueError, match="no state of random number generators"):
        set_rng_state({**before, **change})
    set_rng_state(before)


@pytest.mark.gpu
def test_every_cuda_device_goes_on() -> None:
    devices = range(torch.cuda.device_count())
    for each in devices:
        torch.rand(1, device=each)
    state = rng_state()
    assert len(state["cuda"]) == len(devices)
    expected = [torch.rand(3, device=each).tolist() for each in devices]
    set_rng_state(state)
    assert [torch.rand(3, device=each).tolist() for each in devices] == expected
