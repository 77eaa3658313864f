"""Importing the client of a back end when it is first needed."""

from __future__ import annotations

import importlib
from typing import Any

from hookrun.core.random_state import random_state_kept


def import_client(module: str, extra: str, logger: str) -> Any:
    """Import a module of a vendor's client.

    Args:
        module: its name.
        extra: the extra of hookrun that installs it.
        logger: the class that needs it, for the message.

    Raises:
        ImportError: it is not installed, or cannot be imported; the message says which command
            installs it.
    """
    try:
        with random_state_kept():
            return importlib.import_module(module)
    except ImportError as error:
        top = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == top
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise ImportError(
            f'{logger} needs {top}, which {why}: pip install "hookrun[{extra}]"', name=top
        ) from error
