"""What the order of loaders follows from: given back, and checked whether it is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.utils.data import (
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .going_on import has_state
from .order_check import order_repeats, workers_decide_order
from .order_search import describe_makers, find_order_makers, unwrapped
from .order_state import order_state, restore_order, watch
from .problems import Problem
from .rng import rng_state, set_rng_state, set_source_state
from .samples import can_seek, is_iterable_style, total_samples
from .workers import start_workers


def state_between_passes(loader: Any) -> dict[str, Any]:
    """What the next pass through a loader follows from in this process: as ``own_state``."""
    own: dict[str, Any] = {"now": order_state(loader)}
    # Asked before its first pass, a stateful loader would begin one.
    if _keeps_state(loader) and getattr(loader, "_iterator", True) is not None:
        own["state"] = loader.state_dict()
    return own


def restore_between_passes(loader: Any, own: Mapping[str, Any], epoch: int = 0) -> list[Problem]:
    """Take over what :func:`state_between_passes` gave; global random numbers are left alone.

    Args:
        loader: the loader.
        own: what that gave.
        epoch: the passes that there were before.

    Returns:
        Why the passes to come may differ from those of the run that was saved.
    """
    watch(loader)
    rng = rng_state(cuda=False)

    def restore() -> list[Problem]:
        found = _restore_order(loader, own.get("now"), own, epoch)
        set_rng_state(rng)
        return found

    if "state" in own and _keeps_state(loader):
        loader.load_state_dict(own["state"])
        _begin_next(loader)
    return restore() + _check_order(loader, own, epoch, restore)


def _begin_next(loader: Iterable[Any]) -> None:
    """Let a loader take up its state, the end of a pass, so that the next one begins behind it."""
    iter(loader)


def _keeps_state(loader: Any) -> bool:
    """Whether the order is in the loader's own state, rather than in its sampler's epoch."""
    return has_state(loader) and not can_seek(loader)


def restore_beginning(
    loader: Any, place: Mapping[str, Any], own: Mapping[str, Any]
) -> list[Problem]:
    """What the order of a pass follows from, as it was when that began."""
    problems = _restore_order(loader, own.get("begin"), own, place["epoch"])
    if "rng" in own:
        set_rng_state(own["rng"])
    elif place["batches"] and place["epoch"] and _draws_global_numbers(loader):
        problems.append(Problem("the file has not the random numbers that this epoch began with"))
    return problems


def _draws_global_numbers(loader: Any) -> bool:
    """Whether one of torch's samplers draws the order from the global random numbers."""
    sampler: Any = getattr(unwrapped(loader), "sampler", None)
    random = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    return isinstance(sampler, random) and sampler.generator is None


def _restore_order(
    loader: Any, state: Mapping[str, Any] | None, own: Mapping[str, Any], epoch: int
) -> list[Problem]:
    """What the order follows from; without ``state``, as far as files of older versions know."""
    if state is not None:
        return restore_order(loader, state)
    makers = find_order_makers(loader)
    known = next((path for path in _OLD_GENERATORS if path in makers.sources), None)
    if "generator" not in own:
        known = None
    elif known is not None:
        set_source_state(makers.sources[known], own["generator"])
    if epoch == 0:
        return []
    for each in makers.loaders.values():
        start_workers(each)
    if can_seek(loader) or (has_state(loader) and "state" in own):
        return []
    unknown = [path for path in makers.sources if path != known and path not in makers.augmenting]
    paths = [*unknown, *filter(None, makers.objects)]
    return [Problem(f"the file has no state of {path}") for path in paths]


_OLD_GENERATORS = ("generator", "sampler.generator")  # one of which older files have


def check_order(loader: Any, place: Mapping[str, Any], own: Mapping[str, Any]) -> list[Problem]:
    """Why a pass may not go on in its order, which has been restored."""
    problems = _check_order(
        loader, own, place["epoch"], lambda: restore_beginning(loader, place, own)
    )
    before, now = place.get("total"), total_samples(loader)
    known = "begin" in own and before is not None and now is not None
    if place["batches"] and known and before != now and not _is_sequential(loader):
        problems.append(
            Problem(
                f"its dataset had {before} samples and has {now} now",
                "the dataset of that run is gone through in the same order",
            )
        )
    return problems


def _check_order(
    loader: Any, own: Mapping[str, Any], epoch: int, restore: Callable[[], Any]
) -> list[Problem]:
    """Why the order may not be that of the run whose state has been restored."""
    if epoch == 0 or _keeps_state(loader) or can_seek(loader) or "digest" in own:
        return []
    if workers_decide_order(loader):
        return [
            Problem(
                "its iterable dataset is in worker processes that persist, whose state no "
                "checkpoint has",
                "torchdata's StatefulDataLoader goes on exactly, or persistent_workers=False",
            )
        ]
    repeats = order_repeats(loader, restore)
    restore()
    if repeats:
        return []
    what = f"the order of {describe_makers(loader)} does not follow from its state"
    return [Problem(what)]


def _is_sequential(loader: Any) -> bool:
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, (SequentialSampler, range, list, tuple)) or is_iterable_style(
        unwrapped(loader)
    )
