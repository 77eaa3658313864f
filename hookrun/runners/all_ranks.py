"""What the ranks of a run must have in common, and an error on all of them where one differs.

Ranks compare themselves before the first step, and at the end of each training epoch: one that
differs, or does not come, would make the others wait in the collectives of training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hookrun.core.protocols import (
    LendsWeights,
    RequiresAllRanks,
    SharesSettings,
    SynchronizesRanks,
    implements,
)
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import RankError, RunReports, get_dist_info, is_joining, is_lost

from .any_runner import AnyRunner
from .checks import length_of
from .same_training import describe_training, judge_training


@contextlib.contextmanager
def reporting(runner: AnyRunner) -> Iterator[None]:
    """A context of a run, in which ranks report how they end to each other.

    Without ``handle_signals`` a rank may run alone, so that nothing is reported.

    Raises:
        RankError: another rank has failed, died, or not come, and so a collective has failed here.
    """
    if not runner.handle_signals or get_dist_info()[1] == 1:
        yield
        return
    reports = runner.reports = RunReports()
    try:
        yield
        reports.end(f"had ended its run after iteration {runner.iter}")
    except BaseException as error:
        if not is_lost(error):
            reports.fail(error)
            raise
        reports.lose(error)
        if isinstance(error, RankError):
            raise
        try:
            reports.raise_cause(error)
        except RankError as cause:
            raise cause from error
        raise
    finally:
        runner.reports = None


def require_all_ranks(runner: AnyRunner, call: str) -> None:
    """Return when all ranks have called this; see `RunReports.require_all_ranks`."""
    if get_dist_info()[1] == 1:
        return
    reports = runner.reports or runner.call_reports
    if reports is None or not reports.is_of_default_group:
        reports = runner.call_reports = RunReports("call")
    reports.require_all_ranks(call)


@may_sync
def compare_setup(
    runner: AnyRunner, loaders: Sequence[Any], workflow: Sequence[tuple[str, int]], uneven: str
) -> list[int | None]:
    """Check that all ranks have the same limits, hooks and numbers of batches.

    Called before ``before_run``, on all ranks.

    Args:
        runner: the runner.
        loaders, workflow: of the run.
        uneven: ``'stop'`` to go on where the ranks have other numbers of batches.

    Returns:
        For each phase, the agreed length of its epochs: the fewest batches that a rank has, or the
        most within ``join()``. None where all have as many, where it is no training phase, or if
        ranks compare nothing.

    Raises:
        ValueError: the ranks differ, on all of them; or, with ``'stop'``, a loader has no length.
    """
    if uneven not in ("error", "stop"):
        raise ValueError(f"uneven is 'error' or 'stop', not {uneven!r}")
    none: list[int | None] = [None] * len(loaders)
    if runner.reports is None:
        return none
    joining = is_joining(runner.model)
    modes = [mode for mode, _ in workflow]
    lengths = [
        length_of(loader) if mode == "train" else None
        for mode, loader in zip(modes, loaders, strict=True)
    ]
    if uneven == "stop" and any(
        mode == "train" and length is None for mode, length in zip(modes, lengths, strict=True)
    ):
        raise ValueError("uneven='stop' needs training loaders with a length, known at the start")
    limit = "max_iters" if runner.max_epochs is None else "max_epochs"
    mine = {
        "kind": type(runner).__name__,
        "limit": [limit, getattr(runner, limit)],
        "workflow": list(workflow),
        "uneven": "join" if joining else uneven,
        "hooks": _signatures(runner, RequiresAllRanks, "required_signature"),
        "settings": _signatures(runner, SharesSettings, "shared_settings"),
        "averages": [
            type(hook).__name__ for hook in runner.hooks if implements(hook, LendsWeights)
        ],
        "lengths": lengths,
    }
    found = runner.reports.compare("setup", "had begun its run", mine, _judge_setup)
    _raise(found["error"])
    if runner.rank == 0:
        for text in found["warnings"]:
            runner.logger.warning("%s", text)
    return list(found["lengths"])


@may_sync
def compare_start(runner: AnyRunner) -> None:
    """Check that all ranks start at the same position and train the same way, and find the
    synchronized hooks.

    Called after ``before_run``, on all ranks. Synchronized are hooks that all ranks have with the
    same signatures; if ranks compare nothing, no hook is.

    Raises:
        ValueError: the ranks start at other positions, or average gradients with other optimizers
            or parameters; on all of them.
    """
    runner.synchronized_hooks = []
    if runner.reports is None:
        return
    point = runner.progress.resume_point
    mine = {
        "position": {
            "epoch": runner.epoch,
            "iter": runner.iter,
            "phase": None if point is None else [point.index, point.done, point.inner_iter],
            "saved_at": None if point is None else point.saved_at,
        },
        "file": None if point is None else point.source,
        "hooks": _signatures(runner, SynchronizesRanks, "sync_signature"),
        "training": describe_training(runner),
    }
    found = runner.reports.compare("start", "was about to start", mine, _judge_start)
    _raise(found["error"])
    if found["warning"] and runner.rank == 0:
        runner.logger.warning("%s", found["warning"])
    if found["synchronized"] and not is_joining(runner.model):
        runner.synchronized_hooks = [
            hook
            for hook in runner.hooks
            if implements(hook, SynchronizesRanks) and hook.sync_signature(runner) is not None
        ]


def compare_epoch(runner: AnyRunner, batches: int) -> None:
    """Check that all ranks have had as many batches in the epoch that ends, and have as many
    epochs.

    Args:
        runner: the runner.
        batches: the batches of this rank.

    Raises:
        ValueError: the ranks have other numbers, on all of them.
    """
    if runner.reports is None or is_joining(runner.model):
        return
    note = f"had come to the end of epoch {runner.epoch + 1}, of {batches} batches"
    mine = {"batches": batches, "max_epochs": runner.max_epochs}
    _raise(runner.reports.compare("epoch", note, mine, _judge_epoch))


def _signatures(runner: AnyRunner, protocol: Any, method: str) -> list[list[Any]]:
    """Of the hooks that implement a protocol, the names and the signatures that are not None."""
    found = [
        [type(hook).__name__, getattr(hook, method)(runner)]
        for hook in runner.hooks
        if implements(hook, protocol)
    ]
    return [each for each in found if each[1] is not None]


# The following are called on rank 0, with what all ranks have sent.


def _judge_setup(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    error = next(
        filter(None, (_difference(ranks, name, text) for name, text in _COMMON.items())), None
    )
    error = error or _hooks_that_differ(ranks) or _settings_that_differ(ranks)
    warnings = [_difference(ranks, "averages", _AVERAGES)]
    lengths: list[int | None] = []
    if error is None:
        lengths = [_agreed_length(ranks, phase) for phase in range(len(ranks[0]["workflow"]))]
        policy = ranks[0]["uneven"]
        if any(length is not None for length in lengths):
            text = _difference(ranks, "lengths", _UNEVEN[policy])
            error = text if policy == "error" else None
            warnings.append(text)
    return {"error": error, "warnings": list(filter(None, warnings)), "lengths": lengths}


def _agreed_length(ranks: list[dict[str, Any]], phase: int) -> int | None:
    """The length of a phase's epochs on all ranks, where their loaders differ; else None."""
    lengths: list[int] = [
        rank["lengths"][phase] for rank in ranks if rank["lengths"][phase] is not None
    ]
    if len(set(lengths)) <= 1:
        return None
    return max(lengths) if ranks[0]["uneven"] == "join" else min(lengths)


_COMMON = {
    "kind": "the ranks have other runners",
    "limit": "the ranks have other limits",
    "workflow": "the ranks have other workflows",
    "uneven": "the ranks have other values of uneven",
}
_UNEVEN = {
    "error": "the training loaders of the ranks have other numbers of batches, so that some would "
    "wait for others forever: give them a DistributedSampler, or run(..., uneven='stop') to end "
    "each epoch with the fewest batches that a rank has. Batches",
    "stop": "uneven='stop': each epoch ends on all ranks after the fewest batches that one has; "
    "the others leave the rest out. Batches",
    "join": "within DDP's join(), schedules of a rank with fewer batches count epochs of the most "
    "batches that one has; in a run of several epochs, the ranks are in different ones. Batches",
}
_AVERAGES = (
    "the ranks have other hooks that average weights, so that they evaluate, and rank 0 saves, "
    "other weights"
)


def _judge_start(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    error = None
    if any(rank["position"] != ranks[0]["position"] for rank in ranks):
        told = "; ".join(
            f"rank {number}: epoch {rank['position']['epoch']}, iteration "
            f"{rank['position']['iter']}, {_source(rank['file'])}"
            for number, rank in enumerate(ranks)
        )
        error = (
            "the ranks would start at other positions: all of them must resume the same "
            f"checkpoint, from a folder that all can read ({told})"
        )
    parting, warning = judge_training([rank["training"] for rank in ranks])
    same = all(rank["hooks"] == ranks[0]["hooks"] for rank in ranks)
    return {"error": error or parting, "warning": warning, "synchronized": same}


def _source(file: str | None) -> str:
    return "nothing resumed" if file is None else f"resumed {file}"


def _judge_epoch(ranks: list[dict[str, Any]]) -> str | None:
    batches = "the loaders of the ranks had other numbers of batches in this epoch"
    limits = "the ranks have other values of max_epochs, which must be set on all of them"
    return _difference(ranks, "batches", batches) or _difference(ranks, "max_epochs", limits)


def _difference(ranks: list[dict[str, Any]], name: str, text: str) -> str | None:
    """The text with the values of all ranks, if they differ; else None."""
    values = [rank[name] for rank in ranks]
    if all(value == values[0] for value in values):
        return None
    return f"{text}: " + ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))


def _hooks_that_differ(ranks: list[dict[str, Any]]) -> str | None:
    of_ranks = [rank["hooks"] for rank in ranks]
    for name in dict.fromkeys(name for hooks in of_ranks for name, _ in hooks):
        have = [[signature for each, signature in hooks if each == name] for hooks in of_ranks]
        if all(each == have[0] for each in have):
            continue
        without = [rank for rank, each in enumerate(have) if not each]
        what = (
            f"is missing on rank {', '.join(map(str, without))}"
            if without
            else "has other settings: "
            + ", ".join(f"rank {rank}: {_shown(each, have)}" for rank, each in enumerate(have))
        )
        return (
            f"{name} must be the same on all ranks, since they exchange data in it or are to "
            f"change the same way, but it {what}. Register it on every rank: where only one may "
            "write, such as checkpoints, rank 0 does"
        )
    return None


def _settings_that_differ(ranks: list[dict[str, Any]]) -> str | None:
    """An error where hooks that some ranks may be without have other settings; else None."""
    found: dict[str, dict[int, list[Any]]] = {}
    for rank, each in enumerate(ranks):
        for name, settings in each["settings"]:
            found.setdefault(name, {}).setdefault(rank, []).append(settings)
    for name, by_rank in found.items():
        have = list(by_rank.values())
        if any(each != have[0] for each in have):
            values = ", ".join(f"rank {rank}: {_shown(by_rank[rank], have)}" for rank in by_rank)
            return f"{name} must have the same settings on all ranks that have it, but has {values}"
    return None


def _shown(signatures: list[Any], of_ranks: list[list[Any]]) -> Any:
    """The signatures of a rank for a message; of a hook with names, those that differ."""
    ours = signatures[0]
    alone = all(len(each) == 1 and isinstance(each[0], dict) for each in of_ranks)
    if not alone:
        return signatures
    return {
        name: value
        for name, value in ours.items()
        if any(name not in each[0] or each[0][name] != value for each in of_ranks)
    }


def _raise(error: str | None) -> None:
    if error is not None:
        raise ValueError(error)
