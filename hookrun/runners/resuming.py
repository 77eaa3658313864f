"""The run's own part of a checkpoint: how far it is, and what its hooks remember."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from hookrun import checkpoint as ckpt
from hookrun.core.hook import Hook
from hookrun.distributed import get_dist_info, unwrap_model

if TYPE_CHECKING:
    from .base_runner import BaseRunner


def progress(runner: BaseRunner) -> dict[str, int]:
    """Finished epochs, finished iterations, and those finished in the epoch at work.

    Counters move after the last event of what they count, so an event at the end of an iteration
    or epoch counts that too.
    """
    epoch, iteration, inner = runner.epoch, runner.iter, 0
    event = runner._firing
    if event in ("after_train_iter", "after_iter"):
        return {"epoch": epoch, "iter": iteration + 1, "inner_iter": runner.inner_iter + 1}
    if event in ("before_train_iter", "before_iter"):
        inner = runner.inner_iter
    elif event in ("after_train_epoch", "after_epoch") and runner.mode == "train":
        epoch += 1
    return {"epoch": epoch, "iter": iteration, "inner_iter": inner}


def save(
    runner: BaseRunner,
    out_dir: str | os.PathLike[str],
    filename: str,
    save_optimizer: bool,
    meta: Mapping[str, Any] | None,
    create_symlink: bool,
    position: Mapping[str, int],
) -> None:
    """Write a checkpoint of the run; see ``save_checkpoint`` of the runners.

    Args:
        position: what :func:`progress` gives, as far as the kind of runner knows it.
    """
    if meta is not None and not isinstance(meta, Mapping):
        raise TypeError(f"meta must be a dict or None, not {type(meta).__name__}")
    if os.path.basename(filename) != filename:
        raise ValueError(f"a checkpoint's file name cannot leave its folder: {filename!r}")
    checkpoint = ckpt.make_checkpoint(
        runner.model,
        runner.optimizer if save_optimizer else None,
        {
            **(meta or {}),
            **(runner.meta or {}),
            "epoch": position["epoch"],
            "iter": position["iter"],
        },
    )
    checkpoint["hookrun"] = {
        "format": ckpt.FORMAT,
        "inner_iter": position["inner_iter"],
        "hooks": {
            key: ckpt.plain(state, key)
            for key, hook in _keyed(runner.hooks).items()
            if (state := hook.state_dict())
        },
    }
    path = Path(out_dir) / filename
    ckpt.write_checkpoint(checkpoint, path)
    if create_symlink:
        ckpt.link_latest(path)


def resume(
    runner: BaseRunner,
    source: str | os.PathLike[str],
    resume_optimizer: bool,
    map_location: ckpt.MapLocation,
) -> None:
    """Load a checkpoint into the runner, or leave it as it was and raise; see ``Runner.resume``."""
    location = "cpu" if map_location == "default" else map_location
    if source == "auto":
        if runner.work_dir is None:
            raise ValueError("resume('auto') looks into work_dir, but the runner has none")
        found = ckpt.newest_checkpoint(runner.work_dir, runner.logger)
        if found is None:
            runner.logger.info("no checkpoint in %s: starting afresh", runner.work_dir)
            return
        source, checkpoint = found
    else:
        checkpoint = ckpt.read_checkpoint(source, location)

    own = _check(checkpoint, source)
    weights = ckpt.state_dict_of(checkpoint)
    _check_weights(runner, weights, source)
    if resume_optimizer and "optimizer" in checkpoint:
        _load_optimizer(runner, checkpoint["optimizer"], source)
    ckpt.load_state_dict(runner.model, weights)

    meta = dict(checkpoint["meta"])
    runner._epoch = meta["epoch"]
    runner._iter = meta["iter"] + _uncounted_iterations(runner, own)
    runner._skip_batches = own.get("inner_iter", 0)
    # What this run was given stays, but for what the file knows better.
    given = runner.meta or {}
    messages = {**given.get("hook_msgs", {}), **meta.get("hook_msgs", {})}
    runner.meta = {**given, **meta, "hook_msgs": messages}
    runner.resumed = checkpoint
    runner._hook_states = dict(own.get("hooks", {}))
    for hook in runner.hooks:
        restore_hook(runner, hook)
    if get_dist_info()[0] == 0:
        runner.logger.info("resumed %s: epoch %d, iter %d", source, runner.epoch, runner.iter)


def restore_hook(runner: BaseRunner, hook: Hook) -> None:
    """Give a hook the state that the checkpoint keeps under its key, if any waits for it."""
    if not runner._hook_states:
        return
    for key, each in _keyed(runner.hooks).items():
        if each is hook and key in runner._hook_states:
            hook.load_state_dict(runner._hook_states.pop(key))


def _keyed(hooks: list[Hook]) -> dict[str, Hook]:
    """Hooks by class name and number among those of the class."""
    keyed: dict[str, Hook] = {}
    seen: dict[str, int] = {}
    for hook in hooks:
        name = type(hook).__name__
        keyed[f"{name}/{seen.get(name, 0)}"] = hook
        seen[name] = seen.get(name, 0) + 1
    return keyed


def _check(checkpoint: dict[str, Any], source: Any) -> dict[str, Any]:
    """The hookrun part of a checkpoint, empty for a file of MMCV's."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not all(
        isinstance(meta.get(key), int) for key in ("epoch", "iter")
    ):
        raise ValueError(
            f"{str(source)!r} cannot be resumed: it does not say which epoch and iteration it was "
            "saved at (meta['epoch'], meta['iter']). load_checkpoint() loads weights only."
        )
    own = checkpoint.get("hookrun", {})
    if own.get("format", 0) > ckpt.FORMAT:
        raise ValueError(
            f"{str(source)!r} has format {own['format']}, and this hookrun reads up to "
            f"{ckpt.FORMAT}: install a newer one"
        )
    return dict(own)


def _check_weights(runner: BaseRunner, weights: Mapping[str, Any], source: Any) -> None:
    mismatch = ckpt.compare(unwrap_model(runner.model), weights)
    if mismatch.missing or mismatch.shapes:
        mismatch.unexpected = [n for n in mismatch.unexpected if not n.startswith("ema_")]
        raise ValueError(
            f"{str(source)!r} is not a checkpoint of this model:\n{mismatch}\n"
            "load_checkpoint() loads the weights that fit."
        )


def _load_optimizer(runner: BaseRunner, state: Any, source: Any) -> None:
    if isinstance(runner.optimizer, Optimizer):
        pairs = {"": (runner.optimizer, state)}
    elif isinstance(runner.optimizer, Mapping):
        if not isinstance(state, Mapping) or set(state) != set(runner.optimizer):
            raise ValueError(
                f"{str(source)!r} has not the runner's optimizers {sorted(runner.optimizer)}, but "
                f"{sorted(state) if isinstance(state, Mapping) else type(state).__name__}"
            )
        pairs = {name: (each, state[name]) for name, each in runner.optimizer.items()}
    else:
        raise ValueError(
            f"{str(source)!r} has optimizer state, but the runner has no optimizer; "
            "resume_optimizer=False leaves it out"
        )
    for name, (optimizer, each) in pairs.items():
        ours = [len(group["params"]) for group in optimizer.param_groups]
        theirs = [len(group["params"]) for group in each.get("param_groups", [])]
        if ours != theirs:
            raise ValueError(
                f"{str(source)!r}: the optimizer {name!r} has groups of {theirs} parameters in the "
                f"file and of {ours} in the run"
            )
    for optimizer, each in pairs.values():
        optimizer.load_state_dict(each)


def _uncounted_iterations(runner: BaseRunner, own: Mapping[str, Any]) -> int:
    """MMCV's IterBasedRunner saves before it counts the iteration whose result it saves."""
    return 1 if not own and runner.max_epochs is None else 0
