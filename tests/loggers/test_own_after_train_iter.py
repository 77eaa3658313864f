"""Loggers with an ``after_train_iter`` of their own, written as MMCV's."""

from __future__ import annotations

from typing import Any

import pytest

from hookrun import Hook, IterBasedRunner, LoggerHook
from tests.support import make_loader


class Lines(LoggerHook):
    def __init__(self, interval: int = 2, **keywords: Any) -> None:
        super().__init__(interval, **keywords)
        self.lines: list[Any] = []

    def log(self, runner: Any) -> None:
        values = {key for key in runner.log_buffer.output if "time" not in key}
        self.lines.append((self.get_mode(runner), runner.iter, values - {"eval_iter_num"}))


class Own(Lines):
    """The body of MMCV's LoggerHook."""

    def after_train_iter(self, runner: Any) -> None:
        every = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        if every(runner, self.interval):
            runner.log_buffer.average(self.interval)
        if runner.log_buffer.ready:
            self.log(runner)
            if self.reset_flag:
                runner.log_buffer.clear_output()


class Supering(Lines):
    calls = 0

    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)
        self.calls += 1


class Note(Hook):
    """Puts a value into the output without saying that it is ready."""

    def after_train_iter(self, runner: Any) -> None:
        runner.log_buffer.output["note"] = 1.0


TRAINED = {"loss"}
EVERY_SECOND = [("train", 1, TRAINED), ("train", 3, TRAINED)]


def run(make_runner: Any, *hooks: Hook, **keywords: Any) -> list[Any]:
    runner = make_runner(**{"max_epochs": 1, **keywords})
    for hook in hooks:
        runner.register_hook(hook, priority="VERY_LOW" if isinstance(hook, LoggerHook) else None)
    runner.run([make_loader(5)], [("train", 1)])
    return [hook.lines for hook in hooks if isinstance(hook, Lines)]


@pytest.mark.parametrize(
    "kinds",
    [(Own,), (Own, Own), (Own, Lines), (Lines, Own), (Lines, Own, Supering), (Supering, Own)],
)
def test_each_logs_at_its_interval(make_runner: Any, kinds: tuple[type[Lines], ...]) -> None:
    loggers = [kind() for kind in kinds]
    for lines in run(make_runner, *loggers):
        assert lines == EVERY_SECOND
    assert all(hook.calls == 5 for hook in loggers if isinstance(hook, Supering))


def test_another_interval(make_runner: Any) -> None:
    shipped, own = run(make_runner, Lines(2), Own(3))
    assert shipped == EVERY_SECOND
    assert own == [("train", 2, TRAINED)]


def test_what_other_hooks_write_reaches_all(make_runner: Any) -> None:
    noted = {*TRAINED, "note"}
    shipped, own = run(make_runner, Note(), Lines(2), Own(3))
    assert shipped == [("train", 1, noted), ("train", 3, noted)]
    assert own == [("train", 2, noted)]


@pytest.mark.parametrize("kinds", [(Own,), (Lines, Own), (Own, Lines)])
def test_scores_stay_apart_from_averages(make_runner: Any, kinds: tuple[type[Lines], ...]) -> None:
    evaluation = {
        "type": "EvalHook",
        "dataloader": make_loader(2),
        "interval": 2,
        "by_epoch": False,
        "priority": "LOW",
    }
    runner = make_runner(IterBasedRunner, max_iters=5)
    runner.register_hook(evaluation)
    loggers = [kind(by_epoch=False) for kind in kinds]
    for logger in loggers:
        runner.register_hook(logger, priority="VERY_LOW")
    runner.run([make_loader(5)], [("train", 1)])
    for logger in loggers:
        assert [(mode, at) for mode, at, _ in logger.lines] == [
            ("train", 1),
            ("val", 1),
            ("train", 3),
            ("val", 3),
        ]
        assert all(("acc" in keys) == (mode == "val") for mode, _, keys in logger.lines)
