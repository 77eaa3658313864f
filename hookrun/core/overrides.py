"""Whether a method is overridden: the only check for it in hookrun.

A class may declare something about its methods, such as when they are due, or that C++ may replace
them. The declaration applies as long as the methods are those of the class. If a subclass or the
instance replaces one of them, the declaration is ignored, and the method is called as in Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def overrides(obj: Any, base: type, names: Iterable[str]) -> bool:
    """Whether any of these methods of ``obj`` differs from that of ``base``.

    Args:
        obj: an instance of ``base`` or of a subclass.
        base: the class whose methods to compare with, defined there or inherited.
        names: the names of the methods. A method that ``base`` does not have counts as overridden.
    """
    own, cls = vars(obj), type(obj)
    return any(
        name in own or getattr(cls, name, None) is not getattr(base, name, None) for name in names
    )


def declaring_class(obj: Any, name: str) -> type:
    """The class that defines the attribute ``name`` of ``obj``.

    Raises:
        AttributeError: there is no such attribute in the class of ``obj`` or its bases.
    """
    for cls in type(obj).__mro__:
        if name in vars(cls):
            return cls
    raise AttributeError(f"{type(obj).__name__} has no attribute {name!r}")
