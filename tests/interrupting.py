"""Ctrl-C at a chosen instant: where Python looks for signals in the code of given files."""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

_NAMES = dis.opname


class Instants:
    """Counts the instants at which a signal could be handled, and sends one at the N-th of them.

    Python looks for signals when a function begins, behind calls, and when a loop goes back.

    Args:
        files: parts of the names of files whose code counts.
        at: the instant at which to send a signal; None to count only.
        signum: the signal.
    """

    def __init__(
        self, files: Sequence[str], at: int | None = None, signum: int = signal.SIGINT
    ) -> None:
        self.count = 0
        self.where = ""
        self._files = tuple(files)
        self._at = at
        self._signum = signum
        self._looks: dict[int, bool] = {}  # by frame: whether Python looks before what comes next
        self._codes: dict[CodeType, bool] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        wanted = self._codes.get(code)
        if wanted is None:
            wanted = any(each in code.co_filename for each in self._files)
            self._codes[code] = wanted
        if not wanted:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._looks[id(frame)] = True
        return self._trace

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "opcode":
            looks = self._looks.get(id(frame), False)
            name = _NAMES[frame.f_code.co_code[frame.f_lasti]]
            self._looks[id(frame)] = name.startswith(("CALL", "JUMP_BACKWARD"))
            if looks:
                self.count += 1
                if self.count == self._at:
                    self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                    sys.settrace(None)
                    signal.raise_signal(self._signum)
        elif event == "return":
            self._looks.pop(id(frame), None)
        return self._trace
