"""Loggers of runs: the default one, and those that also write a file."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from hookrun.distributed import get_dist_info

_OURS = str(Path(__file__).resolve().parents[1])
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class _TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, so that progress bars can redirect it.

    A terminal that is too narrow for a line gets it broken between words.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        return fold(super().format(record), _columns_of(self.stream))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream of this handler is always sys.stderr")


def fold(text: str, width: int | None) -> str:
    """A line, broken between words into lines that are no longer than ``width`` where words allow.

    A name stays with its value, as in ``loss: 0.5``. Text of several lines, such as a table or a
    traceback, stays as it is; so does any where ``width`` is None.
    """
    if width is None or len(text.expandtabs()) <= width or "\n" in text:
        return text
    joined = text.replace(": ", ":\N{NO-BREAK SPACE}")
    folded = textwrap.fill(
        joined, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return folded.replace(":\N{NO-BREAK SPACE}", ": ")


def _columns_of(stream: TextIO | None) -> int | None:
    """The width of a terminal; None for anything else."""
    try:
        if stream is None or not stream.isatty():
            return None
        return os.get_terminal_size(stream.fileno()).columns or None
    except (AttributeError, OSError, ValueError):  # no file, or a closed one
        return None


class RankFilter(logging.Filter):
    """On other ranks than 0, lets warnings and errors through, with the rank, and nothing else.

    Args:
        only_ours: whether what others than hookrun say through the logger is left as it is.
    """

    def __init__(self, only_ours: bool) -> None:
        super().__init__()
        self.only_ours = only_ours

    def filter(self, record: logging.LogRecord) -> bool:
        rank = get_dist_info()[0]
        if rank == 0 or (self.only_ours and not record.pathname.startswith(_OURS)):
            return True
        if record.levelno < logging.WARNING:
            return False
        record.msg = f"[rank {rank}] {record.msg}"
        return True


def speak_by_rank(logger: logging.Logger, only_ours: bool = True) -> logging.Logger:
    """Let only rank 0 say how a run goes, and the other ranks say who they are; see RankFilter."""
    if not any(isinstance(each, RankFilter) for each in logger.filters):
        logger.addFilter(RankFilter(only_ours))
    return logger


def default_logger() -> logging.Logger:
    """The logger ``hookrun``; it writes to the terminal unless the application set up logging.

    Other ranks than 0 say warnings and errors only.
    """
    logger = speak_by_rank(logging.getLogger("hookrun"), only_ours=False)
    if not logger.hasHandlers():
        handler = _TerminalHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def get_logger(
    name: str,
    log_file: str | os.PathLike[str] | None = None,
    log_level: int = logging.INFO,
    file_mode: str = "w",
) -> logging.Logger:
    """A logger that writes to the terminal and to a text file.

    A logger that has its handlers already, or whose parent has been set up here, is returned as it
    is; a file that it does not write yet is added. Other ranks than the first write no file, and
    only errors to the terminal, with their rank.

    Args:
        name: the logger's; the part before a dot is that of its parent.
        log_file: the file; its folder is made. None for the terminal alone.
        log_level: the lowest level that is written, such as ``logging.INFO``.
        file_mode: ``"w"`` for a new file, ``"a"`` to go on with the one there is.

    Raises:
        ValueError: another mode.
        OSError: the file cannot be written.
    """
    if file_mode not in ("w", "a"):
        raise ValueError(f"file_mode is 'w' or 'a', not {file_mode!r}")
    logger = logging.getLogger(name)
    is_master = get_dist_info()[0] == 0
    if not any(_is_ours(each) for each in _with_parents(logger)):
        logger.propagate = False
        speak_by_rank(logger, only_ours=False)
        logger.setLevel(log_level if is_master else logging.ERROR)
        _add(logger, _TerminalHandler(), log_level)
    if log_file is not None and is_master and not _writes(logger, log_file):
        os.makedirs(os.path.dirname(os.path.abspath(log_file)), exist_ok=True)
        _add(logger, logging.FileHandler(log_file, file_mode, encoding="utf-8"), log_level)
    return logger


def _add(logger: logging.Logger, handler: logging.Handler, log_level: int) -> None:
    handler.setFormatter(logging.Formatter(FORMAT))
    handler.setLevel(log_level)
    logger.addHandler(handler)


def _is_ours(logger: logging.Logger) -> bool:
    return any(isinstance(handler, _TerminalHandler) for handler in logger.handlers)


def _with_parents(logger: logging.Logger) -> Iterator[logging.Logger]:
    """The loggers whose handlers get what the logger is told."""
    while True:
        yield logger
        if not logger.propagate or logger.parent is None:
            return
        logger = logger.parent


def _writes(logger: logging.Logger, file: str | os.PathLike[str]) -> bool:
    return any(
        handler.baseFilename == os.path.abspath(file)
        for each in _with_parents(logger)
        for handler in each.handlers
        if isinstance(handler, logging.FileHandler)
    )
