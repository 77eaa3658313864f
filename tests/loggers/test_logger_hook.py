"""LoggerHook: when a logger is due, and that none disturbs another or the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from hookrun import ClosureHook, Hook, IterBasedRunner, LoggerHook
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Lines(LoggerHook):
    """Keeps what would be logged, with the iteration (from 1)."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def log(self, runner: Any) -> None:
        self.lines.append((runner.iter + 1, dict(runner.log_buffer.output)))

    @property
    def at(self) -> list[int]:
        return [at for at, _ in self.lines]


class Counting(TinyModel):
    """Reports 1, 2, 3, ..."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        self.step += 1
        return {"log_vars": {"step": float(self.step)}}


def run(make_runner: MakeRunner, *loggers: Hook, epochs: int = 2, batches: int = 5) -> Any:
    runner = make_runner(model=Counting(), max_epochs=epochs)
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(batches)], TRAIN)
    return runner


# When


@pytest.mark.parametrize(
    ("keywords", "at"),
    [
        ({"interval": 2}, [2, 4, 7, 9]),
        ({"interval": 2, "ignore_last": False}, [2, 4, 5, 7, 9, 10]),
        ({"interval": 5, "ignore_last": False}, [5, 10]),
        ({"interval": 7}, [5, 10]),
        ({"interval": 7, "ignore_last": False}, [5, 10]),
        ({"interval": 4, "by_epoch": False}, [4, 8]),
        ({"interval": 4, "by_epoch": False, "ignore_last": False}, [4, 5, 8, 10]),
    ],
)
def test_iterations_that_are_logged(
    make_runner: MakeRunner, keywords: dict[str, Any], at: list[int]
) -> None:
    lines = Lines(**keywords)
    run(make_runner, lines)
    assert lines.at == at


def test_averages_are_of_the_interval_and_end_with_the_epoch(make_runner: MakeRunner) -> None:
    lines = Lines(interval=2, ignore_last=False)
    run(make_runner, lines)
    # The last of an epoch averages the latest two, as in MMCV; none reaches into the epoch before.
    assert [output["step"] for _, output in lines.lines] == [1.5, 3.5, 4.5, 6.5, 8.5, 9.5]


@pytest.mark.parametrize("pair", [(2, 3), (3, 2), (2, 4), (4, 2), (1, 5)])
def test_loggers_of_different_intervals_log_as_if_alone(
    make_runner: MakeRunner, pair: tuple[int, int]
) -> None:
    together = [Lines(interval=interval, ignore_last=False) for interval in pair]
    run(make_runner, *together)
    for each in together:
        alone = Lines(interval=each.interval, ignore_last=False)
        run(make_runner, alone)
        assert each.lines == alone.lines


def test_a_ready_output_is_logged_by_every_logger_and_cleared(make_runner: MakeRunner) -> None:
    def put(runner: Any) -> None:
        if runner.iter == 2:
            runner.log_buffer.output["mine"] = "here"
            runner.log_buffer.ready = True

    loggers = [Lines(interval=5), Lines(interval=4)]
    runner = run(make_runner, ClosureHook("after_train_iter", put), *loggers, epochs=1)
    lines = [[line for line in each.lines if "step" not in line[1]] for each in loggers]
    assert lines == [[(3, {"mine": "here"})]] * 2
    assert runner.log_buffer.output == {}


def test_results_at_the_end_of_an_epoch_are_logged_by_every_logger(
    make_runner: MakeRunner,
) -> None:
    def put(runner: Any) -> None:
        runner.log_buffer.output["acc"] = 0.5
        runner.log_buffer.ready = True

    loggers = [Lines(interval=3), Lines(interval=4)]
    run(make_runner, ClosureHook("after_train_epoch", put), *loggers, epochs=1)
    assert [set(output) for _, output in loggers[0].lines] == [{"step"}, {"acc"}]
    assert [set(output) for _, output in loggers[1].lines] == [{"step"}, {"acc"}]


def test_a_val_epoch_is_averaged_as_a_whole(make_runner: MakeRunner) -> None:
    runner, loggers = make_runner(max_epochs=1), [Lines(interval=9), Lines(interval=8)]
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(4), make_loader(3)], [("train", 1), ("val", 1)])
    losses = [runner.model.val_step(batch)["loss"].item() for batch in make_loader(3)]
    for each in loggers:
        assert each.lines[-1][1] == {"loss": pytest.approx(np.mean(losses))}
        assert len(each.lines) == 2  # and one of training, which fills no interval


def test_a_loader_without_length_has_no_last_batch(make_runner: MakeRunner) -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter(make_loader(5))

    runner, lines = make_runner(max_epochs=1), Lines(interval=2, ignore_last=False)
    runner.register_hook(lines, "VERY_LOW")
    runner.run([Endless()], TRAIN)
    assert lines.at == [2, 4]


def test_assigning_the_interval_takes_effect(make_runner: MakeRunner) -> None:
    lines = Lines(interval=4)
    first = ClosureHook("before_train_epoch", lambda runner: setattr(lines, "interval", 2))
    run(make_runner, first, lines, epochs=1)
    assert lines.at == [2, 4]


def test_no_logger_touches_another(make_runner: MakeRunner) -> None:
    loggers = [Lines(interval=2), Lines(interval=3, reset_flag=True)]
    run(make_runner, *loggers)
    assert [each.reset_flag for each in loggers] == [False, True]


def test_a_second_run_logs_again(make_runner: MakeRunner) -> None:
    lines = Lines(interval=2)
    runner = run(make_runner, lines, epochs=1)
    runner._max_epochs = 2
    runner.run([make_loader(5)], TRAIN)
    assert lines.at == [2, 4, 7, 9]


# A logger must never end or change a run


class Failing(Lines):
    def log(self, runner: Any) -> None:
        super().log(runner)
        raise ConnectionError("no route to host")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_logger_that_raises_is_reported_once_and_the_others_go_on(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    failing, others = Failing(interval=2), [Lines(interval=2), Lines(interval=3)]
    loggers: list[Hook] = [*others]
    loggers.insert(place, failing)
    runner = run(make_runner, *loggers)
    assert runner.iter == 10
    assert failing.at == [2]
    assert [each.at for each in others] == [[2, 4, 7, 9], [3, 8]]
    reports = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(reports) == 1
    assert "Failing failed and is disabled" in reports[0].getMessage()
    assert "no route to host" in reports[0].getMessage()
    assert reports[0].exc_info is not None


def test_ctrl_c_in_a_logger_ends_the_run(make_runner: MakeRunner) -> None:
    class Interrupted(Lines):
        def log(self, runner: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(make_runner, Interrupted(interval=2))


# What a back end reads


def test_tags_of_a_run(make_runner: MakeRunner) -> None:
    tags = []

    class Tags(Lines):
        def log(self, runner: Any) -> None:
            runner.log_buffer.output.update(time=0.1, data_time=0.0, text="hello")
            tags.append(self.get_loggable_tags(runner))
            tags.append(self.get_loggable_tags(runner, allow_text=True, add_mode=False))
            tags.append(self.get_loggable_tags(runner, allow_scalar=False, tags_to_skip=()))

    run(make_runner, Tags(interval=5), epochs=1)
    rates = {"learning_rate": 0.1, "momentum": 0.9}
    assert tags == [
        {"train/step": 3.0, **rates},
        {"step": 3.0, "text": "hello", **rates},
        rates,
    ]


def test_tags_of_several_optimizers_and_of_none(make_runner: MakeRunner) -> None:
    model, hook = TinyModel(), Lines()
    optimizers = {
        "gen": torch.optim.Adam(model.parameters(), lr=0.5),
        "dis": torch.optim.SGD(model.parameters(), lr=0.25),
    }
    runner = make_runner(model=model, optimizer=optimizers)
    runner.mode = "train"
    assert hook.get_loggable_tags(runner) == {
        "learning_rate/gen": 0.5,
        "learning_rate/dis": 0.25,
        "momentum/gen": 0.9,
        "momentum/dis": 0,
    }
    assert hook.get_loggable_tags(make_runner(optimizer=None)) == {}


@pytest.mark.parametrize(
    ("value", "scalar"),
    [
        (1, True),
        (1.5, True),
        (True, True),
        (np.float32(1), True),
        (np.array(1.0), True),
        (np.array([1.0]), False),
        (torch.tensor(1.0), True),
        (torch.tensor([1.0]), True),
        (torch.tensor([1.0, 2.0]), False),
        ("1", False),
        (None, False),
    ],
)
def test_is_scalar(value: Any, scalar: bool) -> None:
    assert LoggerHook.is_scalar(value) is scalar


def test_is_scalar_on_request_without_arrays_and_tensors() -> None:
    assert not LoggerHook.is_scalar(np.array(1.0), include_np=False)
    assert not LoggerHook.is_scalar(torch.tensor(1.0), include_torch=False)


def test_mode_epoch_and_iteration_on_a_mock() -> None:
    runner, hook = MagicMock(mode="train", epoch=2, iter=10, inner_iter=3), Lines()
    runner.log_buffer.output = {"time": 0.1}
    read = (hook.get_mode(runner), hook.get_epoch(runner), hook.get_iter(runner))
    assert read == ("train", 3, 11)
    assert hook.get_iter(runner, inner_iter=True) == 4
    runner.log_buffer.output = {"acc": 0.1}
    assert hook.get_mode(runner) == "val"
    runner.mode = "val"
    assert (hook.get_mode(runner), hook.get_epoch(runner)) == ("val", 2)
    runner.mode = "test"
    with pytest.raises(ValueError, match="'train' or 'val', not 'test'"):
        hook.get_mode(runner)
    with pytest.raises(ValueError, match="'train' or 'val', not 'test'"):
        hook.get_epoch(runner)


# Subclasses


def test_overrides_of_mmcv_style_loggers_are_used(make_runner: MakeRunner) -> None:
    class Mine(Lines):
        def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
            return 1000 + super().get_iter(runner, inner_iter)

        def get_epoch(self, runner: Any) -> int:
            return 50

        def get_mode(self, runner: Any) -> str:
            return "test"

        def get_loggable_tags(self, runner: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {"mine": 1.0, **super().get_loggable_tags(runner, *args, **kwargs)}

        def log(self, runner: Any) -> None:
            self.lines.append((self.get_iter(runner), self.get_loggable_tags(runner)))

    mine = Mine(interval=5)
    run(make_runner, mine, epochs=1)
    ((at, tags),) = mine.lines
    assert at == 1005
    assert {"mine", "test/step"} <= tags.keys()


@pytest.mark.parametrize("name", ["is_due", "every_n_inner_iters", "after_train_iter"])
def test_no_native_trigger_bypasses_an_override(make_runner: MakeRunner, name: str) -> None:
    class Due(Lines):
        def is_due(self, runner: Any) -> bool:
            return bool(runner.iter == 2)

    class Every(Lines):
        def every_n_inner_iters(self, runner: Any, n: int) -> bool:
            return bool(runner.iter == 2)

    class After(Lines):
        def after_train_iter(self, runner: Any) -> None:
            if runner.iter == 2:
                runner.log_buffer.average(self.interval)
                self.log(runner)
                runner.log_buffer.clear_output()

    kinds: dict[str, type[Lines]] = {
        "is_due": Due,
        "every_n_inner_iters": Every,
        "after_train_iter": After,
    }
    hook = kinds[name](interval=100)
    run(make_runner, hook)
    assert hook.at == [3]


def test_a_subclass_without_super_init_still_logs(make_runner: MakeRunner) -> None:
    class Bare(LoggerHook):
        def __init__(self) -> None:
            self.interval, self.ignore_last, self.by_epoch = 5, True, True
            self.seen: list[int] = []

        def log(self, runner: Any) -> None:
            self.seen.append(runner.iter)

    hook = Bare()
    run(make_runner, hook, epochs=1)
    assert hook.seen == [4]


def test_methods_can_be_called_on_a_mock_that_never_saw_before_run() -> None:
    runner, hook = MagicMock(epoch=0, iter=9, inner_iter=9), Lines(interval=10)
    runner.log_buffer.output, runner.log_buffer.ready = {"loss": 1.0}, False
    runner.log_buffer.average.side_effect = lambda n: setattr(runner.log_buffer, "ready", True)
    hook.before_epoch(runner)
    runner.log_buffer.clear.assert_called_once_with()
    hook.after_train_iter(runner)
    runner.log_buffer.average.assert_called_once_with(10)
    runner.log_buffer.clear_output.assert_called_once_with()
    assert hook.lines == [(10, {"loss": 1.0})]


@pytest.mark.parametrize("interval", [0, -1, 1.5, "10", True, None])
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises(ValueError, match="Lines: interval must be a positive int"):
        Lines(interval=interval)


def test_by_iteration_the_log_goes_on_over_epochs(make_runner: MakeRunner) -> None:
    runner, lines = make_runner(IterBasedRunner, max_iters=9), Lines(interval=4, by_epoch=False)
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(3)], TRAIN)
    assert lines.at == [4, 8]
