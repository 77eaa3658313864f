"""A step of the model, and whether the native loop may be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hookrun import _native
from hookrun.core.overrides import overrides


def can_run_natively(runner: Any, base: type, method: str) -> bool:
    """Whether the native loop may be used: the runner has the native dispatcher and no
    ``batch_processor``, and overrides neither ``method`` of ``base`` nor ``call_hook``.
    """
    return (
        runner.dispatches_natively
        and runner.batch_processor is None
        and not overrides(runner, _native.RunState, ("call_hook",))
        and not overrides(runner, base, (method,))
    )


def take_step(
    runner: Any, data_batch: Any, train: bool, optimizer: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """One step of the model, as in the native loop; sets ``outputs`` and updates the log buffer.

    Args:
        runner: the runner.
        data_batch: the batch.
        train: whether it is a training step, not a validation step.
        optimizer: the argument for the optimizer in a tuple; empty to pass none.
        kwargs: more arguments for the model.

    Raises:
        TypeError: the model returned no dict.
    """
    if runner.batch_processor is not None:
        source = "batch_processor"
        outputs = runner.batch_processor(runner.model, data_batch, train_mode=train, **kwargs)
    else:
        name = "train_step" if train else "val_step"
        source = f"{type(runner.model).__name__}.{name}"
        outputs = getattr(runner.model, name)(data_batch, *optimizer, **kwargs)
    if not isinstance(outputs, dict):
        raise TypeError(
            f"{source}() must return a dict with the key 'loss' (and optionally 'log_vars' and "
            f"'num_samples'), but it returned {type(outputs).__name__}"
        )
    if "log_vars" in outputs:
        runner.log_buffer.update(outputs["log_vars"], outputs.get("num_samples", 1))
    runner.outputs = outputs
