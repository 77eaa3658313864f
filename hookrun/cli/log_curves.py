"""Reading what TextLoggerHook wrote: ``.log.json`` files, as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hookrun.storage import open_file

ENDING = ".log.json"
# Of each line, what is neither a loss nor a metric.
_FIELDS = {"mode", "epoch", "iter", "time", "data_time", "memory", "eta"}
Points = list[tuple[float, float]]


@dataclass
class RunLog:
    """The curves of a run.

    Attributes:
        curves: (x, value) by the value's name and mode, ``"train"`` or ``"val"``.
        unit: what x counts, ``"epoch"`` or ``"iteration"``.
        epoch_length: iterations of an epoch, where x counts epochs.
        broken: the number of lines that are no entry of a log.
    """

    curves: dict[tuple[str, str], Points] = field(default_factory=dict)
    unit: str = "iteration"
    epoch_length: int = 1
    broken: int = 0

    def points(self, name: str, mode: str, unit: str) -> Points:
        """A curve with x in a unit; in ``"iteration"`` for any run."""
        scale = self.epoch_length if unit != self.unit else 1
        return [(x * scale, value) for x, value in self.curves.get((name, mode), [])]


def read_run(source: str) -> RunLog:
    """The curves of a ``.log.json`` file, or of all in a folder, taken as one run.

    Where a resumed run repeats what an earlier file has, the later file counts.

    Raises:
        ValueError: a folder without logs, or logs without values.
        OSError: nothing is there, or it cannot be read.
    """
    path = Path(source)
    files = sorted(path.glob(f"*{ENDING}")) if path.is_dir() else [path]
    if not files:
        raise ValueError(
            f"{source} holds no logs: TextLoggerHook writes *{ENDING} into a run's work_dir"
        )
    log = RunLog()
    entries = [list(_entries(each, log)) for each in files]
    epochs = _count_epochs(each for part in entries for each in part)
    if epochs is not None:
        log.unit, log.epoch_length = "epoch", epochs
    for part in entries:
        curves: dict[tuple[str, str], Points] = {}
        for x, entry in _placed(part, epochs):
            for name, value in _values(entry):
                curves.setdefault((name, entry["mode"]), []).append((x, value))
        for key, points in curves.items():
            start = points[0][0]
            earlier = [each for each in log.curves.get(key, ()) if each[0] < start]
            log.curves[key] = earlier + points
    if not log.curves:
        raise ValueError(f"{source} has no values to draw (broken lines: {log.broken})")
    return log


def _entries(path: Path, log: RunLog) -> Iterator[dict[str, Any]]:
    """The entries of a file; counts the lines that are none. Lines with a run's meta are passed."""
    with open_file(path) as file:
        for line in file:
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                log.broken += 1
                continue
            if not isinstance(entry, dict):
                log.broken += 1
            elif "mode" not in entry:
                continue
            elif entry["mode"] in ("train", "val") and _is_count(entry, "epoch", "iter"):
                yield entry
            else:
                log.broken += 1


def _is_count(entry: dict[str, Any], *keys: str) -> bool:
    return all(type(entry.get(key)) is int and entry[key] >= 0 for key in keys)


def _count_epochs(entries: Iterable[dict[str, Any]]) -> int | None:
    """The highest iteration within an epoch; None where iterations count through the run.

    They do if they never begin again in a later epoch. The length of an epoch is in no log; the
    highest iteration that was logged is close to it.
    """
    lengths: dict[int, int] = {}
    starts: dict[int, int] = {}
    for entry in entries:
        if entry["mode"] == "train":
            epoch, number = entry["epoch"], entry["iter"]
            lengths[epoch] = max(lengths.get(epoch, 0), number)
            starts[epoch] = min(starts.get(epoch, number), number)
    later = sorted(starts)[1:]
    if not later:
        return None
    length = max(lengths.values())
    return length if any(starts[each] <= lengths[min(starts)] for each in later) else None


def _placed(
    entries: Iterable[dict[str, Any]], epoch_length: int | None
) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each entry with its x. An evaluation has that of the training before it.

    After the last training of an epoch that is the epoch's end, which may not be logged.
    """
    entries = list(entries)
    ends = {each["epoch"]: at for at, each in enumerate(entries) if each["mode"] == "train"}
    latest = 0.0
    for at, entry in enumerate(entries):
        if entry["mode"] == "train":
            done = entry["iter"]
            latest = done if epoch_length is None else entry["epoch"] - 1 + done / epoch_length
        elif epoch_length is not None and at > ends.get(entry["epoch"], 0):
            latest = entry["epoch"]
        yield latest, entry


def _values(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of an entry by name; of several optimizers, a learning rate for each."""
    for name, value in entry.items():
        named = value if name == "lr" and isinstance(value, dict) else {"": value}
        for suffix, each in named.items():
            is_number = isinstance(each, (int, float)) and not isinstance(each, bool)
            is_shown = name not in _FIELDS and (name != "lr" or entry["mode"] == "train")
            if is_number and is_shown and math.isfinite(each):
                yield (f"{name} {suffix}" if suffix else name), float(each)
