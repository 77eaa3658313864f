"""HookStats: how much time each hook of a run took."""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook, starts_with_defaults
from hookrun.core.hook_times import chrome_trace, format_table
from hookrun.storage import atomic_write


@HOOKS.register_module()
@starts_with_defaults()
class HookStats(Hook):
    """Measures how much time hooks take, logs a table at the end, and writes a Chrome trace.

    The table has the number of calls of each hook at each event and their total, median and longest
    time; see `hookrun.core.hook_times.HookTime` for what counts. The trace has a row for each hook;
    open it in ``chrome://tracing`` or https://ui.perfetto.dev. Both are written on rank 0 only,
    also if the run ends by an error. What measuring adds to a call is in ``docs/benchmarks.md``, as
    "timing each call".

    Times are those of the host: work that a hook queues on a GPU counts where the host waits for
    it.

    Args:
        trace_path: the file of the trace, relative to ``work_dir``; None writes none. Without a
            ``work_dir``, only an absolute path is written.
        max_calls: how many of the latest calls the trace has; each takes 24 bytes of memory.

    Raises:
        TypeError, ValueError: an argument of a wrong type, or a ``max_calls`` below 1.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, trace_path: str | None = "hook_trace.json", max_calls: int = 100_000
    ) -> None:
        if trace_path is not None and not isinstance(trace_path, (str, os.PathLike)):
            raise TypeError(f"HookStats: trace_path is a path or None, not {trace_path!r}")
        if not isinstance(max_calls, int) or isinstance(max_calls, bool):
            raise TypeError(f"HookStats: max_calls must be an int, not {max_calls!r}")
        if max_calls < 1:
            raise ValueError(f"HookStats: max_calls must be at least 1, not {max_calls}")
        self.trace_path = None if trace_path is None else os.fspath(trace_path)
        self.max_calls = max_calls

    def before_run(self, runner: Any) -> None:
        runner.measure_hooks(max_spans=0 if self._path(runner) is None else self.max_calls)

    def close(self, runner: Any, error: BaseException | None) -> None:
        if not runner.is_measuring_hooks:  # the run has ended before it began
            return
        times, spans = runner.hook_stats(), runner.hook_spans()
        runner.measure_hooks(False)
        if runner.rank != 0:
            return
        runner.logger.info("time of hooks:\n%s", format_table(times))
        path = self._path(runner)
        if path is None:
            return
        try:
            with atomic_write(path) as file:
                file.write(json.dumps(chrome_trace(spans)).encode())
        except OSError as failure:
            runner.logger.warning("HookStats: the trace cannot be written: %s", failure)
        else:
            runner.logger.info("trace of the latest %d calls of hooks: %s", len(spans), path)

    def _path(self, runner: Any) -> str | None:
        if self.trace_path is None or os.path.isabs(self.trace_path):
            return self.trace_path
        return None if runner.work_dir is None else os.path.join(runner.work_dir, self.trace_path)
