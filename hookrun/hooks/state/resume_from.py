"""Whether a checkpoint that a hook was given is one to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hookrun.checkpoint import read_checkpoint, state_dict_of
from hookrun.distributed import get_dist_info


def goes_on_from(runner: Any, source: str) -> bool:
    """Whether a run that starts is to be resumed from the file; says so where that is no matter of
    course.

    It is not where the run is further already: it was resumed from a later file, or has trained.
    Nor where it was resumed from this very file.

    Raises:
        FileNotFoundError, ValueError, OSError: the file cannot be read.
    """
    resumed = runner.resumed if isinstance(runner.resumed, Mapping) else None
    if resumed is None and not (runner.epoch or runner.iter):
        return True
    checkpoint = read_checkpoint(source, "cpu")
    there = _progress(checkpoint, runner)
    here = None if resumed is None else _progress(resumed, runner)
    here = here or _counted(runner.epoch, runner.iter, runner)
    if there is None:
        return True  # resuming says what is wrong with it
    if there == here and resumed is not None and _same_weights(checkpoint, resumed):
        return False
    back = there < here
    if get_dist_info()[0] == 0:
        runner.logger.warning(
            "EMAHook: resume_from=%r is of %s, and the run is at %s already: %s",
            source,
            _named(there),
            _named(here),
            "it goes on from there, with the averages it has there, and not from the file. To go "
            "back, call runner.resume() with it"
            if back
            else "it goes on from the file, which takes the place of what was resumed or trained "
            "before",
        )
    return not back


def _progress(checkpoint: Mapping[str, Any], runner: Any) -> tuple[int, ...] | None:
    """How far the run of a checkpoint was; None where it does not say."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return None
    epoch, iteration = meta.get("epoch"), meta.get("iter")
    if not isinstance(epoch, int) or not isinstance(iteration, int):
        return None
    return _counted(epoch, iteration, runner)


def _counted(epoch: int, iteration: int, runner: Any) -> tuple[int, ...]:
    """By epoch first, where the run counts them: iterations depend on the size of batches."""
    return (iteration,) if runner.max_epochs is None else (epoch, iteration)


def _named(progress: tuple[int, ...]) -> str:
    words = ("iteration",) if len(progress) == 1 else ("epoch", "iteration")
    return ", ".join(f"{word} {count}" for word, count in zip(words, progress, strict=True))


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ours, theirs = state_dict_of(one), state_dict_of(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name].to(value.device))
        for name, value in ours.items()
        if isinstance(value, Tensor) and isinstance(theirs[name], Tensor)
    )
