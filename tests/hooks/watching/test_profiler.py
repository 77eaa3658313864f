"""ProfilerHook: profiles with torch.profiler, and does with the traces what it is asked to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch.profiler import ProfilerActivity

from hookrun import ClosureHook, EpochBasedRunner, IterBasedRunner, ProfilerHook
from tests.support import make_loader

CPU = {"activities": ["cpu"]}


def train(make_runner: Any, kind: type, *hooks: Any, **arguments: Any) -> Any:
    runner = make_runner(kind, **{**limit(kind, 3), **arguments})
    runner.register_optimizer_hook({})
    for hook in hooks:
        runner.register_hook(hook)
    runner.run([make_loader(4)], [("train", 1)])
    return runner


def limit(kind: type, count: int) -> dict[str, int]:
    return {"max_epochs" if kind is EpochBasedRunner else "max_iters": count}


def names_in(path: Path) -> list[str]:
    """The names of all that a Chrome trace has."""
    return [each.get("name", "") for each in json.loads(path.read_text())["traceEvents"]]


def count_steps(path: Path) -> int:
    """The training steps in a trace; each calls the model's linear layer once."""
    return names_in(path).count("aten::linear")


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_epochs_or_iterations_are_in_the_trace(
    make_runner: Any, tmp_path: Path, kind: type, count: int
) -> None:
    path = tmp_path / "traces" / "first.json"
    by_epoch = kind is EpochBasedRunner
    hook = ProfilerHook(by_epoch, count, json_trace_path=path, **CPU)
    seen = []
    watch = ClosureHook("before_train_iter", lambda runner: seen.append(hook._profiler is not None))
    train(make_runner, kind, hook, watch)
    profiled = count * 4 if by_epoch else count
    assert seen.count(True) == profiled
    assert seen == sorted(seen, reverse=True)
    assert count_steps(path) == profiled


def test_a_schedule_skips_iterations(make_runner: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    schedule = {"wait": 1, "warmup": 1, "active": 2, "repeat": 1}
    hook = ProfilerHook(False, 6, schedule=schedule, json_trace_path=path, **CPU)
    train(make_runner, IterBasedRunner, hook, max_iters=8)
    assert count_steps(path) == 2
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= set(names_in(path))


def test_a_schedule_that_records_nothing_is_warned_about(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = {"wait": 5, "warmup": 1, "active": 1}
    train(make_runner, IterBasedRunner, ProfilerHook(False, 3, schedule=schedule, **CPU))
    assert "ProfilerHook has recorded nothing: its schedule needs more iterations" in caplog.text


@pytest.mark.parametrize(
    ("on_trace_ready", "rows"),
    [(None, 20), ({"type": "log_trace", "sort_by": "self_cpu_time_total", "row_limit": 2}, 2)],
)
def test_a_table_in_the_log(
    make_runner: Any, caplog: pytest.LogCaptureFixture, on_trace_ready: Any, rows: int
) -> None:
    given = None if on_trace_ready is None else dict(on_trace_ready)
    train(make_runner, EpochBasedRunner, ProfilerHook(on_trace_ready=on_trace_ready, **CPU))
    assert given == on_trace_ready  # not modified
    (table,) = [each for each in caplog.messages if each.startswith("profile:\n")]
    assert "Self CPU" in table
    separators = [n for n, line in enumerate(table.splitlines()) if set(line) == {"-", " "}]
    assert separators[2] - separators[1] - 1 == rows


@pytest.mark.parametrize("folder", [None, "mine", "absolute"])
def test_files_for_tensorboard(make_runner: Any, tmp_path: Path, folder: Any) -> None:
    arguments = {} if folder is None else {"dir_name": folder}
    if folder == "absolute":
        arguments["dir_name"] = str(tmp_path / "elsewhere")
    handler = {"type": "tb_trace", "worker_name": "me", **arguments}
    runner = train(make_runner, EpochBasedRunner, ProfilerHook(on_trace_ready=handler, **CPU))
    expected = Path(runner.work_dir, arguments.get("dir_name", "tf_tracing_logs"))
    (file,) = expected.glob("me.*.pt.trace.json")
    assert count_steps(file) == 4


def test_a_function_gets_the_profiler_and_the_file_is_written_too(
    make_runner: Any, tmp_path: Path
) -> None:
    shapes = []
    hook = ProfilerHook(
        on_trace_ready=lambda p: shapes.extend(e.input_shapes for e in p.events()),
        record_shapes=True,
        profile_memory=True,
        with_stack=True,
        with_flops=True,
        json_trace_path=str(tmp_path / "trace.json"),
        **CPU,
    )
    train(make_runner, EpochBasedRunner, hook)
    assert [2, 2] in [shape for each in shapes for shape in each]
    assert count_steps(tmp_path / "trace.json") == 4


def test_a_run_that_is_stopped_gives_what_there_is(make_runner: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    hook = ProfilerHook(profile_iters=2, json_trace_path=path, **CPU)
    train(make_runner, EpochBasedRunner, hook, ClosureHook("after_train_iter", lambda r: r.stop()))
    assert count_steps(path) == 1


def test_after_an_error_the_profiler_is_stopped_and_another_run_may_profile(
    make_runner: Any, tmp_path: Path
) -> None:
    path = tmp_path / "trace.json"
    hook = ProfilerHook(json_trace_path=path, **CPU)
    fail = ClosureHook("after_train_iter", lambda runner: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(make_runner, EpochBasedRunner, hook, fail)
    assert not path.exists()
    train(make_runner, EpochBasedRunner, ProfilerHook(json_trace_path=path, **CPU))
    assert path.exists()


def test_a_resumed_run_profiles_its_own_beginning(make_runner: Any, tmp_path: Path) -> None:
    runner = train(make_runner, IterBasedRunner)
    runner.save_checkpoint(runner.work_dir, filename_tmpl="three.pth")
    again = make_runner(IterBasedRunner, max_iters=6)
    path = tmp_path / "trace.json"
    again.register_profiler_hook(
        {"by_epoch": False, "profile_iters": 2, "json_trace_path": str(path), **CPU}
    )
    again.resume(Path(runner.work_dir) / "three.pth")
    again.run([make_loader(4)], [("train", 1)])
    assert count_steps(path) == 2


def test_only_rank_0_is_profiled(make_runner: Any) -> None:
    runner = make_runner()
    runner._rank = 1
    hook = ProfilerHook(**CPU)
    runner.register_hook(hook)
    watch = ClosureHook("before_train_iter", lambda runner: seen.append(hook._profiler))
    seen: list[Any] = []
    runner.register_hook(watch)
    runner.run([make_loader(2)], [("train", 1)])
    assert set(seen) == {None}


def test_the_default_activities_leave_out_what_is_not_there() -> None:
    assert ProfilerHook().activities == [ProfilerActivity.CPU, ProfilerActivity.CUDA]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (EpochBasedRunner, {"profile_iters": 4}, "profile_iters=4 is more than max_epochs=3"),
        (IterBasedRunner, {"by_epoch": False, "profile_iters": 4}, "is more than max_iters=3"),
        (IterBasedRunner, {}, "by_epoch must be False, not True: IterBasedRunner measures its run"),
        (
            EpochBasedRunner,
            {"on_trace_ready": {"type": "tb_trace"}, "work_dir": None},
            "dir_name='tf_tracing_logs' of tb_trace is relative to work_dir",
        ),
    ],
)
def test_runs_that_it_does_not_fit(
    make_runner: Any, kind: type, arguments: dict[str, Any], message: str
) -> None:
    own = {name: value for name, value in arguments.items() if name != "work_dir"}
    others = {name: value for name, value in arguments.items() if name == "work_dir"}
    with pytest.raises(ValueError, match=message):
        train(make_runner, kind, ProfilerHook(**own), **others)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"by_epoch": 1}, TypeError, "by_epoch must be True or False, not 1"),
        ({"profile_iters": 0}, ValueError, "profile_iters must be at least 1, not 0"),
        ({"profile_iters": 1.0}, TypeError, "profile_iters must be an int, not 1.0"),
        ({"activities": ["gpu"]}, ValueError, "activities are 'cpu' and 'cuda', not 'gpu'"),
        ({"activities": []}, ValueError, "activities must have"),
        ({"schedule": {"wait": 1}}, TypeError, "schedule: missing a required"),
        ({"schedule": {"wait": 1, "warmup": 1, "active": 0}}, ValueError, "schedule="),
        ({"schedule": 3}, TypeError, "schedule is a dict such as"),
        ({"on_trace_ready": "log_trace"}, TypeError, "on_trace_ready is a function, a dict"),
        ({"on_trace_ready": {"type": "log_tarce"}}, ValueError, "Did you mean 'log_trace'"),
        ({"on_trace_ready": {}}, ValueError, "unknown type None"),
        (
            {"on_trace_ready": {"type": "log_trace", "sortby": "x"}},
            TypeError,
            "log_trace: got an unexpected keyword argument 'sortby'",
        ),
        (
            {"on_trace_ready": {"type": "tb_trace", "folder": "x"}},
            TypeError,
            "tb_trace: got an unexpected keyword argument 'folder'",
        ),
        ({"record_shapes": "yes"}, TypeError, "record_shapes must be True or False, not 'yes'"),
        ({"json_trace_path": 3}, TypeError, "json_trace_path is a path or None, not 3"),
        (
            {"json_trace_path": "x.json", "on_trace_ready": {"type": "tb_trace"}},
            ValueError,
            "both write the trace",
        ),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"ProfilerHook: .*{message}"):
        ProfilerHook(**arguments)
