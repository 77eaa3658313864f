"""Reading configs: Python files, JSON files or JSON text."""

from __future__ import annotations

import contextlib
import json
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hookrun.storage import open_file


def read_config(source: str) -> dict[str, Any]:
    """All that a config holds; of a Python file, all names that it defines.

    Args:
        source: ``CONFIG.py``, which is executed, ``CONFIG.json``, or JSON text.

    Raises:
        ValueError: the source is none of them, holds no dict, or is code that fails.
        OSError: the file cannot be read.
    """
    if source.lstrip().startswith("{"):
        content = _read_json(source, "the JSON text")
    elif source.endswith(".json"):
        with open_file(source) as file:
            content = _read_json(file.read(), source)
    elif source.endswith(".py"):
        open_file(source).close()  # raises unless it is a regular file
        content = _run_file(source)
    else:
        raise ValueError(f"a config is a .py file, a .json file or JSON text, not {source!r}")
    if not isinstance(content, dict):
        raise ValueError(f"{source}: the config is a dict, not {type(content).__name__}")
    return content


def config_name(source: str) -> str:
    """The name of a config's file without its ending; empty for JSON text."""
    return "" if source.lstrip().startswith("{") else Path(source).stem


@contextlib.contextmanager
def importing_beside(source: str) -> Iterator[None]:
    """A context in which a config may import modules of its folder, as a script may."""
    folder = "" if config_name(source) == "" else str(Path(source).resolve().parent)
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


def _read_json(text: str | bytes, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # also bytes that are no text
        raise ValueError(f"{source} is not valid JSON: {error}") from error


def _run_file(path: str) -> dict[str, Any]:
    try:
        return runpy.run_path(path)
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        lines += [error.lineno] if isinstance(error, SyntaxError) else []
        where = f"{path}, line {lines[-1]}" if lines else path
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        first = said.strip().partition("\n")[0]
        kind = type(error).__name__
        raise ValueError(f"{where}: {kind}{f': {first}' if first else ''}") from error
