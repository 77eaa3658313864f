"""ProfilerHook: profiles the first epochs or iterations of a run with torch.profiler."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler
from torch.profiler import schedule as make_schedule

from hookrun.core import HOOKS, Hook, starts_with_defaults
from hookrun.core.errors import did_you_mean

_ACTIVITIES = {"cpu": ProfilerActivity.CPU, "cuda": ProfilerActivity.CUDA}
_HANDLERS = ("log_trace", "tb_trace")


@HOOKS.register_module()
@starts_with_defaults()
class ProfilerHook(Hook):
    """Profiles the first epochs or iterations of a run, on rank 0.

    Without ``on_trace_ready`` and ``json_trace_path``, a table of the operations goes to the log.
    If the run ends before, what was recorded until then is handled, unless it ends by an error.

    Args:
        by_epoch: whether ``profile_iters`` counts epochs.
        profile_iters: how many epochs or iterations to profile.
        activities: what to record: ``'cpu'``, ``'cuda'`` or both. ``'cuda'`` is left out where
            there is no CUDA device.
        schedule: arguments of ``torch.profiler.schedule``, such as
            ``dict(wait=1, warmup=1, active=2)`` in iterations; by default all are recorded.
        on_trace_ready: called with the profiler when a trace is ready; or a dict:
            ``dict(type='log_trace', sort_by='self_cpu_time_total', row_limit=20)`` logs a table,
            with the arguments of ``table()`` of ``torch.profiler``;
            ``dict(type='tb_trace', dir_name='tf_tracing_logs')`` writes files for TensorBoard and
            Perfetto, with the arguments of ``torch.profiler.tensorboard_trace_handler``; a relative
            ``dir_name`` is a folder in ``work_dir``.
        record_shapes: whether to record the shapes of inputs.
        profile_memory: whether to record allocations of memory.
        with_stack: whether to record source code lines.
        with_flops: whether to estimate the FLOPs of matrix multiplications and convolutions.
        json_trace_path: a file for the Chrome trace, relative to the current folder; if there are
            several traces, for the last.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: ``profile_iters`` is below 1, an unknown activity or type, or a file and
            ``tb_trace``, of which torch can write one only. When the run begins: it has fewer
            epochs or iterations, or counts no epochs.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        by_epoch: bool = True,
        profile_iters: int = 1,
        activities: Iterable[str] = ("cpu", "cuda"),
        schedule: Mapping[str, Any] | None = None,
        on_trace_ready: Callable[[Any], Any] | Mapping[str, Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        with_flops: bool = False,
        json_trace_path: str | os.PathLike[str] | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "with_flops": with_flops,
        }
        for name, value in {"by_epoch": by_epoch, **options}.items():
            if not isinstance(value, bool):
                raise TypeError(f"ProfilerHook: {name} must be True or False, not {value!r}")
        if not isinstance(profile_iters, int) or isinstance(profile_iters, bool):
            raise TypeError(f"ProfilerHook: profile_iters must be an int, not {profile_iters!r}")
        if profile_iters < 1:
            raise ValueError(f"ProfilerHook: profile_iters must be at least 1, not {profile_iters}")
        if json_trace_path is not None and not isinstance(json_trace_path, (str, os.PathLike)):
            raise TypeError(
                f"ProfilerHook: json_trace_path is a path or None, not {json_trace_path!r}"
            )
        _check_handler(on_trace_ready)
        if _type_of(on_trace_ready) == "tb_trace" and json_trace_path is not None:
            raise ValueError(
                "ProfilerHook: json_trace_path and tb_trace both write the trace, and torch writes "
                "it once: leave one out (the files of tb_trace are Chrome traces too)"
            )
        self.by_epoch = by_epoch
        self.profile_iters = profile_iters
        self.activities = _check_activities(activities)
        self.schedule = None if schedule is None else _schedule(schedule)
        self.on_trace_ready = on_trace_ready
        self.json_trace_path = json_trace_path
        self._options = options
        self._profiler: profile | None = None
        self._done = 0  # epochs or iterations that were profiled
        self._traces = 0

    def before_run(self, runner: Any) -> None:
        self._check_length(runner)
        if runner.rank != 0:
            return
        self._done = self._traces = 0
        available = {
            ProfilerActivity.CPU: True,
            ProfilerActivity.CUDA: torch.cuda.is_available(),
        }
        handle = self._handler(runner)

        def ready(profiler: profile) -> None:
            self._traces += 1
            handle(profiler)

        self._profiler = profile(
            activities=[each for each in self.activities if available[each]] or None,
            schedule=self.schedule,
            on_trace_ready=ready,
            **self._options,
        )
        self._profiler.start()
        units = "epochs" if self.by_epoch else "iterations"
        runner.logger.info("ProfilerHook profiles the first %d %s", self.profile_iters, units)

    def after_train_iter(self, runner: Any) -> None:
        if self._profiler is None:
            return
        self._profiler.step()
        if not self.by_epoch:
            self._count(runner)

    def after_train_epoch(self, runner: Any) -> None:
        if self.by_epoch and self._profiler is not None:
            self._count(runner)

    def after_run(self, runner: Any) -> None:
        if self._profiler is not None:
            self._finish(runner)

    def close(self, runner: Any, error: BaseException | None) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is not None:  # the run ends by an error: nothing is made of the trace
            profiler.on_trace_ready = None
            profiler.stop()

    def _count(self, runner: Any) -> None:
        self._done += 1
        if self._done == self.profile_iters:
            self._finish(runner)

    def _finish(self, runner: Any) -> None:
        runner.logger.info("ProfilerHook makes its report, which may take a while")
        profiler, self._profiler = self._profiler, None
        assert profiler is not None
        profiler.stop()
        if self._traces == 0:
            runner.logger.warning(
                "ProfilerHook has recorded nothing: its schedule needs more iterations than the "
                "%d that it profiled",
                profiler.step_num,
            )

    def _check_length(self, runner: Any) -> None:
        limit = runner.max_epochs if self.by_epoch else runner.max_iters
        name = "max_epochs" if self.by_epoch else "max_iters"
        if limit is None and self.by_epoch:
            raise ValueError(
                f"ProfilerHook: by_epoch must be False, not True: {type(runner).__name__} measures "
                "its run in iterations"
            )
        if limit is not None and self.profile_iters > limit:
            raise ValueError(
                f"ProfilerHook: profile_iters={self.profile_iters} is more than {name}={limit}"
            )

    def _handler(self, runner: Any) -> Callable[[profile], None]:
        """What to do with a trace that is ready."""
        given, path = self.on_trace_ready, self.json_trace_path
        handlers: list[Callable[[profile], Any]] = []
        if isinstance(given, Mapping):
            arguments = {name: value for name, value in given.items() if name != "type"}
            if given["type"] == "tb_trace":
                handlers.append(_tensorboard_handler(runner, arguments))
            else:
                handlers.append(lambda profiler: _log_table(runner, profiler, arguments))
        elif given is not None:
            handlers.append(given)
        if path is not None:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            handlers.append(lambda profiler: profiler.export_chrome_trace(os.fspath(path)))
        if not handlers:
            handlers.append(lambda profiler: _log_table(runner, profiler, {"row_limit": 20}))

        def handle(profiler: profile) -> None:
            for each in handlers:
                each(profiler)

        return handle

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_profiler": None}


def _log_table(runner: Any, profiler: profile, arguments: Mapping[str, Any]) -> None:
    runner.logger.info("profile:\n%s", profiler.key_averages().table(**arguments))


def _tensorboard_handler(runner: Any, arguments: dict[str, Any]) -> Callable[[profile], None]:
    folder = os.fspath(arguments.pop("dir_name", "tf_tracing_logs"))
    if runner.work_dir is not None:
        folder = os.path.join(runner.work_dir, folder)
    elif not os.path.isabs(folder):
        raise ValueError(
            f"ProfilerHook: dir_name={folder!r} of tb_trace is relative to work_dir, and the "
            "runner has none: give an absolute path"
        )
    handler: Callable[[profile], None] = tensorboard_trace_handler(folder, **arguments)
    return handler


def _type_of(on_trace_ready: Any) -> Any:
    return on_trace_ready.get("type") if isinstance(on_trace_ready, Mapping) else None


def _check_handler(given: Any) -> None:
    if given is None or callable(given):
        return
    if not isinstance(given, Mapping):
        raise TypeError(
            "ProfilerHook: on_trace_ready is a function, a dict such as dict(type='log_trace') or "
            f"None, not {given!r}"
        )
    kind = given.get("type")
    if kind not in _HANDLERS:
        raise ValueError(
            f"ProfilerHook: on_trace_ready has the unknown type {kind!r}. "
            + did_you_mean(str(kind), _HANDLERS)
        )
    arguments = {name: value for name, value in given.items() if name != "type"}
    if kind == "log_trace":
        _check_arguments("log_trace", torch.autograd.profiler_util.EventList.table, [], **arguments)
    else:
        _check_arguments("tb_trace", tensorboard_trace_handler, **{"dir_name": "", **arguments})


def _schedule(given: Any) -> Callable[[int], Any]:
    if callable(given):
        return given  # type: ignore[no-any-return]  # as torch takes it
    if not isinstance(given, Mapping):
        raise TypeError(
            "ProfilerHook: schedule is a dict such as dict(wait=1, warmup=1, active=2) or None, "
            f"not {given!r}"
        )
    _check_arguments("schedule", make_schedule, **given)
    try:
        return make_schedule(**given)
    except AssertionError as error:
        raise ValueError(f"ProfilerHook: schedule={dict(given)!r}: {error}") from None


def _check_arguments(what: str, function: Callable[..., Any], *given: Any, **named: Any) -> None:
    try:
        inspect.signature(function).bind(*given, **named)
    except TypeError as error:
        raise TypeError(f"ProfilerHook: {what}: {error}") from None


def _check_activities(activities: Any) -> list[ProfilerActivity]:
    names = [activities] if isinstance(activities, str) else list(activities)
    for name in names:
        if name not in _ACTIVITIES:
            raise ValueError(
                f"ProfilerHook: activities are 'cpu' and 'cuda', not {name!r}. "
                + did_you_mean(str(name), _ACTIVITIES)
            )
    if not names:
        raise ValueError("ProfilerHook: activities must have 'cpu' or 'cuda'")
    return [_ACTIVITIES[name] for name in names]
