"""EvalHook: what is logged, apart from training and once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookrun import (
    EvalHook,
    IterBasedRunner,
    LoggerHook,
)
from tests.support import make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Lines(LoggerHook):
    """Keeps what would be logged."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def log(self, runner: Any) -> None:
        self.lines.append((runner.iter + 1, dict(runner.log_buffer.output)))


@pytest.mark.parametrize("runner_type", ["epoch", "iter"])
@pytest.mark.parametrize("intervals", [(1, 2), (2, 3), (3, 2), (4, 1), (5, 7)])
def test_by_iteration_training_and_evaluation_are_logged_apart_and_once(
    make_runner: MakeRunner, runner_type: str, intervals: tuple[int, int]
) -> None:
    runner = (
        make_runner(IterBasedRunner, max_iters=12)
        if runner_type == "iter"
        else make_runner(max_epochs=1)
    )
    loggers = [Lines(interval=interval, by_epoch=False) for interval in intervals]
    runner.register_hook(EvalHook(make_loader(), interval=3, by_epoch=False))
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(12)], TRAIN)
    for each, interval in zip(loggers, intervals, strict=True):
        expected = []
        for iteration in range(1, 13):
            if iteration % interval == 0:
                expected.append((iteration, {"loss"}))
            if iteration % 3 == 0:
                expected.append((iteration, {"eval_iter_num", "acc"}))
        assert [(at, set(output)) for at, output in each.lines] == expected


def test_averages_go_on_over_an_evaluation(make_runner: MakeRunner) -> None:
    def logged(evaluate: bool) -> list[Any]:
        runner, lines = make_runner(IterBasedRunner, max_iters=8), Lines(interval=4, by_epoch=False)
        if evaluate:
            runner.register_hook(EvalHook(make_loader(), interval=3, by_epoch=False))
        runner.register_hook(lines, "VERY_LOW")
        runner.run([make_loader(8)], TRAIN)
        return [line for line in lines.lines if "loss" in line[1]]

    assert logged(True) == logged(False)
    assert len(logged(True)) == 2


def test_two_evaluations_at_one_iteration_are_both_logged(make_runner: MakeRunner) -> None:
    runner, lines = make_runner(IterBasedRunner, max_iters=2), Lines(interval=2, by_epoch=False)
    for name in ("one", "two"):
        loader = make_loader(scores=[{name: 0.5}])
        runner.register_hook(EvalHook(loader, interval=2, by_epoch=False))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(2)], TRAIN)
    assert [set(output) - {"eval_iter_num"} for _, output in lines.lines] == [
        {"loss"},
        {"one"},
        {"Points/two"},  # named after its dataset, as there is one EvalHook before
    ]


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_evaluation_before_training_is_logged_by_itself(
    make_runner: MakeRunner, by_epoch: bool
) -> None:
    runner = make_runner(max_epochs=1) if by_epoch else make_runner(IterBasedRunner, max_iters=2)
    loggers = [Lines(interval=1, by_epoch=by_epoch), Lines(interval=2, by_epoch=by_epoch)]
    runner.register_hook(EvalHook(make_loader(), start=0, interval=9, by_epoch=by_epoch))
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(2)], TRAIN)
    kinds = [[set(output) for _, output in each.lines] for each in loggers]
    evaluation = {"eval_iter_num", "acc"}
    assert kinds == [[evaluation, {"loss"}, {"loss"}], [evaluation, {"loss"}]]


def test_the_text_log_says_which_epoch_was_evaluated_before_training(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(max_epochs=6)
    runner._epoch = 5
    runner.register_hook(EvalHook(make_loader(), start=5))
    runner.register_logger_hooks({"hooks": [{"type": "TextLoggerHook"}]})
    runner.run([make_loader(1)], TRAIN)
    (path,) = Path(runner.work_dir).glob("*.log.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["mode"], line["epoch"], line["iter"]) for line in lines] == [
        ("val", 5, 4),
        ("train", 6, 1),
        ("val", 6, 4),
    ]


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize(
    "priorities",
    [
        (50, [50]),
        (90, [50]),
        (100, [90]),
        (70, [40, 90]),
        (70, [90, 40, 90]),
        (100, [40, 50, 90]),
        (0, [90]),
    ],
)
@pytest.mark.parametrize("interval", [1, 2, 3])
def test_every_logger_has_every_evaluation_whichever_comes_first(
    make_runner: MakeRunner, by_epoch: bool, priorities: tuple[int, list[int]], interval: int
) -> None:
    evaluation, of_loggers = priorities
    runner = make_runner(max_epochs=2) if by_epoch else make_runner(IterBasedRunner, max_iters=6)
    loggers = [Lines(interval=interval, by_epoch=by_epoch) for _ in of_loggers]
    for each, priority in zip(loggers, of_loggers, strict=True):
        runner.register_hook(each, priority)
    hook = EvalHook(make_loader(), interval=1 if by_epoch else 3, by_epoch=by_epoch)
    runner.register_hook(hook, evaluation)
    runner.run([make_loader(3)], TRAIN)
    training = [("loss", iteration) for iteration in range(1, 7)]
    training = [(n, i) for n, i in training if ((i - 1) % 3 + 1 if by_epoch else i) % interval == 0]
    for each in loggers:
        names = [("acc" if "acc" in output else "loss", at) for at, output in each.lines]
        assert [line for line in names if line[0] == "loss"] == training
        shift = 1 if by_epoch else 0  # behind an epoch, its last iteration is counted already
        assert [line for line in names if line[0] == "acc"] == [
            ("acc", 3 + shift),
            ("acc", 6 + shift),
        ]
