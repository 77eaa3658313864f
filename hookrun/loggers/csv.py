"""CsvLoggerHook: scalars as a table that spreadsheets and pandas read."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hookrun.core import HOOKS, starts_with_defaults
from hookrun.storage import atomic_write

from .back_end import BackEnd, RunInfo
from .client_logger import ClientLoggerHook

_FIRST = ("step", "epoch")


class CsvBackEnd(BackEnd):
    """Writes one file, with a row per call and a column per tag.

    A tag that comes up later becomes a new column at the end: the file is then written anew.

    Args:
        filename: of the file in ``work_dir``; by default ``TIMESTAMP.csv``.
    """

    allow_text: ClassVar[bool] = True

    def __init__(self, filename: str | None = None) -> None:
        self.filename = filename
        self.path: Path | None = None
        self._columns: list[str] = list(_FIRST)

    def open(self, run: RunInfo) -> None:
        self.path = Path(run.folder(self.filename or f"{run.timestamp}.csv"))
        self._columns = list(_FIRST)
        if self.path.exists() and self.path.stat().st_size:
            with self.path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file))
        else:
            self._write_anew([])

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        assert self.path is not None
        row = {"step": step, "epoch": epoch, **values}
        added = [name for name in row if name not in self._columns]
        if added:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            self._columns += added
            self._write_anew([[*each, *[""] * len(added)] for each in rows])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([row.get(name, "") for name in self._columns])

    def _write_anew(self, rows: list[list[str]]) -> None:
        assert self.path is not None
        text = _as_csv([self._columns, *rows])
        with atomic_write(self.path) as file:
            file.write(text.encode())


def _as_csv(rows: list[list[str]]) -> str:
    import io

    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


@HOOKS.register_module(shipped=True)
@starts_with_defaults()
class CsvLoggerHook(ClientLoggerHook):
    """Writes a table ``work_dir/TIMESTAMP.csv``: columns ``step``, ``epoch`` and one per tag.

    A run without a ``work_dir`` has it in the current folder. Each line of the log is a row; tags
    that it does not have are left empty. Numbers are written with all their digits.

    Args:
        filename: another name of the file, relative to ``work_dir``. If there is such a file, it is
            continued.
        interval, ignore_last, reset_flag, by_epoch, on_error: see `LoggerHook`.
        timeout: see `ClientLoggerHook`.

    Raises:
        TypeError: ``filename`` is no string.
    """

    def __init__(
        self,
        filename: str | None = None,
        interval: int = 10,
        ignore_last: bool = True,
        reset_flag: bool = False,
        by_epoch: bool = True,
        *,
        on_error: str = "disable",
        timeout: float = 60.0,
    ) -> None:
        if filename is not None and not isinstance(filename, str):
            raise TypeError(f"CsvLoggerHook: filename must be a string, not {filename!r}")
        back_end = CsvBackEnd(filename)
        super().__init__(back_end, interval, ignore_last, reset_flag, by_epoch, on_error, timeout)
