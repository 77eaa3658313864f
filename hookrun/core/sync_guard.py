"""SyncGuard: reports which hook made the host wait for the device, at which event and line."""

from __future__ import annotations

import contextlib
import functools
import linecache
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

import torch

from hookrun._native import RunState

from . import sync_watch
from .events import EVENTS
from .hook import Hook
from .sync_watch import watch_cuda, watch_reads

Function = TypeVar("Function", bound=Callable[..., Any])

_MAY_SYNC: set[CodeType] = set()
_ACTIONS = ("report", "warn", "raise")
_MAX_KEPT = 10_000
_NOT_THE_CALLER = ("torch.", "warnings", __name__, sync_watch.__name__)


def may_sync(function: Function) -> Function:
    """Mark a function in which the host may wait, such as logging, saving and evaluation."""
    _MAY_SYNC.add(function.__code__)
    return function


class HostSyncError(RuntimeError):
    """The host waited for the device while ``SyncGuard(action='raise')`` watched."""


@dataclass(frozen=True)
class HostSync:
    """One host sync: the host waited for the device.

    Attributes:
        call: what made it wait, such as ``'Tensor.item'``.
        hook: class name of the current hook; None in the model's step and outside of a run.
        event: the current event, or None as above.
        file, line: the innermost code outside of torch.
        iteration: iteration of the run, counted from 0; None outside of a run.
    """

    call: str
    hook: str | None
    event: str | None
    file: str
    line: int
    iteration: int | None

    @property
    def source(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        who = f"{self.hook} in {self.event}" if self.hook else self.event or "the code"
        when = "" if self.iteration is None else f" at iteration {self.iteration} (counted from 0)"
        return (
            f"{who} made the host wait for the device{when}: {self.call}, "
            f"{self.file}:{self.line}: {self.source}"
        )


class SyncReport:
    """The syncs that a guard has recorded; false if there are none.

    Attributes:
        syncs: the first 10,000 of them, in order; ``len()`` and the table count all.
    """

    def __init__(self) -> None:
        self.syncs: list[HostSync] = []
        self._counts: Counter[tuple[str | None, str | None, str, str, int]] = Counter()

    def add(self, sync: HostSync) -> None:
        """Record a sync."""
        if len(self.syncs) < _MAX_KEPT:
            self.syncs.append(sync)
        self._counts[sync.hook, sync.event, sync.call, sync.file, sync.line] += 1

    def __len__(self) -> int:
        return self._counts.total()

    def __iter__(self) -> Iterator[HostSync]:
        return iter(self.syncs)

    def __str__(self) -> str:
        if not self._counts:
            return "no host syncs between log intervals"
        rows = [("times", "hook", "event", "call", "line")]
        for (hook, event, call, file, line), count in self._counts.most_common():
            source = textwrap.shorten(linecache.getline(file, line), 80, placeholder=" ...")
            where = f"{file}:{line}  {source}".rstrip()
            rows.append((str(count), hook or "-", event or "-", call, where))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join([row[0].rjust(widths[0]), *map(str.ljust, row[1:4], widths[1:]), row[4]])
            for row in rows
        ]
        return "\n".join([f"host syncs between log intervals: {len(self)}", *lines])

    __repr__ = __str__


class SyncGuard:
    """A context that reports each time the host waits for the device, and which code made it wait.

    On a GPU it uses torch's sync debug mode. On a CPU it intercepts reads of tensors in Python
    (``.item()``, ``float()``, ``int()``, truth tests, ``.cpu()``, ``.tolist()``, ``.numpy()``,
    ``nonzero`` and the like), which would be syncs on a GPU. Expected syncs are not reported:
    loggers when they are due, checkpoints, evaluation by EvalHook, ``before_run`` and
    ``after_run``. On a CPU, neither are data loading and the fused operations, which compute on the
    CPU there, nor ``.to(device)``, whose device need not be the CPU in a run on a GPU.

    It watches the thread that entered it, and costs nothing outside of the context. Several guards
    may be entered at once, and exited in any order.

    Args:
        action: ``'report'`` to collect; ``'warn'`` to issue a RuntimeWarning too; ``'raise'`` to
            raise a HostSyncError at the first sync.
        device: ``'cuda'`` or ``'cpu'``, or a torch.device of one; by default CUDA if available.

    Attributes:
        report: a list of the syncs seen so far; it prints as a table.

    Raises:
        ValueError: another action or device.
        RuntimeError: it is entered twice.

    Examples:
        >>> from hookrun import SyncGuard
        >>> with SyncGuard(device="cpu") as guard:
        ...     torch.ones(1).item()
        1.0
        >>> len(guard.report)
        1
    """

    def __init__(self, action: str = "report", device: str | torch.device | None = None) -> None:
        if action not in _ACTIONS:
            raise ValueError(f"SyncGuard: action must be one of {_ACTIONS}, not {action!r}")
        kind = None if device is None else torch.device(device).type
        if kind not in (None, "cuda", "cpu"):
            raise ValueError(f"SyncGuard watches 'cuda' or 'cpu', not {device!r}")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError("SyncGuard: there is no CUDA device to watch")
        self.action = action
        self.device = kind
        self.report = SyncReport()
        self._entered: contextlib.ExitStack | None = None

    def __enter__(self) -> SyncGuard:
        if self._entered is not None:
            raise RuntimeError("this SyncGuard is entered already")
        on_cuda = self.device == "cuda" or (self.device is None and torch.cuda.is_available())
        with contextlib.ExitStack() as stack:
            if on_cuda:
                stack.enter_context(watch_cuda(self._notice))
            else:
                stack.enter_context(watch_reads(self._notice_read))
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.close()

    def _notice_read(self, call: str) -> None:
        if not _is_on_the_host(sys._getframe()):
            self._notice(call)

    def _notice(self, call: str) -> None:
        sync = _locate(call, sys._getframe())
        if sync is None:
            return
        self.report.add(sync)
        if self.action == "raise":
            raise HostSyncError(str(sync))
        if self.action == "warn":
            warnings.warn_explicit(str(sync), RuntimeWarning, sync.file, sync.line)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _caller(frame: FrameType) -> FrameType:
    """The innermost frame outside of torch and of the guard."""
    for each in _frames(frame):
        module = _module(each)
        if module != "torch" and not module.startswith(_NOT_THE_CALLER):
            return each
    return frame


def _is_on_the_host(frame: FrameType) -> bool:
    """Whether a read of a CPU tensor would be no sync in a run on a GPU either."""
    if _module(_caller(frame)).startswith(("hookrun.ops", "hookrun.kernels")):
        return True  # they run on the tensors' device
    return any(
        _module(each).startswith("torch.utils.data.")
        # torch.optim keeps its step counters on the host
        or (each.f_code.co_name == "_get_value" and _module(each) == "torch.optim.optimizer")
        for each in _frames(frame)
    )


def _locate(call: str, frame: FrameType) -> HostSync | None:
    """The sync with its hook and line, found on the stack; None if a sync is expected here."""
    frames = list(_frames(frame))
    if any(each.f_code in _MAY_SYNC for each in frames):
        return None
    runner = next((o for each in frames if isinstance(o := _owner(each), RunState)), None)
    if runner is not None and runner.current_event in ("before_run", "after_run"):
        return None
    caller = _caller(frame)
    hook = _current_hook(frames, runner)
    return HostSync(
        call,
        None if hook is None else type(hook).__name__,
        None if runner is None else runner.current_event,
        caller.f_code.co_filename,
        caller.f_lineno,
        None if runner is None else runner.iter,
    )


def _owner(frame: FrameType) -> Any:
    """The first argument of the frame's function: for a method, its object."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _current_hook(frames: list[FrameType], runner: Any) -> Hook | None:
    """The innermost hook on the stack, by one of its methods or by a function set on the hook."""
    functions: dict[CodeType | None, Hook] = {
        _code_of(vars(hook)[point]): hook
        for hook in getattr(runner, "hooks", ())
        for point in EVENTS
        if point in vars(hook)
    }
    for frame in frames:
        owner = _owner(frame)
        if isinstance(owner, Hook):
            return owner
        if frame.f_code in functions:
            return functions[frame.f_code]
    return None


def _code_of(function: Any) -> CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    code: CodeType | None = getattr(function, "__code__", None)
    return code or getattr(type(function).__call__, "__code__", None)
