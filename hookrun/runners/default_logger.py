"""The default logger of a runner."""

from __future__ import annotations

import logging
import sys
from typing import TextIO


class _TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``, so that progress bars can redirect it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream of this handler is always sys.stderr")


def default_logger() -> logging.Logger:
    """The logger ``hookrun``; it writes to the terminal unless the application set up logging."""
    logger = logging.getLogger("hookrun")
    if not logger.hasHandlers():
        handler = _TerminalHandler()
        handler.setFormatter(
            logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s")
        )
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
