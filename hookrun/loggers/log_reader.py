"""What a logger writes: mode, epoch, iteration, learning rates and the log buffer's output."""

from __future__ import annotations

import numbers
from collections.abc import Collection
from typing import Any

import numpy as np
from torch import Tensor

from hookrun.core.log_buffer import LogBuffer
from hookrun.core.log_output import EVALUATED, has_averages, split_output

# Events between two iterations; None stands for no event. At these `runner.iter` is the number of
# finished iterations; at all others the current iteration is not counted yet.
_BETWEEN_ITERATIONS = (
    *(None, "before_run", "before_epoch", "before_train_epoch", "before_train_iter"),
    *("after_train_epoch", "after_epoch", "after_run"),
)


class LogReader:
    """The methods of a logger hook that collect what to write; each of them may be overridden."""

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
        """``'train'`` or ``'val'``: what the output of the log buffer is of.

        Averages of training iterations are ``'train'``. Averages of a validation, and values that
        other hooks wrote to the output, such as the scores of an evaluation, are ``'val'``.
        """
        if runner.mode == "train":
            return "train" if has_averages(runner) else "val"
        if runner.mode == "val":
            return "val"
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_epoch(self, runner: Any) -> int:
        """The number of the epoch to write, from 1; before an epoch, that of the previous one."""
        if runner.mode == "train":
            before_epoch = getattr(runner, "current_event", None) == "before_train_epoch"
            return int(runner.epoch if before_epoch else runner.epoch + 1)
        if runner.mode == "val":  # a runner with epochs has already counted the training epoch
            return int(runner.epoch if has_epochs(runner) else runner.epoch + 1)
        raise ValueError(f"runner.mode should be 'train' or 'val', not {runner.mode!r}")

    def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
        """The number of the training iteration to write, from 1.

        Between two iterations it is that of the previous one. (MMCV's number is too high by 1 in a
        validation and at the end of an epoch.)

        Args:
            runner: the runner.
            inner_iter: whether to count within the epoch, if the logger counts by epoch.
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
        """``momentum`` of the first group, or ``momentum/NAME`` per optimizer.

        Empty where the runner has no optimizer.
        """
        if runner.optimizer is None:
            return {}
        return _first_of_groups("momentum", runner.current_momentum())

    def get_output(
        self, runner: Any, fields: Collection[str] = ()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The output of the log buffer, split into hookrun's own values and the reported ones.

        Args:
            runner: the runner whose log buffer is read.
            fields: names that the back end uses for fields of its own, such as ``lr``.

        Returns:
            Two dicts. The first has ``time`` and ``data_time`` of the timer and ``eval_iter_num``,
            the length of the loader that was evaluated, as far as they are known. The second has
            what the model and evaluations report. Reported values whose name is one of these or in
            ``fields`` get an underscore at the end of the name (``lr_``), with one warning.
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
                "%r is logged as %r, because %r is a field of each log line: report the value "
                "under another name",
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
        """What a back end should write, by name: the output, the learning rates and the momentums.

        Args:
            runner: the runner whose log buffer is read.
            allow_scalar: whether to include numbers.
            allow_text: whether to include strings.
            add_mode: whether names are prefixed with ``train/`` or ``val/``.
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
    """Whether the runner counts epochs; ``max_epochs`` of an IterBasedRunner is None."""
    return getattr(runner, "max_epochs", 0) is not None


def _first_of_groups(name: str, values: Any) -> dict[str, float]:
    if isinstance(values, dict):
        return {f"{name}/{key}": groups[0] for key, groups in values.items()}
    return {name: values[0]}
