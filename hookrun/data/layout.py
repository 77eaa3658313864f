"""Checks of what a checkpoint holds of generators and loaders: types, ranges and keys."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hookrun.core.schema import (
    Check,
    WrongValue,
    anything,
    boolean,
    count,
    items,
    mapping,
    optional,
    record,
    refuse,
    text,
    whole,
)

from .order_values import decode
from .rng import set_source_state

_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def rng_state(value: Any, where: str) -> None:
    """Check a result of `hookrun.data.rng_state`."""
    _RNG(value, where)
    for index, each in enumerate(value.get("cuda") or []):
        if not isinstance(each, Tensor) or each.dtype != torch.uint8 or each.ndim != 1:
            raise refuse(f"{where}.cuda[{index}]", each, "the state of a CUDA generator")


def _python(value: Any, where: str) -> None:
    _try(random.Random(), value, where)


def _torch(value: Any, where: str) -> None:
    _try(torch.Generator(device="cpu"), value, where)


def _numpy(value: Any, where: str) -> None:
    """Check the state of NumPy's global generator, whose words are a tensor of integers."""
    if not isinstance(value, (list, tuple)) or len(value) != 5 or not isinstance(value[1], Tensor):
        raise refuse(where, value, "the state of a generator of NumPy")
    kind, words, position, has_gauss, cached = value
    try:
        words = words.cpu().numpy().astype(np.uint32)
        np.random.RandomState().set_state((kind, words, position, has_gauss, cached))
    except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as error:
        raise refuse(where, value, f"the state of a generator of NumPy: {error}") from error


_RNG = record(
    {"python": _python, "numpy": _numpy, "torch": _torch}, {"cuda": optional(items(anything))}
)


def _source(value: Any, where: str) -> None:
    """Check the state of a generator that a sampler or dataset holds, of whatever kind."""
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or value.numel() == _DEVICE_BYTES:  # of a CUDA generator
            return
        _torch(value, where)
    elif isinstance(value, (list, tuple)):
        _python(value, where)
    else:
        named = value.get("bit_generator") if isinstance(value, Mapping) else None
        if named not in _BIT_GENERATORS:
            if isinstance(named, str):  # a bit generator of another package
                return
            raise refuse(where, value, "the state of a generator of random numbers")
        legacy = isinstance(value, Mapping) and "has_gauss" in value
        generator = getattr(np.random, named)()
        _try(np.random.RandomState(generator) if legacy else generator, value, where)


_DEVICE_BYTES = 16


def _try(source: Any, value: Any, where: str) -> None:
    """Check a state by loading it into a new generator of its kind."""
    try:
        set_source_state(source, value)
    except (ValueError, OverflowError, IndexError) as error:
        raise refuse(where, value, f"the state of a {type(source).__name__}") from error


def _attribute(value: Any, where: str) -> None:
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == "permutation":
        order = value[1]
        if not isinstance(order, Tensor) or order.dtype != torch.int64 or order.ndim != 1:
            raise refuse(f"{where}[1]", order, "the order of items")
        return
    try:
        decode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise refuse(where, value, "the value of an attribute") from error


_ORDER = record(
    {},
    {
        "sources": mapping(text, optional(_source)),
        "attributes": mapping(text, mapping(text, _attribute)),
        "lengths": mapping(text, mapping(text, count)),
        "own": mapping(text, mapping(anything, anything)),
        "workers": items(text),
    },
)

_LOADER_RANK_STATE = record(
    {},
    {
        "rng": rng_state,
        "begin": _ORDER,
        "now": _ORDER,
        "given": _ORDER,
        "replaced": lambda value, where: loader_state(value, where),
        "state": mapping(anything, anything),
        "generator": _source,  # in files of older versions
        "samples": count,
        "digest": whole,
        "workers": count,
        "ahead": count,
    },
)


def loader_state(value: Any, where: str) -> None:
    """Check a loader's state on one rank: ``DataPass.rank_state``, or that between passes."""
    _LOADER_RANK_STATE(value, where)
    if "digest" in value and "samples" not in value:
        raise WrongValue(f"{where}.samples is missing, which belongs to its digest")


_SAMPLER = {"seed": whole, "epoch": count, "position": count, "shuffle": boolean, "size": count}


def _sampler(value: Any, where: str) -> None:
    """Check the state of a sampler: of one of ours in detail, of any other by common keys."""
    is_ours = isinstance(value, Mapping) and len(value.keys() & _SAMPLER.keys()) >= 3
    record(_SAMPLER if is_ours else {}, _SAMPLER)(value, where)


loader_position: Check = record(
    {"epoch": count, "batches": count},
    {
        "samples": optional(count),
        "total": optional(count),
        "world_size": count,
        "sampler": _sampler,
        "replaced": boolean,
    },
)
"""Checks the position of a loader, the same on all ranks: ``DataPass.position``."""

rank_state: Check = record(
    {},
    {
        "rng": rng_state,
        "loaders": optional(items(loader_state)),
        "hooks": optional(mapping(text, items(loader_state))),
    },
)
"""Checks the part of a resume point that is specific to one rank."""
