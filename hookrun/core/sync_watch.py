"""Detecting host syncs: by torch's reports of CUDA syncs, or by intercepting reads of tensors."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

Notice = Callable[[str], None]
"""Called at each sync with the name of the call, before that runs; an exception cancels it."""

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

_METHODS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__float__",
    "__int__",
    "__index__",
    "__bool__",
    "__complex__",
    "__repr__",
    "is_nonzero",
    "equal",
    "allclose",
    "nonzero",
    "argwhere",
    "masked_select",
    "unique",
    "unique_consecutive",
)
"""Methods that need the value of a tensor, or produce a shape that depends on it."""

_FUNCTIONS = (
    "is_nonzero",
    "equal",
    "allclose",
    "nonzero",
    "argwhere",
    "masked_select",
    "unique",
    "unique_consecutive",
)
"""The same for functions of ``torch``."""

_CUDA_MESSAGE = "called a synchronizing CUDA operation"


@contextlib.contextmanager
def watch_reads(notice: Notice) -> Iterator[None]:
    """Detect reads of tensors by this thread, including tensors on the CPU.

    Only reads from Python code: native code on the CPU reads tensors without syncs.
    """
    watch = _Watch(notice)
    with contextlib.ExitStack() as stack:
        stack.callback(watch.end)
        for name in _METHODS:
            stack.enter_context(_replaced(Tensor, name, watch.around(f"Tensor.{name}")))
        for name in _FUNCTIONS:
            stack.enter_context(_replaced(torch, name, watch.around(f"torch.{name}")))
        masked = watch.around("Tensor[mask]", _selects_by_mask)
        stack.enter_context(_replaced(Tensor, "__getitem__", masked))
        where = watch.around("torch.where", lambda *args, **kwargs: len(args) + len(kwargs) == 1)
        stack.enter_context(_replaced(torch, "where", where))
        yield


@contextlib.contextmanager
def watch_cuda(notice: Notice) -> Iterator[None]:
    """Detect the syncs that torch's debug mode reports, and explicit ``synchronize`` calls."""
    watch = _Watch(notice)

    def reports(show: Callable[..., Any]) -> Callable[..., Any]:
        def noticing(message: Any, *args: Any, **kwargs: Any) -> None:
            if str(message).startswith(_CUDA_MESSAGE):
                watch.notice("CUDA sync")
            else:
                show(message, *args, **kwargs)

        return noticing

    with contextlib.ExitStack() as stack:
        stack.callback(watch.end)
        stack.enter_context(_cuda_reports)
        stack.enter_context(_replaced(warnings, "showwarning", reports))
        for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event):
            noticed = watch.around(f"{owner.__name__}.synchronize")
            stack.enter_context(_replaced(owner, "synchronize", noticed))
        yield


class _Watch:
    """Reports calls of one thread; calls within a reported call are not reported again."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._thread: int | None = threading.get_ident()
        self._busy = False

    def notice(self, call: str) -> None:
        if not self._busy and threading.get_ident() == self._thread:
            self._notice(call)

    def end(self) -> None:
        """Report nothing any more, even if a wrapper is left in place, wrapped by other code."""
        self._thread = None

    def around(self, call: str, counts: Callable[..., bool] | None = None) -> Wrap:
        """A decorator that reports calls by this name; ``counts``: only for some arguments."""

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def noticed(*args: Any, **kwargs: Any) -> Any:
                if (
                    self._busy
                    or threading.get_ident() != self._thread
                    or (counts is not None and not counts(*args, **kwargs))
                ):
                    return function(*args, **kwargs)
                self._notice(call)
                self._busy = True
                try:
                    return function(*args, **kwargs)
                finally:
                    self._busy = False

            return noticed

        return wrap


_FILTERS: tuple[tuple[Literal["ignore", "always"], str], ...] = (
    ("ignore", "Synchronization debug mode is a prototype"),
    ("always", _CUDA_MESSAGE),
)


@contextlib.contextmanager
def _debug_mode() -> Iterator[None]:
    """torch reports each sync as a warning, and no warnings filter suppresses it."""
    with contextlib.ExitStack() as stack:
        for action, message in _FILTERS:
            warnings.filterwarnings(action, message=message)
            stack.callback(_drop_filter, warnings.filters[0])
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        stack.callback(_leave_debug_mode, mode, torch.cuda.get_sync_debug_mode())
        yield


def _drop_filter(ours: object) -> None:
    """Remove one warnings filter; changes by other code stay."""
    filters: Any = warnings.filters
    with contextlib.suppress(ValueError):  # other code has removed it
        filters.remove(ours)


def _leave_debug_mode(before: int, ours: int) -> None:
    if torch.cuda.get_sync_debug_mode() == ours:
        torch.cuda.set_sync_debug_mode(before)


class _Shared:
    """A context shared by several users: entered with the first, exited with the last."""

    def __init__(self, context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self._context = context
        self._users = 0
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> None:
        with _lock:
            if self._users == 0:
                self._entered.enter_context(self._context())
            self._users += 1

    def __exit__(self, *error: Any) -> None:
        with _lock:
            self._users -= 1
            if self._users == 0:
                self._entered.close()


_cuda_reports = _Shared(_debug_mode)


class _Attribute:
    """An attribute of a class or module and its wrappers, the innermost first."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self.own = name in vars(owner)  # not inherited
        self.original = vars(owner)[name] if self.own else None
        self.function = getattr(owner, name)
        self.current = self.original
        self.wraps: list[Wrap] = []

    def is_ours(self) -> bool:
        """Whether it is still what was set here last, not replaced by other code."""
        return vars(self.owner).get(self.name) is self.current

    def set(self) -> None:
        """Set it to the wrapped function, or to the original if there are no wrappers."""
        self.current = self.original
        if self.wraps:
            self.current = functools.reduce(_wrapped, self.wraps, self.function)
        if self.wraps or self.own:
            setattr(self.owner, self.name, self.current)
        else:
            delattr(self.owner, self.name)


def _wrapped(function: Callable[..., Any], wrap: Wrap) -> Callable[..., Any]:
    return wrap(function)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, wrap: Wrap) -> Iterator[None]:
    """A context in which the attribute is wrapped; the last one to exit restores the original.

    If other code replaces the attribute meanwhile, that stays.
    """
    with _lock:
        attribute = _attributes.get((owner, name))
        if attribute is None or not attribute.is_ours():
            attribute = _attributes[owner, name] = _Attribute(owner, name)
        attribute.wraps.append(wrap)
        attribute.set()
    try:
        yield
    finally:
        with _lock:
            ours = attribute.is_ours()
            attribute.wraps.remove(wrap)
            if ours:
                attribute.set()
            if not attribute.wraps and _attributes.get((owner, name)) is attribute:
                del _attributes[owner, name]


# The wrapped attributes: several threads may watch, and exit in any order.
_attributes: dict[tuple[Any, str], _Attribute] = {}
# Reentrant: a guard that was never exited may be garbage-collected, and exit, while it is held.
_lock = threading.RLock()


def _selects_by_mask(tensor: Tensor, index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, Tensor) and p.dtype in (torch.bool, torch.uint8) for p in parts)
