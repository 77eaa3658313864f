"""The state of the random number generators, as plain types and tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def rng_state(cuda: bool = True) -> dict[str, Any]:
    """The state of the generators of Python, NumPy and torch.

    Args:
        cuda: whether to add those of all CUDA devices, where CUDA is in use. The host does not wait
            for the devices.

    Returns:
        What :func:`set_rng_state` takes; a checkpoint can hold it.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "python": (version, torch.tensor(words, device="cpu"), gauss),
        "numpy": (
            str(kind),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
    }
    if cuda and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Take over what :func:`rng_state` gave; of CUDA devices, those that there are.

    Raises:
        ValueError: it is no such state.
    """
    try:
        version, words, gauss = state["python"]
        kind, keys, position, has_gauss, cached = state["numpy"]
        random.setstate((version, tuple(words.tolist()), gauss))
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state["torch"].cpu())
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"this is no state of random number generators: {error}") from error
    devices = state.get("cuda") or []
    if devices and torch.cuda.is_available():
        for index, each in enumerate(devices[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(each.cpu(), index)
