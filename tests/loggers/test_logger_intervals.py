"""LoggerHook: whatever the interval, the loader and the runner, something is logged, or it is said
why not."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, Hook, IterBasedRunner, LoggerHook
from tests.support import TinyModel, make_loader

TRAIN = [("train", 1)]


class Counting(TinyModel):
    """Reports 1, 2, 3, ..."""

    step = 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        self.step += 1
        return {"log_vars": {"step": float(self.step)}}

    def val_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return {"log_vars": {"loss": 1.0}}


class Lines(LoggerHook):
    """Keeps the iteration and the average of each line of training, and the keys of others."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[Any] = []

    def log(self, runner: Any) -> None:
        output = runner.log_buffer.output
        at = self.get_iter(runner)
        self.lines.append((at, output["step"]) if "step" in output else (at, set(output)))


class NoLength:
    """A loader without a length, of as many batches as are asked for, epoch by epoch."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths
        self.epoch = -1

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        return iter(make_loader(self.lengths[self.epoch % len(self.lengths)]))


class Lying(NoLength):
    def __init__(self, claimed: int, length: int) -> None:
        super().__init__(length)
        self.claimed = claimed

    def __len__(self) -> int:
        return self.claimed


EPOCHS = [
    # interval, other arguments, loader, epochs, lines: (iteration, average)
    (50, {}, make_loader(6), 2, [(6, 3.5), (12, 9.5)]),
    (7, {}, make_loader(6), 2, [(6, 3.5), (12, 9.5)]),
    (6, {}, make_loader(6), 2, [(6, 3.5), (12, 9.5)]),
    (5, {}, make_loader(6), 2, [(5, 3.0), (11, 9.0)]),
    (50, {"ignore_last": False}, make_loader(6), 2, [(6, 3.5), (12, 9.5)]),
    (50, {"by_epoch": False}, make_loader(6), 2, [(12, 9.5)]),
    (50, {"by_epoch": False}, make_loader(1), 3, [(3, 3.0)]),
    (10, {"by_epoch": False}, make_loader(6), 2, [(10, 8.5)]),
    (50, {}, make_loader(1), 2, [(1, 1.0), (2, 2.0)]),
    (50, {}, NoLength(3), 2, [(3, 2.0), (6, 5.0)]),
    (4, {}, NoLength(3, 5), 2, [(3, 2.0), (7, 5.5)]),
    (50, {"by_epoch": False}, NoLength(3), 2, [(6, 5.0)]),
    (4, {"by_epoch": False}, NoLength(3), 2, [(4, 4.0)]),
    (50, {"ignore_last": False}, NoLength(3), 1, [(3, 2.0)]),
    (7, {}, Lying(8, 5), 2, [(5, 3.0), (10, 8.0)]),
    (50, {"by_epoch": False}, Lying(8, 5), 2, [(10, 8.0)]),
]
ITERS = [
    # interval, other arguments, batches in the loader, iterations, lines
    (4, {}, 6, 8, [(4, 2.5), (8, 6.5)]),
    (4, {"by_epoch": False}, 6, 8, [(4, 2.5), (8, 6.5)]),
    (4, {}, 6, 10, [(4, 2.5), (8, 6.5)]),
    (4, {"ignore_last": False}, 6, 10, [(4, 2.5), (8, 6.5), (10, 8.5)]),
    (4, {"ignore_last": False}, 1, 8, [(4, 2.5), (8, 6.5)]),
    (50, {}, 6, 8, [(8, 4.5)]),
    (50, {"by_epoch": False, "ignore_last": False}, 6, 8, [(8, 4.5)]),
    (8, {"by_epoch": False}, 6, 8, [(8, 4.5)]),
    (9, {"by_epoch": False}, 6, 8, [(8, 4.5)]),
]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", range(len(EPOCHS)))
@pytest.mark.parametrize("validates", [False, True])
def test_lines_of_a_run_by_epochs(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch, backend: str, case: int, validates: bool
) -> None:
    interval, keywords, loader, epochs, expected = EPOCHS[case]
    if isinstance(loader, NoLength):
        loader.epoch = -1
    monkeypatch.setenv("HOOKRUN_BACKEND", backend if backend == "reference" else "")
    runner, lines = make_runner(model=Counting(), max_epochs=epochs), Lines(**keywords)
    lines.interval = interval
    runner.register_hook(lines, "VERY_LOW")
    if validates:
        runner.run([loader, make_loader(2)], [*TRAIN, ("val", 1)])
        validations = [line for line in lines.lines if line[1] == {"loss"}]
        assert len(validations) == epochs
        lines.lines = [line for line in lines.lines if line not in validations]
    else:
        runner.run([loader], TRAIN)
    assert lines.lines == expected


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("case", range(len(ITERS)))
@pytest.mark.parametrize("phase", [1, 3, 1000])
def test_lines_of_a_run_by_iterations(
    make_runner: Any, monkeypatch: pytest.MonkeyPatch, backend: str, case: int, phase: int
) -> None:
    interval, keywords, batches, iters, expected = ITERS[case]
    monkeypatch.setenv("HOOKRUN_BACKEND", backend if backend == "reference" else "")
    runner = make_runner(IterBasedRunner, model=Counting(), max_iters=iters)
    lines = Lines(interval=interval, **keywords)
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(batches)], [("train", phase)])
    assert lines.lines == expected


@pytest.mark.parametrize("intervals", [(50, 2), (2, 50), (50, 60), (3, 4), (6, 7)])
def test_loggers_of_long_and_short_intervals_log_as_if_alone(
    make_runner: Any, intervals: tuple[int, int]
) -> None:
    def run(*loggers: Lines) -> None:
        runner = make_runner(model=Counting(), max_epochs=2)
        runner.register_hook(EvalHook(make_loader(2)))
        for each in loggers:
            runner.register_hook(each, "VERY_LOW")
        runner.run([make_loader(6)], TRAIN)

    together = [Lines(interval=interval) for interval in intervals]
    run(*together)
    for each in together:
        alone = Lines(interval=each.interval)
        run(alone)
        assert each.lines == alone.lines


@pytest.mark.parametrize("loader", [make_loader(3), NoLength(3)], ids=["length", "no length"])
def test_the_line_of_a_short_epoch_comes_before_its_evaluation_and_apart(
    make_runner: Any, loader: Any
) -> None:
    runner, lines = make_runner(model=Counting(), max_epochs=1), Lines(interval=50)
    runner.register_hook(EvalHook(make_loader(2)))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([loader], TRAIN)
    assert lines.lines == [(3, 2.0), (3, {"acc", "eval_iter_num"})]


def test_results_that_meet_an_interval_have_a_line_of_their_own(make_runner: Any) -> None:
    class Evaluates(Hook):
        """As MMCV's evaluation by iteration did, without flushing what loggers have."""

        def after_train_iter(self, runner: Any) -> None:
            if self.every_n_iters(runner, 3):
                runner.log_buffer.output["acc"] = 0.5
                runner.log_buffer.ready = True

    loggers = [Lines(interval=interval, by_epoch=False) for interval in (2, 3, 6)]
    runner = make_runner(IterBasedRunner, model=Counting(), max_iters=6)
    runner.register_hook(Evaluates())
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(6)], TRAIN)
    acc = {"acc"}
    assert [each.lines for each in loggers] == [
        [(2, 1.5), (3, acc), (4, 3.5), (6, 5.5), (6, acc)],
        [(3, 2.0), (3, acc), (6, 5.0), (6, acc)],
        [(3, acc), (6, 3.5), (6, acc)],
    ]


def test_mmcvs_way_of_evaluating_amid_an_epoch_logs_nothing_twice(make_runner: Any) -> None:
    class Evaluates(Hook):
        def after_train_iter(self, runner: Any) -> None:
            if not self.every_n_iters(runner, 4):
                return
            for hook in runner.hooks:
                if isinstance(hook, LoggerHook):
                    hook.after_train_iter(runner)
            runner.log_buffer.clear()
            runner.log_buffer.output["eval_iter_num"] = 2
            runner.log_buffer.output["acc"] = 0.5
            runner.log_buffer.ready = True

    lines = Lines(interval=4, by_epoch=False)
    runner = make_runner(IterBasedRunner, model=Counting(), max_iters=8)
    runner.register_hook(Evaluates())
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(6)], TRAIN)
    acc = {"acc", "eval_iter_num"}
    assert lines.lines == [(4, 2.5), (4, acc), (8, 6.5), (8, acc)]


@pytest.mark.parametrize("interval", [3, 50])
def test_a_resumed_run_logs_too(make_runner: Any, interval: int) -> None:
    first = make_runner(max_epochs=2)
    first.register_checkpoint_hook({"interval": 5, "by_epoch": False, "filename_tmpl": "a_{}.pth"})
    first.run([make_loader(6)], TRAIN)
    runner, lines = make_runner(model=Counting(), max_epochs=2), Lines(interval=interval)
    runner.register_hook(lines, "VERY_LOW")
    runner.resume(f"{first.work_dir}/a_5.pth")  # one batch of the first epoch is left
    runner.run([make_loader(6)], TRAIN)
    lines_of = {3: [(6, 1.0), (9, 3.0), (12, 6.0)], 50: [(6, 1.0), (12, 4.5)]}
    assert lines.lines == lines_of[interval]


@pytest.mark.parametrize("by_config", [True, False])
def test_a_logger_by_epoch_where_there_are_none_counts_iterations(
    make_runner: Any, caplog: pytest.LogCaptureFixture, by_config: bool
) -> None:
    runner = make_runner(IterBasedRunner, max_iters=8)
    runner.register_optimizer_hook({})
    if by_config:  # which does not ask for epochs
        runner.register_logger_hooks({"interval": 4, "hooks": [{"type": "TextLoggerHook"}]})
    else:
        runner.register_hook({"type": "TextLoggerHook", "interval": 4}, "VERY_LOW")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runner.run([make_loader(3)], TRAIN)
    assert runner.hooks[-1].by_epoch is False
    texts = [record.getMessage() for record in caplog.records]
    heads = [text.split("\t")[0] for text in texts if text.startswith(("Iter", "Epoch"))]
    assert heads == ["Iter [4/8]", "Iter [8/8]"]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (0 if by_config else 1)
    if warned:
        assert "TextLoggerHook counts iterations within an epoch" in warned[0]
        assert "every 4 iterations of the run" in warned[0]
        assert "by_epoch=False" in warned[0]


def test_a_subclass_that_overrides_before_run_counts_iterations_too(make_runner: Any) -> None:
    class Connects(Lines):
        def before_run(self, runner: Any) -> None:
            self.connected = True

    lines = Connects(interval=4)
    runner = make_runner(IterBasedRunner, model=Counting(), max_iters=8)
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(3)], TRAIN)
    assert lines.connected
    assert lines.lines == [(4, 2.5), (8, 6.5)]


def test_ordinary_loggers_are_not_warned_about(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in (EpochBasedRunner, IterBasedRunner):
        runner = make_runner(kind)
        log_config = {"interval": 2, "hooks": [{"type": "TextLoggerHook"}]}
        runner.register_training_hooks(None, {}, None, log_config)
        runner.run([make_loader(3), make_loader(2)], [*TRAIN, ("val", 1)])
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_subclass_with_a_rule_of_its_own_keeps_it(make_runner: Any) -> None:
    class First(Lines):
        def every_n_inner_iters(self, runner: Any, n: int) -> bool:
            return bool(runner.iter == 0)

    class Never(Lines):
        def is_due(self, runner: Any) -> bool:
            return False

    class Own(Lines):
        def after_train_iter(self, runner: Any) -> None:
            pass

    loggers = [First(interval=50), Never(interval=50), Own(interval=50)]
    runner = make_runner(model=Counting(), max_epochs=2)
    for each in loggers:
        runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(3)], TRAIN)
    assert [each.lines for each in loggers] == [[(1, 1.0)], [], []]


def test_training_can_be_logged_between_two_events(make_runner: Any) -> None:
    lines = Lines(interval=2)
    runner = make_runner(model=Counting(), max_epochs=1)
    flush = ClosureHook("after_train_iter", lambda runner: runner.flush_logs())
    runner.register_hook(flush)
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(4)], TRAIN)
    assert lines.lines == [(2, 1.5), (4, 3.5)]
