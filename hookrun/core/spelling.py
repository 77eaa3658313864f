"""Misspelt methods of hooks, which would never be called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from weakref import WeakKeyDictionary

from .events import EVENTS
from .hook import Hook

# Methods that a hook may override beside those of events, if no other word is close to their names.
_OTHER_METHODS = (
    *("close", "state_dict", "load_state_dict", "gather_state", "checkpoint_folder"),
    "check_before_saving",
)
_KNOWN = {name: name.split("_") for name in (*EVENTS, *_OTHER_METHODS)}
# Words that are one letter away from a word of the known names, and are not misspellings of it.
_REAL_WORDS = frozenset(
    {"alter", "later", "brain", "drain", "grain", "trail", "trait", "strain", "item", "items"}
    | {"inter", "eval", "clone", "chose", "closer", "closed", "lose", "stats", "stage"}
    | {"trailing", "straining", "draining", "raining", "interaction"}
)
# What people write instead of a word of the known names.
_LONG_FORMS = {
    "train": ("training",),
    "val": ("valid", "validate", "validation"),
    "iter": ("iteration", "iterations"),
    "saving": ("save",),
}


def check_spelling(hook: Hook) -> None:
    """Refuse a hook with a public method whose name is a misspelling of a method of hooks.

    Methods with other names, such as those of custom events, are not checked.

    Raises:
        ValueError: the hook or its class has such a method; the message has both names.
    """
    own = [name for name, value in vars(hook).items() if callable(value)]
    found = _first_misspelt(own) or _misspelt_in(type(hook))
    if found is not None:
        raise ValueError(
            f"{type(hook).__name__}.{found[0]} would never be called: did you mean {found[1]!r}? "
            "(A method for something else needs a name that is less like it.)"
        )


# The result for each class that has been checked; weak keys, so that classes can be freed.
_checked_classes: WeakKeyDictionary[type[Hook], tuple[str, str] | None] = WeakKeyDictionary()


def _misspelt_in(cls: type[Hook]) -> tuple[str, str] | None:
    """The first misspelt method of a class and its bases, and the name that is meant."""
    if cls not in _checked_classes:
        bases = cls.__mro__[: cls.__mro__.index(Hook)]
        names = [name for base in bases for name, value in vars(base).items() if callable(value)]
        _checked_classes[cls] = _first_misspelt(names)
    return _checked_classes[cls]


def _first_misspelt(names: Iterable[str]) -> tuple[str, str] | None:
    return next(((name, meant) for name in names if (meant := _meant(name)) is not None), None)


@lru_cache(maxsize=4096)
def _meant(name: str) -> str | None:
    """The known name of which this one is a misspelling; None if it is correct or unrelated."""
    if name.startswith("_") or name in _KNOWN or hasattr(Hook, name):
        return None
    if (
        name.endswith("s") and name[:-1] in _OTHER_METHODS
    ):  # a plural: `state_dicts`, `gather_states`
        return None
    words = [word.lower() for word in re.findall(r"[A-Z]*[a-z0-9]+|[A-Z]+", name)]
    for known, its_words in _KNOWN.items():
        if _are_near(words, its_words):
            return known
    return None


def _are_near(words: list[str], known: list[str]) -> bool:
    """Whether each word is the known one or a misspelling; three correct words in any order."""
    if len(words) != len(known):
        return _distance("".join(words), "".join(known)) <= 1  # an underscore is missing
    if len(known) < 3:
        return all(map(_is_near, words, known))
    return sorted(words) == sorted(known) or all(
        any(_is_near(word, form) for form in (its, *_LONG_FORMS.get(its, ())))
        for word, its in zip(words, known, strict=True)
    )


def _is_near(word: str, known: str) -> bool:
    """Whether a word is the known one or a misspelling of it: by two edits in long words, by one in
    short ones. In words of up to three letters, a replaced letter makes another word.
    """
    if word == known or word in _REAL_WORDS:
        return word == known
    if len(known) <= 3 and len(word) == len(known) and sorted(word) != sorted(known):
        return False
    return _distance(word, known) <= (2 if len(known) >= 6 else 1)


def _distance(a: str, b: str) -> int:
    """The edit distance: insertions, deletions, replacements and exchanges of adjacent letters."""
    rows = [list(range(len(b) + 1))]
    for i in range(1, len(a) + 1):
        row = [i]
        for j in range(1, len(b) + 1):
            cost = min(
                rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, rows[i - 2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
