"""Resuming a run from a checkpoint; on an error the runner is unchanged."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any

from hookrun import checkpoint as ckpt
from hookrun.core.hook import Hook
from hookrun.core.interrupts import uninterrupted
from hookrun.core.protocols import ChecksResumed, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import get_dist_info

from .any_runner import AnyRunner
from .finding import find_newest
from .group_options import Which, check_choice, list_differences
from .group_record import Difference
from .layout import check_layout, state_layout
from .optimizer_state import OptimizerState, load_state, matching_states, named_optimizers
from .parameter_names import StateByName, names_of_groups


@may_sync
def resume(
    runner: AnyRunner,
    source: str | os.PathLike[str],
    resume_optimizer: bool,
    map_location: ckpt.MapLocation,
    trust: bool,
    param_groups: str,
) -> None:
    """Load a checkpoint into the runner, or raise and leave it unchanged; see ``Runner.resume``."""
    whose_options = check_choice(param_groups)
    location = "cpu" if map_location == "default" else map_location
    if source == "auto":
        wants_optimizer = resume_optimizer and bool(runner.optimizer)
        found = find_newest(runner, location, trust, wants_optimizer)
        if found is None:
            optimizers = named_optimizers(runner.optimizer)
            runner.group_options.remember_given(optimizers)
            runner.group_options.remember_current(optimizers)
            return
        source, checkpoint = found
    else:
        checkpoint = ckpt.read_checkpoint(source, location, trust=trust)

    try:
        differences = uninterrupted(
            _apply, runner, checkpoint, source, resume_optimizer, whose_options
        )
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, ValueError) and repr(str(source)) in str(error):
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        raise ValueError(
            f"{str(source)!r} cannot be resumed because its content is invalid: "
            f"{kind}{error}{where}"
        ) from error
    if get_dist_info()[0] == 0:
        runner.logger.info("resumed %s: epoch %d, iter %d", source, runner.epoch, runner.iter)
        _log_differences(runner, differences, source, whose_options)


def _apply(
    runner: AnyRunner,
    checkpoint: dict[str, Any],
    source: Any,
    resume_optimizer: bool,
    whose_options: Which,
) -> list[Difference]:
    """Apply a checkpoint that has been read, or raise and leave the runner unchanged.

    Returns:
        Options of parameter groups that differ between the file and the run.
    """
    hooks = runner.keyed_hooks()
    check_layout(checkpoint, source, hooks)
    own = dict(checkpoint.get("hookrun", {}))
    fitting = _check_weights(runner, ckpt.state_dict_of(checkpoint), source)
    optimizers: dict[str, OptimizerState] = {}
    record = own.get("group_options")
    if resume_optimizer and checkpoint.get("optimizer") is not None:
        by_name = StateByName(
            own.get("parameters"),
            names_of_groups(runner.model, named_optimizers(runner.optimizer), plain=False),
            fitting.match.names,
            record,
            whose_options == "file",
        )
        optimizers = matching_states(
            runner.optimizer,
            checkpoint["optimizer"],
            source,
            by_name,
            with_options=whose_options == "file",
        )
        record = by_name.record
        states = {name: state for name, (_, state) in optimizers.items()}
        checkpoint = {**checkpoint, "optimizer": states.get("", states)}
    for key, hook in hooks.items():
        _check_hook(runner, key, hook, checkpoint, (own.get("hooks") or {}).get(key))
    with _undone_on_error(runner):
        options = runner.group_options = copy.copy(runner.group_options)
        differences = []
        if optimizers:
            differences = options.load(optimizers, record, whose_options)
        else:
            options.remember_given(named_optimizers(runner.optimizer))
            if resume_optimizer and runner.optimizer and get_dist_info()[0] == 0:
                runner.logger.warning(
                    "%s has no optimizer state: the optimizer starts without any. "
                    "resume_optimizer=False silences this warning",
                    source,
                )
        fitting.load()
        counted = checkpoint["meta"]
        runner.progress.load_state_dict(own, epoch=counted["epoch"], iter=counted["iter"])
        if runner.progress.resume_point is not None:
            runner.progress.resume_point.source = str(source)
            runner.progress.resume_point.saved_at = str(counted.get("time", ""))
        _warn_of_other_ranks(runner, own)
        # Entries of the file override those that this run was given.
        given, meta = runner.meta or {}, _savable(runner, checkpoint["meta"])
        messages = {**given.get("hook_msgs", {}), **(meta.get("hook_msgs") or {})}
        runner.meta = {**given, **meta, "hook_msgs": messages}
        runner.resumed = checkpoint
        runner.waiting_hook_states = dict(own.get("hooks") or {})
        for key, hook in hooks.items():
            _load_hook(runner, key, hook)
    return differences


def _log_differences(
    runner: AnyRunner, differences: list[Difference], source: Any, whose: Which
) -> None:
    """Log the options that differ between the file and the run."""
    if not differences:
        return
    named = list_differences(differences)
    if whose == "given":
        runner.logger.info("the options given are used, not those of %s: %s", source, named)
    else:
        runner.logger.warning(
            "%s was trained with other options of parameter groups than this run was given, and "
            "the file's are used: %s. To use those given, call resume(..., param_groups='given')",
            source,
            named,
        )


def _savable(runner: AnyRunner, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a trusted file's ``meta`` that checkpoints can hold; warns about the rest."""
    kept = {}
    for key, value in meta.items():
        try:
            ckpt.plain({key: value})
        except TypeError as error:
            runner.logger.warning("not resumed: %s", error)
        else:
            kept[key] = value
    return kept


def restore_hook(runner: AnyRunner, hook: Hook) -> None:
    """Load the state of a hook that is registered after resuming, if the checkpoint has it."""
    if not runner.waiting_hook_states and runner.resumed is None:
        return
    for key, each in runner.keyed_hooks().items():
        if each is hook:
            if runner.resumed is not None:
                _check_hook(runner, key, hook, runner.resumed, runner.waiting_hook_states.get(key))
            _load_hook(runner, key, hook)


def _load_hook(runner: AnyRunner, key: str, hook: Hook) -> None:
    if key not in runner.waiting_hook_states:
        return
    try:
        hook.load_state_dict(runner.waiting_hook_states[key])
    except Exception as error:
        error.add_note(f"while restoring the hook {key} from the resumed checkpoint")
        raise
    del runner.waiting_hook_states[key]


def _check_hook(
    runner: AnyRunner,
    key: str,
    hook: Hook,
    checkpoint: Mapping[str, Any],
    state: Mapping[str, Any] | None,
) -> None:
    """Let a hook refuse the checkpoint, before anything has been changed."""
    if not implements(hook, ChecksResumed):
        return
    known = state_layout(type(hook)) is not None
    try:
        hook.check_resumed(runner, checkpoint, state if known else None)
    except Exception as error:
        error.add_note(f"while checking what the resumed checkpoint has for the hook {key}")
        raise


def _warn_of_other_ranks(runner: AnyRunner, own: Mapping[str, Any]) -> None:
    """Warn if the number of ranks differs from the file's, or the file lacks this rank's state."""
    rank, world_size = get_dist_info()
    before = own.get("world_size", world_size)
    if before != world_size:
        if rank == 0:
            runner.logger.warning(
                "the checkpoint was saved with %d processes, and this run has %d: it continues "
                "after the samples that were seen, but not bit for bit",
                before,
                world_size,
            )
    elif rank not in own.get("ranks", {rank: None}):
        runner.logger.warning(
            "the checkpoint has no random numbers of process %d: call runner.gather_state() in "
            "every process before saving",
            rank,
        )


@contextlib.contextmanager
def _undone_on_error(runner: AnyRunner) -> Iterator[None]:
    """A context that restores weights, optimizers, counters and ``meta`` if its block raises."""
    # load_state_dict replaces an optimizer's tensors, so the old ones need not be copied.
    named = named_optimizers(runner.optimizer)
    optimizers = [(each, each.state_dict()) for each in named.values()]
    progress = runner.progress.snapshot()
    options, meta = runner.group_options, runner.meta
    resumed, waiting = runner.resumed, runner.waiting_hook_states
    hooks = [(hook, hook.state_dict()) for hook in runner.hooks]
    try:
        with ckpt.unchanged_on_error(runner.model):
            yield
    except BaseException:
        for hook, state in hooks:
            with contextlib.suppress(Exception):
                hook.load_state_dict(state)
        for optimizer, state in optimizers:
            load_state(optimizer, state)
        runner.progress.restore(progress)
        runner.group_options, runner.meta = options, meta
        runner.resumed, runner.waiting_hook_states = resumed, waiting
        runner.group_options.follow_groups(named)
        raise


def _check_weights(runner: AnyRunner, weights: Mapping[str, Any], source: Any) -> ckpt.Fit:
    fitting = ckpt.fit(runner.model, weights)
    mismatch = fitting.mismatch
    of_another = fitting.match.is_part or mismatch.missing or mismatch.shapes or mismatch.untied
    if mismatch and of_another:
        advice = fitting.reason or "load_checkpoint() loads the weights that fit."
        raise ValueError(
            f"{str(source)!r} is not a checkpoint of this model:\n{mismatch}\n{advice}"
        )
    if mismatch and get_dist_info()[0] == 0:
        runner.logger.warning("not everything in %s is used:\n%s", source, mismatch)
    return fitting
