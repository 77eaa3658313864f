"""Seeding the generators of a process."""

from __future__ import annotations

import os
import random
from numbers import Integral

import numpy as np
import torch

from .environment import get_dist_info


def set_random_seed(seed: int, deterministic: bool = False, use_rank_shift: bool = False) -> None:
    """Seed the generators of Python, NumPy and torch, those of all GPUs too.

    ``PYTHONHASHSEED`` is set for processes started later.

    Args:
        seed: from 0 to 2**32 - 1.
        deterministic: whether cuDNN takes deterministic algorithms, and does not try out which one
            is fastest.
        use_rank_shift: whether to add the rank, so that ranks draw different numbers.

    Raises:
        TypeError: the seed is no integer.
        ValueError: it is out of range.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"a seed is an int, not {seed!r}")
    seed = int(seed) + (get_dist_info()[0] if use_rank_shift else 0)
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed is from 0 to {2**32 - 1}, not {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if deterministic:
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
