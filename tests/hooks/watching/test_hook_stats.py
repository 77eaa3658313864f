"""HookStats: a table at the end of a run, and a Chrome trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hookrun import ClosureHook, EpochBasedRunner, HookStats, IterBasedRunner
from tests.support import make_loader


def train(make_runner: Any, kind: type, hook: HookStats, **arguments: Any) -> Any:
    runner = make_runner(kind, **arguments)
    runner.register_training_hooks(None, {})
    runner.register_hook(hook, priority="HIGHEST")
    runner.run([make_loader(3)], [("train", 1)])
    return runner


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_the_table_and_the_trace(
    make_runner: Any, kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    runner = train(make_runner, kind, HookStats())
    (table,) = [each for each in caplog.messages if each.startswith("time of hooks:\n")]
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("OptimizerHook") for line in lines)
    steps = 6 if kind is EpochBasedRunner else 2
    (called,) = [line.split()[1:2] for line in lines if line.startswith("  before_train_iter")]
    assert called == [str(steps)]
    trace = json.loads(Path(runner.work_dir, "hook_trace.json").read_text())
    rows = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {"OptimizerHook", "IterTimerHook"} <= rows
    assert not runner.is_measuring_hooks


def test_it_is_there_after_an_error_too(
    make_runner: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    runner = make_runner()
    runner.register_hook(HookStats(str(tmp_path / "trace.json"), max_calls=2))
    runner.register_hook(ClosureHook("after_train_iter", lambda runner: 1 / 0))
    with pytest.raises(ZeroDivisionError):
        runner.run([make_loader(3)], [("train", 1)])
    assert "ClosureHook" in caplog.text
    assert (tmp_path / "trace.json").exists()


def test_where_no_trace_is_written(make_runner: Any, caplog: pytest.LogCaptureFixture) -> None:
    train(make_runner, EpochBasedRunner, HookStats(), work_dir=None)
    runner = train(make_runner, EpochBasedRunner, HookStats(None))
    assert not list(Path(runner.work_dir).iterdir())
    assert caplog.text.count("time of hooks:") == 2
    train(make_runner, EpochBasedRunner, HookStats("/dev/null/x.json"))
    assert "HookStats: the trace cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"trace_path": 3}, TypeError),
        ({"max_calls": 0}, ValueError),
        ({"max_calls": 1.5}, TypeError),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="HookStats"):
        HookStats(**arguments)
