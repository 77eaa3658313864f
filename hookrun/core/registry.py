"""Registries: from names in configs to classes."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from .errors import did_you_mean, missing_key

T = TypeVar("T", bound=Callable[..., Any])


class Registry:
    """Maps names to classes or functions, and builds objects from config dicts.

    Args:
        name: what the registry holds, for error messages.
        home: the module whose import registers what is shipped; it is imported when the registry
            is first read, or something else is registered.

    Examples:
        >>> SHAPES = Registry("shape")
        >>> @SHAPES.register_module()
        ... class Circle:
        ...     def __init__(self, radius):
        ...         self.radius = radius
        >>> SHAPES.build(dict(type="Circle", radius=2)).radius
        2
    """

    def __init__(self, name: str, home: str | None = None) -> None:
        self._name = name
        self._home = home
        self._modules: dict[str, Callable[..., Any]] = {}

    @property
    def name(self) -> str:
        """What is registered, for error messages."""
        return self._name

    @property
    def module_dict(self) -> dict[str, Callable[..., Any]]:
        """The registered classes by name."""
        self._import_home()
        return self._modules

    def __len__(self) -> int:
        return len(self.module_dict)

    def __contains__(self, key: object) -> bool:
        return key in self.module_dict

    def __iter__(self) -> Iterator[str]:
        return iter(self.module_dict)

    def __repr__(self) -> str:
        return f"Registry(name={self._name!r}, items={sorted(self.module_dict)})"

    def get(self, key: str) -> Callable[..., Any] | None:
        """What is registered under the name, or None."""
        return self.module_dict.get(key)

    @overload
    def register_module(self, name: T) -> T: ...

    @overload
    def register_module(
        self,
        name: str | Sequence[str] | None = ...,
        force: bool = ...,
        module: None = ...,
        *,
        shipped: bool = ...,
    ) -> Callable[[T], T]: ...

    @overload
    def register_module(
        self,
        name: str | Sequence[str] | None = ...,
        force: bool = ...,
        module: T = ...,
        *,
        shipped: bool = ...,
    ) -> T: ...

    def register_module(
        self,
        name: Any = None,
        force: bool = False,
        module: Callable[..., Any] | None = None,
        *,
        shipped: bool = False,
    ) -> Any:
        """Register a class or function: as a decorator, or called with ``module=``.

        Args:
            name: one name or several; the name of the class or function by default.
            force: whether to replace an existing entry.
            module: the class or function, if not used as a decorator.
            shipped: for the classes of rooms that ``home`` imports: they do not import it.

        Raises:
            KeyError: the name is taken and ``force`` is false.
            TypeError: the module is no class or function, or the name no string.
        """
        if not shipped:
            self._import_home()
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

    def build(
        self,
        cfg: Mapping[str, Any],
        default_args: Mapping[str, Any] | None = None,
        *,
        other_keys: Sequence[str] = (),
    ) -> Any:
        """Build an object from a config dict; the dict is left as it is.

        Args:
            cfg: ``type``, a registered name or a class, and the arguments for it.
            default_args: arguments used unless ``cfg`` has them.
            other_keys: keys that the caller has already removed from ``cfg``: errors suggest them
                too for a misspelt key.

        Raises:
            KeyError: no ``type``, or an unknown one.
            TypeError: the config is no dict, a key is no string, the type is neither a name nor a
                class, or an argument is unknown (the message has near spellings).
            Exception: what the constructor raises, with a note that names the class.
        """
        if not isinstance(cfg, Mapping):
            raise TypeError(f"a {self._name} config is a dict, not {type(cfg).__name__}: {cfg!r}")
        arguments = {**(default_args or {}), **cfg}
        for key in arguments:
            if not isinstance(key, str):
                raise TypeError(
                    f"the keys of a {self._name} config are strings, not {key!r}: {dict(cfg)!r}"
                )
        if "type" not in arguments:
            raise KeyError(f"{missing_key(f'a {self._name} config', 'type', cfg)}: {dict(cfg)!r}")
        constructor = self._constructor(arguments.pop("type"))
        name = getattr(constructor, "__name__", repr(constructor))
        note = f"while building the {self._name} {name} from {dict(cfg)!r}"
        try:
            return constructor(**arguments)
        except TypeError as error:
            hints = _unknown_arguments(constructor, arguments, other_keys)
            if not hints or not _WRONG_ARGUMENTS.search(str(error)):
                error.add_note(note)
                raise
            named = TypeError(" ".join(f"{name} {hint}" for hint in hints))
            named.add_note(note)
            raise named from error
        except Exception as error:
            error.add_note(note)
            raise

    def _constructor(self, kind: Any) -> Callable[..., Any]:
        if isinstance(kind, str):
            found = self.get(kind)
            if found is None:
                raise KeyError(
                    f"{kind!r} is not in the {self._name} registry. "
                    + did_you_mean(kind, self.module_dict)
                )
            return found
        if inspect.isclass(kind) or inspect.isfunction(kind):
            return kind
        raise TypeError(f"'type' must be a name or a class, not {type(kind).__name__}: {kind!r}")

    def _import_home(self) -> None:
        if self._home is not None:
            importlib.import_module(self._home)

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


def obj_from_dict(
    info: Mapping[str, Any],
    parent: Any = None,
    default_args: Mapping[str, Any] | None = None,
) -> Any:
    """Build an object from a config dict without a registry; the dict is left as it is.

    Args:
        info: ``type``, a class or its name, and the arguments for it.
        parent: the module that has the name; None if ``type`` is a full name such as
            ``"torch.nn.Linear"``.
        default_args: arguments used unless ``info`` has them.

    Raises:
        KeyError: no ``type``, or a name that is nowhere.
        TypeError: the config is no dict, or an argument is unknown.

    Examples:
        >>> half = dict(type="fractions.Fraction", numerator=1)
        >>> obj_from_dict(half, default_args=dict(denominator=2))
        Fraction(1, 2)
    """
    config = {**(default_args or {}), **info} if isinstance(info, Mapping) else info
    if isinstance(config, dict) and isinstance(config.get("type"), str):
        config["type"] = _find_object(config["type"], parent)
    return Registry("object").build(config)


def _find_object(name: str, parent: Any) -> Any:
    """What has the name in the module, or the full name."""
    if parent is None:
        module, _, name = name.rpartition(".")
        try:
            parent = importlib.import_module(module)
        except (ImportError, ValueError) as error:
            full = f"{module}.{name}" if module else name
            raise KeyError(
                f"{full!r} is not the full name of a class or function: {error}"
            ) from error
    try:
        return getattr(parent, name)
    except AttributeError:
        hint = did_you_mean(name, [each for each in dir(parent) if not each.startswith("_")])
        raise KeyError(f"{parent.__name__} has no {name!r}. {hint}") from None


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# Python's messages for arguments that do not fit a signature.
_WRONG_ARGUMENTS = re.compile(
    r"\(\) (got an unexpected keyword argument|missing \d+ required|takes no arg)"
)


def _unknown_arguments(
    constructor: Any, arguments: Mapping[str, Any], other_keys: Sequence[str]
) -> list[str]:
    """A message for each argument that the constructor does not have."""
    known, _ = known_arguments(constructor)
    return [
        f"has no argument {name!r}. {did_you_mean(name, known | set(other_keys))}"
        for name in arguments
        if name not in known
    ]


def known_arguments(constructor: Any) -> tuple[set[str], bool]:
    """The arguments that a class or a function has, and whether it takes any others too.

    A constructor with ``**kwargs`` is assumed to pass them to that of the next base class.
    """
    layers = [constructor]
    if inspect.isclass(constructor):
        layers = [vars(cls).get("__init__") for cls in inspect.getmro(constructor)[:-1]]
    layers = [layer for layer in layers if layer is not None]
    known: set[str] = set()
    for layer in layers:
        try:
            parameters = inspect.signature(layer).parameters
        except (ValueError, TypeError):  # compiled functions may have no signature
            return known, True
        known |= {name for name, each in parameters.items() if each.kind not in _VARIADIC}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return known - {"self"}, False
    return known - {"self"}, bool(layers)
