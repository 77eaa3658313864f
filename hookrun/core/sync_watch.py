"""Noticing that the host waits for a tensor: CUDA's own reports, and Python's reads of tensors."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Notice = Callable[[str], None]
"""Called at each sync, within it, with what was called; what it raises ends the call."""

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
    mode = torch.cuda.get_sync_debug_mode()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        warnings.filterwarnings("always", message=_CUDA_MESSAGE)
        show = warnings.showwarning

        def noticing(message: Any, *args: Any, **kwargs: Any) -> None:
            if str(message).startswith(_CUDA_MESSAGE):
                watch.notice("CUDA sync")
            else:
                show(message, *args, **kwargs)

        warnings.showwarning = noticing
        for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event):
            noticed = watch.around(f"{owner.__name__}.synchronize")
            stack.enter_context(_replaced(owner, "synchronize", noticed))
        stack.callback(torch.cuda.set_sync_debug_mode, mode)
        torch.cuda.set_sync_debug_mode("warn")
        yield


class _Watch:
    """Passes on what one thread does; what a noticed call does in turn is part of it."""

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._thread = threading.get_ident()
        self._busy = False

    def notice(self, call: str) -> None:
        if not self._busy and threading.get_ident() == self._thread:
            self._notice(call)

    def around(
        self, call: str, counts: Callable[..., bool] | None = None
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
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


@contextlib.contextmanager
def _replaced(
    owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """The attribute of a class or module, wrapped; afterwards as before, inherited ones too."""
    own = name in vars(owner)
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def _selects_by_mask(tensor: Tensor, index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, Tensor) and p.dtype in (torch.bool, torch.uint8) for p in parts)
