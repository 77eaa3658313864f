"""The state of random number generators, as plain types and tensors."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch

if TYPE_CHECKING:
    RandomSource = (
        torch.Generator
        | np.random.Generator
        | np.random.RandomState
        | np.random.BitGenerator
        | random.Random
    )


def is_random_source(value: Any) -> TypeGuard[RandomSource]:
    """Whether it is a random generator of any kind that a sampler or dataset may hold."""
    if isinstance(value, (torch.Generator, random.Random)):
        return True
    # It is imported late, for it takes long; until then no value can be of it.
    numpy = sys.modules.get("numpy.random")
    return numpy is not None and isinstance(
        value, (numpy.Generator, numpy.RandomState, numpy.BitGenerator)
    )


def rng_state(cuda: bool = True) -> dict[str, Any]:
    """The state of the generators of Python, NumPy and torch.

    Args:
        cuda: whether to add those of all CUDA devices, if CUDA is initialized. The host does not
            wait for the devices.

    Returns:
        Plain types and tensors, for `set_rng_state`.
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
    if cuda and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the result of `rng_state`; states of CUDA devices that are missing are ignored.

    Raises:
        ValueError: ``state`` is malformed.
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


@contextlib.contextmanager
def rng_kept() -> Iterator[None]:
    """A context after which the generators of Python, NumPy and torch are as they were before."""
    state = rng_state(cuda=False)
    try:
        yield
    finally:
        set_rng_state(state)


def source_state(source: RandomSource) -> Any:
    """The state of one generator.

    Returns:
        Plain types and tensors, for `set_source_state`. None for a generator without a state,
        such as ``random.SystemRandom``.
    """
    try:
        if isinstance(source, torch.Generator):
            return source.get_state()
        if isinstance(source, random.Random):
            version, words, gauss = source.getstate()
            return (version, torch.tensor(words), gauss)
        return _as_tensors(_numpy_state(source))
    except (NotImplementedError, TypeError, ValueError):
        return None


def set_source_state(source: RandomSource, state: Any) -> None:
    """Restore the result of `source_state` of a generator of the same kind.

    Raises:
        ValueError: it is not the state of such a generator.
    """
    try:
        if isinstance(source, torch.Generator):
            source.set_state(state.cpu())
        elif isinstance(source, random.Random):
            version, words, gauss = state
            source.setstate((version, tuple(words.tolist()), gauss))
        else:
            arrays = _as_arrays(state, _numpy_state(source))
            if isinstance(source, np.random.RandomState):
                source.set_state(arrays)
            else:
                _bit_generator(source).state = arrays
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"this is no state of a {type(source).__name__}: {error}") from error


def _numpy_state(source: Any) -> Any:
    if isinstance(source, np.random.RandomState):
        return source.get_state(legacy=False)
    return _bit_generator(source).state


def _bit_generator(source: Any) -> Any:
    return getattr(source, "bit_generator", source)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tensors(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):  # the unsigned words of a bit generator
        return torch.from_numpy(value.astype(np.uint64).view(np.int64))
    return value.item() if isinstance(value, np.generic) else value


def _as_arrays(value: Any, like: Any) -> Any:
    if isinstance(like, dict):
        return {key: _as_arrays(value[key], each) for key, each in like.items()}
    if isinstance(like, np.ndarray):
        return value.cpu().numpy().view(np.uint64).astype(like.dtype)
    return value
