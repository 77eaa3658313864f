"""Saving a run: its checkpoint has the model, the optimizer, the progress and the hooks' states."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hookrun import checkpoint as ckpt
from hookrun.core.hook import Hook
from hookrun.core.overrides import overrides
from hookrun.core.protocols import ChecksBeforeSaving, SavesCheckpoints, implements
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import fail_together, get_dist_info, unwrap_model

from .all_ranks import require_all_ranks
from .any_runner import AnyRunner
from .loader_states import states_of_hooks
from .optimizer_state import named_optimizers
from .parameter_names import names_of_groups


@may_sync
def save(
    runner: AnyRunner,
    out_dir: str | os.PathLike[str],
    filename: str,
    save_optimizer: bool,
    meta: Mapping[str, Any] | None,
    create_symlink: bool,
    sharded: bool = False,
) -> None:
    """Write a checkpoint of the run; see ``save_checkpoint`` of the runners."""
    if sharded:
        require_all_ranks(runner, "save_checkpoint(sharded=True)")
        with fail_together("saving a sharded checkpoint"):
            checkpoint = _collect(runner, filename, save_optimizer, meta)
        latest = "latest.sharded" if create_symlink else None
        runner.checkpoint_writer.save_sharded(checkpoint, out_dir, filename, latest)
        return
    checkpoint = _with_full_tensors(runner, _collect(runner, filename, save_optimizer, meta))
    latest = "latest.pth" if create_symlink else None
    runner.checkpoint_writer.save(checkpoint, out_dir, filename, latest)


def _collect(
    runner: AnyRunner, filename: str, save_optimizer: bool, meta: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that a checkpoint of the run has; its tensors are not copied."""
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    if os.path.basename(filename) != filename or filename in ("", ".", ".."):
        raise ValueError(f"a checkpoint's file name cannot leave its folder: {filename!r}")
    check_state(runner)
    counters = runner.progress.finished()
    encoder = ckpt.Encoder()
    checkpoint = ckpt.make_checkpoint(
        runner.model,
        runner.optimizer if save_optimizer else None,
        {
            **(meta or {}),
            **(runner.meta or {}),
            "epoch": counters["epoch"],
            "iter": counters["iter"],
        },
        encoder,
    )
    progress = runner.progress.state_dict(states_of_hooks(runner))
    checkpoint["hookrun"] = {
        "format": ckpt.FORMAT,
        **encoder.encode(progress, "the position", ("hookrun",)),
        "group_options": runner.group_options.state_dict(),
        "parameters": names_of_groups(runner.model, named_optimizers(runner.optimizer)),
        "hooks": {
            key: encoder.encode(state, f"{key}.state_dict()", ("hookrun", "hooks", key))
            for key, state in _hook_states(runner)
        },
        "versions": _versions(),
    }
    encoder.add_notes(checkpoint)
    return checkpoint


@may_sync
def gather_full_tensors(runner: AnyRunner) -> ckpt.FullTensors | None:
    """Gather what is sharded of the run's state; must be called on all ranks. None for nothing."""
    optimizers = [each.state_dict() for each in named_optimizers(runner.optimizer).values()]
    hooks = [hook.state_dict() for hook in runner.hooks]
    state = [unwrap_model(runner.model).state_dict(), optimizers, hooks]
    if not ckpt.has_sharded(state):
        return None
    return ckpt.FullTensors(state, step=(runner.epoch, runner.iter))


def _with_full_tensors(runner: AnyRunner, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with full tensors in place of sharded ones, as they were gathered for it."""
    gathered, runner.full_tensors = runner.full_tensors, None
    if gathered is not None and gathered.step != (runner.epoch, runner.iter):
        gathered = None
    if gathered is None and not ckpt.has_sharded(checkpoint):
        return checkpoint
    filled: dict[str, Any] = (gathered or ckpt.FullTensors([])).fill_in(checkpoint)
    return filled


def _hook_states(runner: AnyRunner) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The state of each hook by key, and resumed states of hooks that are not registered."""
    keyed = runner.keyed_hooks()
    for key, hook in keyed.items():
        if state := hook.state_dict():
            yield key, state
    for key, state in runner.waiting_hook_states.items():
        if key not in keyed:
            yield key, state


@may_sync
def check_savable(runner: AnyRunner) -> None:
    """Check before the first step whether checkpoints can hold the state of the run.

    If no hook saves checkpoints, but a signal would save one, this only warns.

    Raises:
        TypeError: something cannot be saved, and a hook saves checkpoints. The message says what.
    """
    savers = [
        hook
        for hook in runner.hooks
        if implements(hook, SavesCheckpoints) and hook.checkpoint_folder(runner) is not None
    ]
    if not savers and not (runner.handle_signals and runner.work_dir):
        return
    _warn_of_extra_states(runner)
    try:
        for where, part in _known_parts(runner, savers):
            ckpt.plain(part, where)
    except TypeError as error:
        if savers:
            raise
        if get_dist_info()[0] == 0:
            runner.logger.warning("if a signal ends this run, it cannot be saved: %s", error)


def _warn_of_extra_states(runner: AnyRunner) -> None:
    """Warn of modules that have one of torch's two methods for extra state only."""
    model, both = unwrap_model(runner.model), ("get_extra_state", "set_extra_state")
    if not isinstance(model, torch.nn.Module) or get_dist_info()[0] != 0:
        return
    for name, module in model.named_modules():
        has = [overrides(module, torch.nn.Module, [each]) for each in both]
        if has[0] != has[1]:
            runner.logger.warning(
                "%s (%s) has %s() but no %s(): its extra state will not be restored when a "
                "checkpoint is loaded",
                type(module).__name__,
                name or "the model",
                both[has[1]],
                both[has[0]],
            )


def _known_parts(runner: AnyRunner, savers: Sequence[Hook]) -> Iterator[tuple[str, Any]]:
    """By name, what checkpoints will have beside tensors, as far as it is known before training."""
    model = unwrap_model(runner.model)
    yield "runner.meta", runner.meta or {}
    yield "model.CLASSES", getattr(model, "CLASSES", None)
    for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
            yield f"{name}.get_extra_state()".lstrip("."), _value_or_none(module.get_extra_state)
    if not savers or any(getattr(hook, "save_optimizer", True) for hook in savers):
        optimizers = (
            runner.optimizer if isinstance(runner.optimizer, Mapping) else {"": runner.optimizer}
        )
        for name, optimizer in optimizers.items():
            for number, group in enumerate(getattr(optimizer, "param_groups", ())):
                options = {key: value for key, value in group.items() if key != "params"}
                yield f"optimizer{f'[{name!r}]' if name else ''}.param_groups[{number}]", options
    for key, hook in runner.keyed_hooks().items():
        yield f"{key}.state_dict()", _value_or_none(hook.state_dict)


def _value_or_none(read: Callable[[], Any]) -> Any:
    """The state that ``read`` returns; None if it raises, as before the first step it may."""
    try:
        return read()
    except Exception:
        return None


def check_state(runner: AnyRunner) -> None:
    """Let hooks refuse the state that is about to be saved.

    Raises:
        Exception: the reason of a hook.
    """
    for hook in runner.hooks:
        if implements(hook, ChecksBeforeSaving):
            hook.check_before_saving(runner)


def _versions() -> dict[str, str]:
    """The versions that the file was written with, for debugging."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
