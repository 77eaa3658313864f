"""Registries: names in configs to classes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from .errors import did_you_mean

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Maps names to classes or functions, and builds objects from config dicts.

    Args:
        name: what the registry holds, for error messages.

    >>> SHAPES = Registry("shape")
    >>> @SHAPES.register_module()
    ... class Circle:
    ...     def __init__(self, radius):
    ...         self.radius = radius
    >>> SHAPES.build(dict(type="Circle", radius=2)).radius
    2
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._modules: dict[str, Callable[..., Any]] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def module_dict(self) -> dict[str, Callable[..., Any]]:
        """The registered classes by name."""
        return self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __repr__(self) -> str:
        return f"Registry(name={self._name!r}, items={sorted(self._modules)})"

    def get(self, key: str) -> Callable[..., Any] | None:
        """What is registered under the name, or None."""
        return self._modules.get(key)

    @overload
    def register_module(self, name: T) -> T: ...

    @overload
    def register_module(
        self, name: str | Sequence[str] | None = ..., force: bool = ..., module: T = ...
    ) -> T: ...

    @overload
    def register_module(
        self, name: str | Sequence[str] | None = ..., force: bool = ..., module: None = ...
    ) -> Callable[[T], T]: ...

    def register_module(
        self, name: Any = None, force: bool = False, module: Callable[..., Any] | None = None
    ) -> Any:
        """Register a class or function: as a decorator, or called with ``module=``.

        Args:
            name: one name or several; the class's own by default.
            force: whether to replace what has the name already.
            module: the class or function, when not used as a decorator.

        Raises:
            KeyError: the name is taken and ``force`` is false.
            TypeError: the module is no class or function, or the name no string.
        """
        if inspect.isclass(name) or inspect.isfunction(name):  # bare @register_module
            self._add(name, None, force)
            return name
        if module is not None:
            self._add(module, name, force)
            return module

        def register(module: T) -> T:
            self._add(module, name, force)
            return module

        return register

    def build(self, cfg: Mapping[str, Any], default_args: Mapping[str, Any] | None = None) -> Any:
        """Build an object from a config dict; the dict is left as it is.

        Args:
            cfg: ``type``, a registered name or a class, and the arguments for it.
            default_args: arguments for those that ``cfg`` does not give.

        Raises:
            KeyError: no ``type``, or an unknown one.
            TypeError: the config is no dict, or the type neither a name nor a class.
            Exception: whatever the constructor raises, with a note that names the class.
        """
        if not isinstance(cfg, Mapping):
            raise TypeError(f"a {self._name} config is a dict, not {type(cfg).__name__}: {cfg!r}")
        arguments = {**(default_args or {}), **cfg}
        try:
            kind = arguments.pop("type")
        except KeyError:
            raise KeyError(f"a {self._name} config needs the key 'type': {dict(cfg)!r}") from None
        constructor = self._constructor(kind)
        try:
            return constructor(**arguments)
        except Exception as error:
            name = getattr(constructor, "__name__", repr(constructor))
            error.add_note(f"while building the {self._name} {name} from {dict(cfg)!r}")
            if isinstance(error, TypeError):
                for hint in _unknown_arguments(constructor, arguments):
                    error.add_note(f"{name} {hint}")
            raise

    def _constructor(self, kind: Any) -> Callable[..., Any]:
        if isinstance(kind, str):
            found = self.get(kind)
            if found is None:
                raise KeyError(
                    f"{kind!r} is not in the {self._name} registry. "
                    + did_you_mean(kind, self._modules)
                )
            return found
        if inspect.isclass(kind) or inspect.isfunction(kind):
            return kind
        raise TypeError(f"'type' must be a name or a class, not {type(kind).__name__}: {kind!r}")

    def _add(self, module: Any, name: str | Sequence[str] | None, force: bool) -> None:
        if not (inspect.isclass(module) or inspect.isfunction(module)):
            raise TypeError(
                f"only classes and functions can be registered, not {type(module).__name__}"
            )
        names = [module.__name__] if name is None else [name] if isinstance(name, str) else name
        for each in names:
            if not isinstance(each, str):
                raise TypeError(f"a registered name is a string, not {each!r}")
            if not force and each in self._modules:
                raise KeyError(
                    f"{each!r} is already in the {self._name} registry; force=True replaces it"
                )
            self._modules[each] = module


def _unknown_arguments(constructor: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """What to say of each argument that neither the class nor one of its bases takes."""
    layers = (
        [vars(cls).get("__init__") for cls in inspect.getmro(constructor)[:-1]]
        if (inspect.isclass(constructor))
        else [constructor]
    )
    known: set[str] = set()
    for layer in filter(None, layers):
        with contextlib.suppress(ValueError, TypeError):  # compiled ones may not say
            known |= set(inspect.signature(layer).parameters)
    known -= {"self", "args", "kwargs"}
    for name in arguments:
        if name not in known:
            yield f"has no argument {name!r}. {did_you_mean(name, known)}"
