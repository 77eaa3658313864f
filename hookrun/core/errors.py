"""Wording shared by error messages."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def noting(place: str) -> Iterator[None]:
    """A context whose errors get the note ``in PLACE``.

    Args:
        place: what the user calls it, such as a key of a config.
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"in {place}")
        raise


def missing_key(what: str, key: str, given: Iterable[Any]) -> str:
    """The beginning of an error message about a missing key; suggests a near spelling among others.

    Args:
        what: what the dict is called.
        key: the missing key.
        given: the keys that the dict has.
    """
    names = sorted({name for name in given if isinstance(name, str)})
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    return f"{what} needs the key {key!r}" + (f" (instead of {near[0]!r}?)" if near else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: near spellings, or else all known names.

    Args:
        name: what the user wrote.
        known: the names that exist.
    """
    names = sorted(set(known))
    folded: dict[str, str] = {}
    for candidate in names:
        folded.setdefault(candidate.lower(), candidate)
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(repr(folded[match]) for match in near) + "?"
    return f"Known: {', '.join(names) or 'none'}."


def check_flags(who: str, **flags: object) -> None:
    """Raise a TypeError unless they are bools: ``'no'`` would count as True.

    Args:
        who: whose arguments they are, for the message.
        flags: values by the names of the arguments.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{who}: {name} must be True or False, not {value!r}")


def path_or_none(who: str, **paths: Any) -> str | None:
    """A path as a string, or None; raises a TypeError that names the argument for anything else."""
    ((name, path),) = paths.items()
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{who}: {name} must be a path or None, not {path!r}")
    return None if path is None else str(os.fspath(path))
