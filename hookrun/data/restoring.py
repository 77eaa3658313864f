"""Restoring the state that determines a loader's order, and checking that it suffices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.utils.data import (
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from .order_check import order_repeats, workers_decide_order
from .order_search import describe_makers, find_order_makers, unwrapped
from .order_state import order_state, restore_order, watch
from .problems import Problem
from .resume_pass import has_state
from .rng import rng_state, set_rng_state, set_source_state
from .samples import can_seek, is_iterable_style, total_samples
from .workers import start_workers


def state_between_passes(loader: Any) -> dict[str, Any]:
    """The state on this rank from which the next pass begins, as ``DataPass.rank_state``."""
    state: dict[str, Any] = {"now": order_state(loader)}
    # Before its first pass, state_dict() of a stateful loader would begin one.
    if _keeps_state(loader) and getattr(loader, "_iterator", True) is not None:
        state["state"] = loader.state_dict()
    return state


def restore_between_passes(
    loader: Any, rank_state: Mapping[str, Any], epoch: int = 0
) -> list[Problem]:
    """Restore the result of `state_between_passes`; global generators stay as they are.

    Args:
        loader: the loader.
        rank_state: that result.
        epoch: the number of passes before.

    Returns:
        Why later passes may differ from those of the run that was saved.
    """
    watch(loader)
    rng = rng_state(cuda=False)

    def restore() -> list[Problem]:
        found = _restore_order(loader, rank_state.get("now"), rank_state, epoch)
        set_rng_state(rng)
        return found

    if "state" in rank_state and _keeps_state(loader):
        loader.load_state_dict(rank_state["state"])
        _begin_next(loader)
    return restore() + _check_order(loader, rank_state, epoch, restore)


def _begin_next(loader: Iterable[Any]) -> None:
    """Make a loader consume its loaded state, the end of a pass, so that a new pass comes next."""
    iter(loader)


def _keeps_state(loader: Any) -> bool:
    """Whether the order is in the loader's own state, rather than in its sampler's epoch."""
    return has_state(loader) and not can_seek(loader)


def restore_beginning(
    loader: Any, position: Mapping[str, Any], rank_state: Mapping[str, Any]
) -> list[Problem]:
    """Restore the state that determines the order of a pass, as it was when the pass began."""
    problems = _restore_order(loader, rank_state.get("begin"), rank_state, position["epoch"])
    if "rng" in rank_state:
        set_rng_state(rank_state["rng"])
    elif position["batches"] and position["epoch"] and _draws_global_numbers(loader):
        problems.append(
            Problem("the file lacks the state of random numbers that this epoch began with")
        )
    return problems


def _draws_global_numbers(loader: Any) -> bool:
    """Whether one of torch's samplers draws the order from torch's global generator."""
    sampler: Any = getattr(unwrapped(loader), "sampler", None)
    random = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
    return isinstance(sampler, random) and sampler.generator is None


def _restore_order(
    loader: Any, state: Mapping[str, Any] | None, rank_state: Mapping[str, Any], epoch: int
) -> list[Problem]:
    """Restore an order state; where it is None, what files of older versions have in its place."""
    if state is not None:
        return restore_order(loader, state)
    makers = find_order_makers(loader)
    known = next((path for path in _OLD_GENERATORS if path in makers.sources), None)
    if "generator" not in rank_state:
        known = None
    elif known is not None:
        set_source_state(makers.sources[known], rank_state["generator"])
    if epoch == 0:
        return []
    for each in makers.loaders.values():
        start_workers(each)
    if can_seek(loader) or (has_state(loader) and "state" in rank_state):
        return []
    unknown = [path for path in makers.sources if path != known and path not in makers.augmenting]
    paths = [*unknown, *filter(None, makers.objects)]
    return [Problem(f"the file has no state of {path}") for path in paths]


_OLD_GENERATORS = ("generator", "sampler.generator")  # files of older versions have one of them


def check_order(
    loader: Any, position: Mapping[str, Any], rank_state: Mapping[str, Any]
) -> list[Problem]:
    """Why the restored order of a pass may not be that of the run that was saved."""
    problems = _check_order(
        loader,
        rank_state,
        position["epoch"],
        lambda: restore_beginning(loader, position, rank_state),
    )
    before, now = position.get("total"), total_samples(loader)
    known = "begin" in rank_state and before is not None and now is not None
    if position["batches"] and known and before != now and not _is_sequential(loader):
        problems.append(
            Problem(
                f"its dataset had {before} samples and has {now} now",
                "with the dataset of that run, the order is the same",
            )
        )
    return problems


def _check_order(
    loader: Any, rank_state: Mapping[str, Any], epoch: int, restore: Callable[[], Any]
) -> list[Problem]:
    """Why a restored order may not be that of the run that was saved."""
    if epoch == 0 or _keeps_state(loader) or can_seek(loader) or "digest" in rank_state:
        return []
    if workers_decide_order(loader):
        return [
            Problem(
                "its iterable dataset is in persistent worker processes, whose state a checkpoint "
                "cannot hold",
                "torchdata's StatefulDataLoader goes on exactly, or persistent_workers=False",
            )
        ]
    repeats = order_repeats(loader, restore)
    restore()
    if repeats:
        return []
    what = f"the order of {describe_makers(loader)} cannot be restored from its state"
    return [Problem(what)]


def _is_sequential(loader: Any) -> bool:
    sampler = getattr(loader, "sampler", None)
    return isinstance(sampler, (SequentialSampler, range, list, tuple)) or is_iterable_style(
        unwrapped(loader)
    )
