"""What a progress bar shows of a run, read without disturbing it."""

from __future__ import annotations

import datetime
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hookrun.core.sync_guard import may_sync

_WINDOW_SECONDS = 30.0
COLUMNS = 80
"""Of a terminal, and of a notebook's output."""


@dataclass(frozen=True)
class Progress:
    """The progress of a run at one moment; None where something is unknown.

    Attributes:
        phase: ``training``, ``validating`` or ``evaluating``.
        epoch, max_epochs: the current epoch, counted from 1, and how many there are.
        done, total: iterations of the run.
        inner: batches done and in total of the validation or evaluation at work; None in training.
        elapsed, left: seconds.
        loss, lr: the latest that are known.
        samples_per_second: of all ranks.
        memory: in MiB: the peak allocated on the GPU, or without one what the process has.
    """

    phase: str
    epoch: int
    max_epochs: int | None
    done: int
    total: int | None
    inner: tuple[int, int | None] | None
    elapsed: float
    left: float | None
    loss: float | None
    lr: float | None
    samples_per_second: float | None
    memory: float | None

    @property
    def title(self) -> str:
        """Where the run is."""
        if self.max_epochs is None:
            return "training"
        return f"epoch {min(self.epoch, self.max_epochs)}/{self.max_epochs}"

    @property
    def count(self) -> str:
        """The iterations of the run."""
        return f"{self.done}/{'?' if self.total is None else self.total}"

    @property
    def times(self) -> str:
        """The elapsed time and the rest."""
        return f"{format_seconds(self.elapsed)} {self.eta}"

    @property
    def eta(self) -> str:
        """The rest of the time."""
        return f"eta {'?' if self.left is None else format_seconds(self.left)}"

    @property
    def values(self) -> str:
        """Loss, learning rate, speed and memory, as far as they are known."""
        return "  ".join([*self._values(), *self._memory()])

    @property
    def line(self) -> str:
        """All of it in one line; memory and elapsed time only if 80 columns have room for them."""
        where = [self.title, self.count]
        if self.inner is not None:
            where.append(f"{self.phase} {count_of(*self.inner)}")
        lines = [
            "  ".join([*where, times, *self._values(), *memory])
            for times, memory in ((self.times, self._memory()), (self.times, []), (self.eta, []))
        ]
        return next((line for line in lines if len(line) <= COLUMNS), lines[-1])

    def _values(self) -> list[str]:
        parts = []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4g}")
        if self.lr is not None:
            parts.append(f"lr {self.lr:.3g}")
        if self.samples_per_second is not None:
            digits = 0 if self.samples_per_second >= 100 else 1
            parts.append(f"{self.samples_per_second:.{digits}f} samples/s")
        return parts

    def _memory(self) -> list[str]:
        return [] if self.memory is None else [f"{self.memory:.0f} MiB"]


def count_of(done: int, total: int | None) -> str:
    """Such as ``3/10``."""
    return f"{done}/{'?' if total is None else total}"


def format_seconds(seconds: float) -> str:
    """Such as ``0:01:05``."""
    return str(datetime.timedelta(seconds=int(seconds)))


class ProgressReader:
    """Reads the progress of a run; may be used in another thread than the run.

    It never waits for a device: a loss on a GPU is shown once a logger has read it.

    Args:
        runner: the run.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._begin = time.monotonic()
        self._first = runner.iter
        self._latest: deque[tuple[float, int]] = deque([(self._begin, runner.iter)])
        self._speed: float | None = None
        self._totals = (0.0, 0.0)
        self._loss: float | None = None
        self._is_logged = False  # whether the log buffer has given losses
        self.is_evaluating = False
        self.is_finished = False
        self.counted: CountedLoader | None = None
        """The loader of the evaluation at work."""

    def read(self) -> Progress:
        """The progress now."""
        runner, now = self._runner, time.monotonic()
        done, total = runner.iter, runner.max_iters
        trained = done - self._first
        left = None
        if total is not None and trained > 0:
            left = max(total - done, 0) * (now - self._begin) / trained
        phase, inner = self._phase()
        self._measure_speed(now, done, phase)
        return Progress(
            phase=phase,
            epoch=runner.epoch + 1,
            max_epochs=runner.max_epochs,
            done=done,
            total=total,
            inner=inner,
            elapsed=now - self._begin,
            left=0.0 if total is not None and done >= total else left,
            loss=self._read_loss(),
            lr=_learning_rate(runner.optimizer),
            samples_per_second=self._samples_per_second(),
            memory=memory_in_use(),
        )

    def _measure_speed(self, now: float, done: int, phase: str) -> None:
        """Measure the iterations per second of the latest half minute of training."""
        if phase != "training":
            self._latest.clear()
        self._latest.append((now, done))
        while len(self._latest) > 2 and now - self._latest[1][0] > _WINDOW_SECONDS:
            self._latest.popleft()
        then, count = self._latest[0]
        if now > then and done > count:
            self._speed = (done - count) / (now - then)

    def _samples_per_second(self) -> float | None:
        outputs = getattr(self._runner, "outputs", None)
        samples = outputs.get("num_samples") if isinstance(outputs, Mapping) else None
        if self._speed is None or not isinstance(samples, int):
            return None
        return self._speed * samples * int(getattr(self._runner, "world_size", 1))

    def _phase(self) -> tuple[str, tuple[int, int | None] | None]:
        runner, counted = self._runner, self.counted
        if self.is_finished:
            return "training", None
        if self.is_evaluating:
            return "evaluating", None if counted is None else (counted.done, counted.total)
        if runner.mode == "val":
            return "validating", (runner.inner_iter + 1, runner.epoch_length)
        return "training", None

    def _read_loss(self) -> float | None:
        """The average of the values that the log buffer has got or read since the last time; if it
        has none, because nothing is logged, the loss of the last step if it is on the host.
        """
        runner = self._runner
        totals = getattr(runner.log_buffer, "totals", None)
        if runner.mode == "val" or totals is None:
            return self._loss
        (before, known), (now, count) = self._totals, totals("loss")
        self._totals = now, count
        if count < known:  # the buffer has been cleared
            before, known = 0.0, 0.0
        outputs = getattr(runner, "outputs", None)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if count > known:
            self._loss, self._is_logged = (now - before) / (count - known), True
        elif (
            not self._is_logged
            and isinstance(loss, Tensor)
            and loss.device.type == "cpu"
            and loss.numel() == 1
        ):
            self._loss = _value(loss)
        return self._loss


class CountedLoader:
    """A loader that counts the batches that are taken from it."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self.done = 0
        self.total: int | None
        try:
            self.total = len(loader)  # type: ignore[arg-type]  # it may have none
        except TypeError:
            self.total = None

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            self.done += 1


@may_sync
def _value(loss: Tensor) -> float:
    return float(loss.detach())


def memory_in_use() -> float | None:
    """MiB: the peak allocated on the GPU, or the memory of this process if there is none."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no type for it
        return torch.cuda.max_memory_allocated() / (1 << 20)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except OSError:  # not on Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _learning_rate(optimizer: Any) -> float | None:
    """That of the first group; None if reading it would wait for a device."""
    if isinstance(optimizer, Mapping):
        optimizer = next(iter(optimizer.values()), None)
    groups = getattr(optimizer, "param_groups", None)
    lr = groups[0].get("lr") if groups else None
    if lr is None or (isinstance(lr, Tensor) and lr.device.type != "cpu"):
        return None
    return float(lr)
