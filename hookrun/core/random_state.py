"""A context in which random numbers may be drawn that a run must not notice."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def random_state_kept(cuda: bool = False) -> Iterator[None]:
    """A context after which the random states of Python, NumPy and torch are as before.

    Args:
        cuda: whether those of all CUDA devices are too, if CUDA is initialized; else of the CPU.
    """
    of_python, of_numpy = random.getstate(), np.random.get_state()
    has_cuda = cuda and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's
    devices = range(torch.cuda.device_count()) if has_cuda else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
