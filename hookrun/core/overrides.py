"""Whether a method is overridden: the one rule behind everything that is decided by it.

What a class says of its methods, such as when they are due or that C++ may stand in for them, holds
for objects that still have these methods. It holds no longer once a subclass, or the object itself,
has put another method in the place of one of them: then that one is called, whenever Python would.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def overrides(obj: Any, base: type, names: Iterable[str]) -> bool:
    """Whether any of these methods of ``obj`` is another one than that of ``base``.

    Args:
        obj: an instance of ``base`` or of a subclass.
        base: the class whose methods are meant, its own or those that it inherits.
        names: the methods. One that only ``obj`` has counts as overridden.
    """
    own, cls = vars(obj), type(obj)
    return any(
        name in own or getattr(cls, name, None) is not getattr(base, name, None) for name in names
    )


def declaring_class(obj: Any, name: str) -> type:
    """The class in whose body the attribute ``name`` of ``obj`` stands: the base of what it says.

    Raises:
        AttributeError: there is no such attribute in the class of ``obj`` or its bases.
    """
    for cls in type(obj).__mro__:
        if name in vars(cls):
            return cls
    raise AttributeError(f"{type(obj).__name__} has no attribute {name!r}")
