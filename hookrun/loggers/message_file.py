"""A file of all that a runner's logger says during a run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any, TextIO

from hookrun.storage import open_own

_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class MessageFile:
    """Writes the messages of a logger to a file while it is open."""

    def __init__(self) -> None:
        self._handler: _Handler | None = None
        self._logger: logging.Logger | None = None

    def open(self, runner: Any, path: str, on_error: Callable[[Exception], None]) -> None:
        """Begin to write what ``runner.logger`` says, unless it writes this file itself.

        Args:
            runner: whose file it is; see `hookrun.storage.open_own`.
            path: of the file.
            on_error: called once with what is raised when the file cannot be written.

        Raises:
            OSError: the file cannot be created.
        """
        self.close()
        if not isinstance(runner.logger, logging.Logger) or _writes(runner.logger, path):
            return
        self._handler, self._logger = _Handler(open_own(runner, path), on_error), runner.logger
        self._handler.setFormatter(logging.Formatter(_FORMAT))
        self._logger.addHandler(self._handler)

    def close(self) -> None:
        """Write no more."""
        if self._handler is not None and self._logger is not None:
            self._logger.removeHandler(self._handler)
            self._handler.close()
        self._handler = self._logger = None

    def __reduce__(self) -> tuple[type[MessageFile], tuple[()]]:
        return MessageFile, ()  # a copy of a hook has no open file


class _Handler(logging.StreamHandler[TextIO]):
    """Stops at the first error, and reports it."""

    def __init__(self, file: TextIO, on_error: Callable[[Exception], None]) -> None:
        super().__init__(file)
        self._on_error = on_error
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._failed:
            return
        try:
            self.stream.write(self.format(record) + self.terminator)
            self.stream.flush()
        except Exception as error:
            self._failed = True
            self._on_error(error)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):  # of a full disk, which has been reported
            self.stream.close()


def _writes(logger: logging.Logger, path: str) -> bool:
    """Whether a handler of the logger, or of those above, writes to this file."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            file = getattr(handler, "baseFilename", None)
            if file is not None and os.path.realpath(file) == os.path.realpath(path):
                return True
        current = current.parent if current.propagate else None
    return False
