"""Noticing that the host waits for a tensor: CUDA's own reports, and Python's reads of tensors."""

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
"""Called at each sync, within it, with what was called; what it raises ends the call."""

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
"""What makes the host wait if the tensor is on a device: its value or, further down, its shape."""

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
"""The same as functions of ``torch``."""

_CUDA_MESSAGE = "called a synchronizing CUDA operation"


@contextlib.contextmanager
def watch_reads(notice: Notice) -> Iterator[None]:
    """Notices reads of tensors by this thread, also of tensors on the CPU.

    Python's reads only: native code that computes on the CPU reads its own data.
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
    """Notices the syncs that torch's debug mode reports, and the explicit ones that it does not."""
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
    """Passes on what one thread does; what a noticed call does in turn is part of it."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._thread: int | None = threading.get_ident()
        self._busy = False

    def notice(self, call: str) -> None:
        if not self._busy and threading.get_ident() == self._thread:
            self._notice(call)

    def end(self) -> None:
        """Notice nothing more: what somebody else has wrapped since cannot be taken back."""
        self._thread = None

    def around(self, call: str, counts: Callable[..., bool] | None = None) -> Wrap:
        """Makes functions noticed under this name; with ``counts``, for some arguments only."""

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
    """torch reports each sync, as a warning that no filter holds back."""
    with contextlib.ExitStack() as stack:
        for action, message in _FILTERS:
            warnings.filterwarnings(action, message=message)
            stack.callback(_drop_filter, warnings.filters[0])
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        stack.callback(_leave_debug_mode, mode, torch.cuda.get_sync_debug_mode())
        yield


def _drop_filter(ours: object) -> None:
    """Take one filter of warnings away; what others have changed of them stays."""
    filters: Any = warnings.filters
    with contextlib.suppress(ValueError):  # somebody else took it away
        filters.remove(ours)


def _leave_debug_mode(before: int, ours: int) -> None:
    if torch.cuda.get_sync_debug_mode() == ours:
        torch.cuda.set_sync_debug_mode(before)


class _Shared:
    """A context that begins when the first enters, and ends when the last leaves."""

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
    """An attribute of a class or module, and what wraps it, the innermost first."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner = owner
        self.name = name
        self.own = name in vars(owner)  # not inherited
        self.original = vars(owner)[name] if self.own else None
        self.function = getattr(owner, name)
        self.current = self.original
        self.wraps: list[Wrap] = []

    def is_ours(self) -> bool:
        """Whether it is as it was set here last, and not what somebody else has made of it."""
        return vars(self.owner).get(self.name) is self.current

    def set(self) -> None:
        """Give it all its wraps, or leave it as it was before."""
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
    """The attribute, wrapped. It is as before when the last who wrapped it has left.

    What somebody else puts there meanwhile is left alone.
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


# What is wrapped now: several may watch, in threads of their own, and leave in any order.
_attributes: dict[tuple[Any, str], _Attribute] = {}
_lock = threading.RLock()  # a guard that nobody exited may be collected, and leave, in here


def _selects_by_mask(tensor: Tensor, index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, Tensor) and p.dtype in (torch.bool, torch.uint8) for p in parts)
