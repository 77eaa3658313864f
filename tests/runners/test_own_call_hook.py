"""Runners whose ``call_hook`` is written for MMCV, and calls the hooks itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from hookrun.checkpoint import read_checkpoint
from tests.support import make_loader


class _OwnCallHook:
    """As mmgen's DynamicIterBasedRunner has it."""

    def call_hook(self: Any, fn_name: str) -> None:
        for hook in self._hooks:
            getattr(hook, fn_name)(self)


class OwnEpochRunner(_OwnCallHook, EpochBasedRunner):
    pass


class OwnIterRunner(_OwnCallHook, IterBasedRunner):
    pass


class Derived(OwnIterRunner):
    """Calls the other one by ``super``."""

    def call_hook(self, fn_name: str) -> None:
        super().call_hook(fn_name)


class Events(Hook):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def after_train_iter(self, runner: Any) -> None:
        self.seen.append((runner.current_event, runner.iter))

    def after_run(self, runner: Any) -> None:
        self.seen.append(runner.current_event)


def train(make_runner: Any, kind: type, folder: Path) -> Any:
    by_epoch = issubclass(kind, EpochBasedRunner)
    limit = {"max_epochs": 2} if by_epoch else {"max_iters": 6}
    runner = make_runner(kind, work_dir=str(folder), meta={}, **limit)
    runner.timestamp = "run"
    runner.register_training_hooks(
        None,
        {},
        {"interval": 2, "by_epoch": False},
        {"interval": 2, "hooks": [{"type": "TextLoggerHook"}]},
    )
    evaluation = {"interval": 1 if by_epoch else 3, "by_epoch": by_epoch, "save_best": "auto"}
    dataloader = make_loader(2)
    runner.register_hook({"type": "EvalHook", "dataloader": dataloader, **evaluation})
    events = Events()
    runner.register_hook(events)
    runner.run([make_loader(3)], [("train", 1)])
    return events.seen


@pytest.mark.parametrize(
    ("own", "shipped"),
    [
        (OwnEpochRunner, EpochBasedRunner),
        (OwnIterRunner, IterBasedRunner),
        (Derived, IterBasedRunner),
    ],
)
def test_files_and_lines_are_those_of_the_shipped_runner(
    make_runner: Any, tmp_path: Path, own: type, shipped: type
) -> None:
    folders = {kind: tmp_path / kind.__name__ for kind in (own, shipped)}
    events = {kind: train(make_runner, kind, folder) for kind, folder in folders.items()}
    assert events[own] == events[shipped]
    assert events[own][-1] == "after_run"
    names = {kind: sorted(path.name for path in folders[kind].iterdir()) for kind in folders}
    assert names[own] == names[shipped]
    assert any(name.startswith("best_") for name in names[own])
    lines = {kind: _lines(folders[kind] / "run.log.json") for kind in folders}
    assert lines[own] == lines[shipped]
    for name in names[own]:
        if name.endswith(".pth"):
            metas = [read_checkpoint(folders[kind] / name)["meta"] for kind in folders]
            assert [metas[0][key] for key in ("epoch", "iter")] == [
                metas[1][key] for key in ("epoch", "iter")
            ], name


def _lines(file: Path) -> list[Any]:
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    return [[line.get(key) for key in ("mode", "epoch", "iter")] for line in lines]


def test_the_event_ends_where_the_method_raises(make_runner: Any) -> None:
    class Raising(Hook):
        def before_run(self, runner: Any) -> None:
            raise RuntimeError("no")

    runner = make_runner(OwnEpochRunner)
    runner.register_hook(Raising())
    with pytest.raises(RuntimeError, match="no"):
        runner.call_hook(fn_name="before_run")
    assert runner.current_event is None
