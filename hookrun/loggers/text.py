"""TextLoggerHook: logs to ``runner.logger`` and to files."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.core.errors import check_flags, path_or_none
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.printable import printable
from hookrun.storage import FileClient, open_own

from .arguments import check_suffixes
from .logger_hook import LoggerHook
from .message_file import MessageFile

_PREFIX_FIELDS = frozenset({"mode", "iter", "lr", "time", "data_time", "memory", "epoch"})
_FIELDS = _PREFIX_FIELDS | {"eta"}


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class TextLoggerHook(LoggerHook):
    """Writes lines of text to ``runner.logger``, and the same values as JSON to a file.

    The file is ``work_dir/TIMESTAMP.log.json`` with one JSON object per line, or
    ``TIMESTAMP_2.log.json`` if another run has written that file. Beside it, ``TIMESTAMP.log`` has
    all that ``runner.logger`` says during a run, unless the logger writes that file already.

    A line has the fields ``mode``, ``epoch``, ``iter`` (for an evaluation, the length of its
    loader) and ``lr``, and if they are known ``time``, ``data_time`` and ``memory`` (the peak of
    CUDA memory, in MiB). A reported value with one of these names, or ``eta``, is written with an
    underscore at the end of its name. The ETA is the mean time per training iteration of this run,
    times the number of remaining iterations.

    Args:
        by_epoch: whether iterations are counted within the epoch (True) or over the run (False).
        interval: the number of iterations from one line to the next.
        ignore_last: whether to skip the last iterations of an epoch if they are fewer than
            ``interval``.
        reset_flag: only for compatibility with MMCV's signature; see `LoggerHook`.
        interval_exp_name: the number of iterations after which ``meta['exp_name']`` is repeated.
        out_dir: after the run, the logs are copied to ``out_dir/basename(work_dir)``.
        out_suffix: the suffixes of the files that are copied.
        keep_local: whether copied files stay in ``work_dir`` too.
        file_client_args: the storage of ``out_dir``, such as ``dict(backend="s3")``; see
            `FileClient`. By default that of its URI, or the local disk.
        on_error: what to do if a file cannot be written; see `LoggerHook`.

    Raises:
        ValueError: ``file_client_args`` without ``out_dir``, or an unknown storage.
        TypeError: ``out_dir`` is not a path, or ``out_suffix`` is neither a string nor a tuple or
            list of strings.
    """

    def __init__(
        self,
        by_epoch: bool = True,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        interval_exp_name: int = 1000,
        out_dir: str | None = None,
        out_suffix: str | tuple[str, ...] = (".log.json", ".log", ".py"),
        keep_local: bool = True,
        file_client_args: Mapping[str, Any] | None = None,
        *,
        on_error: str = "disable",
    ) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch, on_error)
        if file_client_args is not None and out_dir is None:
            raise ValueError("TextLoggerHook: file_client_args needs out_dir")
        path_or_none("TextLoggerHook", out_dir=out_dir)
        check_flags("TextLoggerHook", keep_local=keep_local)
        if not isinstance(interval_exp_name, int):
            raise TypeError(
                f"TextLoggerHook: interval_exp_name must be an int, not {interval_exp_name!r}"
            )
        self.interval_exp_name = interval_exp_name
        self.out_dir = out_dir
        self.out_suffix = check_suffixes("TextLoggerHook", out_suffix)
        self.keep_local = keep_local
        self.file_client_args = file_client_args
        self.file_client = FileClient.infer_client(file_client_args, out_dir)
        self.time_sec_tot = 0.0
        self.start_iter = 0
        self._timed_iters = 0.0
        # The log buffer's total seconds and iterations that time_sec_tot includes already.
        self._counted_totals = (0.0, 0.0)
        self.json_log_path: str | None = None
        self._file: TextIO | None = None
        self._messages = MessageFile()

    def record_messages(self, runner: Any) -> None:
        """Begin to write ``TIMESTAMP.log``; called before the first message of a run."""
        if self.enabled and runner.rank == 0 and runner.work_dir is not None:
            with self.isolated(runner):
                path = os.path.join(runner.work_dir, f"{runner.timestamp}.log")
                self._messages.open(runner, path, partial(self._raise_isolated, runner))

    def _raise_isolated(self, runner: Any, error: Exception) -> None:
        with self.isolated(runner):
            raise error

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self.start_iter = runner.iter
        self.time_sec_tot = self._timed_iters = 0.0
        if runner.rank == 0 and runner.work_dir is not None:
            self.json_log_path = os.path.join(runner.work_dir, f"{runner.timestamp}.log.json")
        if runner.meta is not None:
            with self.isolated(runner):
                self._dump_log(runner.meta, runner)

    def before_epoch(self, runner: Any) -> None:
        super().before_epoch(runner)
        self._counted_totals = (0.0, 0.0)

    def after_train_epoch(self, runner: Any) -> None:
        self._add_times(runner)  # of the last iterations too, which may not be logged
        super().after_train_epoch(runner)

    def after_run(self, runner: Any) -> None:
        if self.out_dir is not None and runner.rank == 0 and runner.work_dir is not None:
            self._close_file()
            self._messages.close()
            with self.isolated(runner):
                self._copy_logs(runner)

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._close_file()
        self._messages.close()

    def log(self, runner: Any) -> dict[str, Any]:
        """Write the output of the log buffer; returns what was written."""
        own, values = self.get_output(runner, _FIELDS)
        entry: dict[str, Any] = {
            "mode": self.get_mode(runner),
            "epoch": self.get_epoch(runner),
            "iter": own.pop("eval_iter_num", None) or self.get_iter(runner, inner_iter=True),
        }
        rates = runner.current_lr() if runner.optimizer is not None else []
        if isinstance(rates, dict):
            entry["lr"] = {name: float(groups[0]) for name, groups in rates.items()}
        elif rates:
            entry["lr"] = float(rates[0])
        if "time" in own and torch.cuda.is_available():
            entry["memory"] = torch.cuda.max_memory_allocated() // (1024 * 1024)
        entry.update(own)
        entry.update(values)
        self._log_info(entry, runner)
        self._dump_log(entry, runner)
        return entry

    def _log_info(self, entry: Mapping[str, Any], runner: Any) -> None:
        """Write the line of text."""
        if runner.meta is not None and "exp_name" in runner.meta:
            at_epoch_end = self.by_epoch and self.end_of_epoch(runner)
            if at_epoch_end or self.every_n_iters(runner, self.interval_exp_name):
                runner.logger.info("Exp name: %s", printable(str(runner.meta["exp_name"])))
        is_train = entry["mode"] == "train"
        prefix = self._train_prefix(entry, runner) if is_train else self._val_prefix(entry)
        items = [
            f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}"
            for name, value in entry.items()
            if name not in _PREFIX_FIELDS
        ]
        runner.logger.info("%s", prefix + printable(", ".join(items)))

    def _train_prefix(self, entry: Mapping[str, Any], runner: Any) -> str:
        if self.by_epoch:
            length = _format_length(runner.data_loader)
            prefix = f"Epoch [{entry['epoch']}][{entry['iter']}/{length}]\t"
        else:
            prefix = f"Iter [{entry['iter']}/{runner.max_iters}]\t"
        rates = entry.get("lr")
        if isinstance(rates, dict):
            named = " ".join(f"lr_{name}: {rate:.3e}" for name, rate in rates.items())
            prefix += f"{printable(named)}, "
        elif rates is not None:
            prefix += f"lr: {rates:.3e}, "
        if "time" in entry:
            prefix += self._format_timing(entry, runner)
        if "memory" in entry:
            prefix += f"memory: {entry['memory']}, "
        return prefix

    def _format_timing(self, entry: Mapping[str, Any], runner: Any) -> str:
        data_time = entry.get("data_time", 0.0)
        text = f"time: {_seconds(entry['time'])}, data_time: {_seconds(data_time)}, "
        if isinstance(runner.log_buffer, LogBuffer):
            self._add_times(runner)
        else:
            self.time_sec_tot += entry["time"] * self.interval
            self._timed_iters += self.interval
        if runner.max_iters is None or self._timed_iters == 0:
            return text
        left = max(runner.max_iters - LoggerHook.get_iter(self, runner), 0)
        eta = datetime.timedelta(seconds=int(left * self.time_sec_tot / self._timed_iters))
        return f"eta: {eta}, {text}"

    def _add_times(self, runner: Any) -> None:
        """Add the times of the iterations since the last call to ``time_sec_tot``."""
        if not isinstance(runner.log_buffer, LogBuffer):
            return
        seconds, iters = self._counted_totals
        self._counted_totals = total, count = runner.log_buffer.totals("time")
        if count < iters:  # the log buffer has been cleared since
            seconds = iters = 0.0
        self.time_sec_tot += max(total - seconds, 0.0)
        self._timed_iters += count - iters

    def _val_prefix(self, entry: Mapping[str, Any]) -> str:
        if self.by_epoch:
            return f"Epoch({entry['mode']}) [{entry['epoch']}][{entry['iter']}]\t"
        return f"Iter({entry['mode']}) [{entry['iter']}]\t"

    def _dump_log(self, entry: Mapping[str, Any], runner: Any) -> None:
        """Append the line of JSON."""
        if runner.rank != 0 or self.json_log_path is None:
            return
        if self._file is None:
            self._file = open_own(runner, self.json_log_path)
            self.json_log_path = self._file.name
        rounded = {name: _round(value) for name, value in entry.items()}
        self._file.write(json.dumps(rounded, default=_as_json) + "\n")
        self._file.flush()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_file": None}

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _copy_logs(self, runner: Any) -> None:
        source, client = Path(runner.work_dir), self.file_client
        target = client.join_path(self.out_dir or "", source.name)
        for path in sorted(source.rglob("*")):
            if not path.is_file() or not path.name.endswith(self.out_suffix):
                continue
            if client.is_local and path.resolve().is_relative_to(Path(target).resolve()):
                continue
            copy = client.join_path(target, path.relative_to(source))
            client.put(path.read_bytes(), copy)
            runner.logger.info("copied %s to %s", path, copy)
            if not self.keep_local:
                path.unlink()


def _format_length(loader: Any) -> int | str:
    try:
        return len(loader)
    except TypeError:
        return "?"


def _seconds(seconds: float) -> str:
    """With three decimals, as MMCV writes it; two digits of what is below a millisecond."""
    return f"{seconds:.3f}" if seconds >= 0.001 or seconds == 0 else f"{seconds:.2g}"


def _as_json(value: Any) -> Any:
    """Arrays and tensors as numbers or lists; anything else as a string."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _round(value: Any) -> Any:
    if isinstance(value, float):  # small learning rates and times must not become 0
        return round(value, 5) if abs(value) >= 0.001 else float(f"{value:.5g}")
    if isinstance(value, (list, tuple)):
        return [_round(each) for each in value]
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    return value
