"""Whether a run is resumed from the checkpoint that EMAHook was given as ``resume_from``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hookrun.checkpoint import read_checkpoint, state_dict_of
from hookrun.distributed import get_dist_info


def should_resume_from(runner: Any, source: str) -> bool:
    """Whether a run that starts should be resumed from the checkpoint ``source``.

    It should not if the run has already got farther, by training or by being resumed from a later
    checkpoint, or if it was resumed from this checkpoint. A warning is logged if the run has
    trained or was resumed from another checkpoint.

    Args:
        runner: the runner, before training.
        source: the path or URI of the checkpoint.

    Raises:
        FileNotFoundError, ValueError, OSError: the file cannot be read.
    """
    resumed = runner.resumed if isinstance(runner.resumed, Mapping) else None
    if resumed is None and not (runner.epoch or runner.iter):
        return True
    checkpoint = read_checkpoint(source, "cpu")
    of_source = _progress(checkpoint, runner)
    of_run = None if resumed is None else _progress(resumed, runner)
    of_run = of_run or _comparable(runner.epoch, runner.iter, runner)
    if of_source is None:
        return True  # runner.resume raises an error that says what is wrong with the file
    if of_source == of_run and resumed is not None and _same_weights(checkpoint, resumed):
        return False
    is_earlier = of_source < of_run
    if get_dist_info()[0] == 0:
        runner.logger.warning(
            "EMAHook: resume_from=%r is of %s, and the run is at %s already: %s",
            source,
            _describe(of_source),
            _describe(of_run),
            "it goes on from there with its own averages, and the file is not used. To go back, "
            "call runner.resume() with the file"
            if is_earlier
            else "it goes on from the file, which replaces what was resumed or trained before",
        )
    return not is_earlier


def _progress(checkpoint: Mapping[str, Any], runner: Any) -> tuple[int, ...] | None:
    """The progress of the run that wrote a checkpoint; None if the checkpoint does not have it."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return None
    epoch, iteration = meta.get("epoch"), meta.get("iter")
    if not isinstance(epoch, int) or not isinstance(iteration, int):
        return None
    return _comparable(epoch, iteration, runner)


def _comparable(epoch: int, iteration: int, runner: Any) -> tuple[int, ...]:
    """Progress as a tuple that can be compared.

    If the runner counts epochs they come first: the number of iterations depends on the batch size.
    """
    return (iteration,) if runner.max_epochs is None else (epoch, iteration)


def _describe(progress: tuple[int, ...]) -> str:
    words = ("iteration",) if len(progress) == 1 else ("epoch", "iteration")
    return ", ".join(f"{word} {count}" for word, count in zip(words, progress, strict=True))


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ours, theirs = state_dict_of(one), state_dict_of(other)
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[name].to(value.device))
        for name, value in ours.items()
        if isinstance(value, Tensor) and isinstance(theirs[name], Tensor)
    )
