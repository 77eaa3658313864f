"""What a logger reads of a run: mode, epoch, iteration, rates and the log buffer's output."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any

import numpy as np
from torch import Tensor

from hookrun.core.log_buffer import LogBuffer
from hookrun.core.log_output import EVALUATED, has_averages, split_output

# Events between two iterations, None for no event at all: `runner.iter` counts all that are done.
# In the others, the one at work is not counted yet.
_BETWEEN_ITERATIONS = (
    *(None, "before_run", "before_epoch", "before_train_epoch", "before_train_iter"),
    *("after_train_epoch", "after_epoch", "after_run"),
)


class LogReader:
    """The part of a logger hook that reads what is to be written; any method may be overridden."""

    by_epoch: Any

    @staticmethod
    def is_scalar(val: Any, include_np: bool = True, include_torch: bool = True) -> bool:
        """Whether a value is a single number.

        Args:
            val: anything.
            include_np: whether 0-dim NumPy arrays count.
            include_torch: whether tensors with one element count, 0-dim ones included.
        """
        if isinstance(val, numbers.Number):
            return True
        if isinstance(val, np.ndarray):
            return include_np and val.ndim == 0
        if isinstance(val, Tensor):
            return include_torch and val.numel() == 1
        return False

    def get_mode(self, runner: Any) -> str:
        """``'train'`` for averages of training, ``'val'`` for those of a validation and for what
        hooks such as an evaluation have put into the output.
        """
        if runner.mode == "train":
            return "train" if has_averages(runner) else "val"
        if runner.mode == "val":
            return "val"
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_epoch(self, runner: Any) -> int:
        """The epoch to write, counted from 1; before an epoch, the one that is finished."""
        if runner.mode == "train":
            before_epoch = getattr(runner, "current_event", None) == "before_train_epoch"
            return int(runner.epoch if before_epoch else runner.epoch + 1)
        if runner.mode == "val":  # a runner with epochs has counted the training epoch already
            return int(runner.epoch if has_epochs(runner) else runner.epoch + 1)
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
        """The training iteration to write, counted from 1; between two, the one that is finished.

        On request, and if by epoch, the iteration within the epoch instead. (MMCV's is one too many
        in a validation and at the end of an epoch.)
        """
        if self.by_epoch and inner_iter:
            return int(runner.inner_iter + 1)
        between = getattr(runner, "current_event", "after_train_iter") in _BETWEEN_ITERATIONS
        return int(runner.iter if between or runner.mode == "val" else runner.iter + 1)

    def get_lr_tags(self, runner: Any) -> dict[str, float]:
        """``learning_rate`` of the first group, or ``learning_rate/NAME`` per optimizer.

        Empty where the runner has no optimizer.
        """
        if runner.optimizer is None:
            return {}
        return _first_of_groups("learning_rate", runner.current_lr())

    def get_momentum_tags(self, runner: Any) -> dict[str, float]:
        """``momentum`` of the first group, or ``momentum/NAME`` per optimizer, as above."""
        if runner.optimizer is None:
            return {}
        return _first_of_groups("momentum", runner.current_momentum())

    def get_output(
        self, runner: Any, fields: Collection[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The log buffer's output, taken apart into what it says of itself and what to log.

        Args:
            runner: whose log buffer is read.
            fields: names that a line of the back end has for something else, such as ``lr``.

        Returns:
            The timer's ``time`` and ``data_time``, and ``eval_iter_num``, the length of the loader
            that was evaluated, as far as there are such; and what the model and evaluations report.
            Values with a name of these or of ``fields`` get an underscore behind it (``lr_``),
            which is warned about once.
        """
        buffer = runner.log_buffer
        own, values, renamed = split_output(dict(buffer.output), has_averages(runner), fields)
        is_ours = isinstance(buffer, LogBuffer)
        if is_ours:
            renamed.update(buffer.renamed())
        warned = buffer.warned if is_ours else vars(self).setdefault("_warned", set())
        for name in sorted(renamed.keys() - warned):
            warned.add(name)
            runner.logger.warning(
                "%r is logged as %r, for lines of the log have %r for something else: "
                "report it under another name",
                name,
                renamed[name],
                name,
            )
        return own, values

    def get_loggable_tags(
        self,
        runner: Any,
        allow_scalar: bool = True,
        allow_text: bool = False,
        add_mode: bool = True,
        tags_to_skip: tuple[str, ...] = ("time", "data_time"),
    ) -> dict[str, Any]:
        """What a back end should write: the output, the learning rates and the momentums.

        Args:
            runner: whose log buffer is read.
            allow_scalar: whether numbers are wanted.
            allow_text: whether strings are wanted.
            add_mode: whether names start with ``train/`` or ``val/``.
            tags_to_skip: names to leave out.
        """
        rates = {**self.get_lr_tags(runner), **self.get_momentum_tags(runner)}
        own, values = self.get_output(runner, () if add_mode else rates)
        own.pop(EVALUATED, None)
        prefix = f"{self.get_mode(runner)}/" if add_mode and (own or values) else ""
        tags: dict[str, Any] = {}
        for name, value in {**own, **values}.items():
            if name in tags_to_skip:
                continue
            if self.is_scalar(value) and not allow_scalar:
                continue
            if isinstance(value, str) and not allow_text:
                continue
            tags[prefix + name] = value
        return {**tags, **rates}


def has_epochs(runner: Any) -> bool:
    """Whether the runner goes by epochs: one that goes by iterations has no limit to them."""
    return getattr(runner, "max_epochs", 0) is not None


def _first_of_groups(name: str, values: Any) -> dict[str, float]:
    if isinstance(values, dict):
        return {f"{name}/{key}": groups[0] for key, groups in values.items()}
    return {name: values[0]}
