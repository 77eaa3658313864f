"""A back end that raises, blocks, dies or draws random numbers: the run is as it is without it."""

from __future__ import annotations

import contextlib
import copy
import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hookrun import (
    BackEnd,
    ClientLoggerHook,
    ClosureHook,
    EpochBasedRunner,
    EvalHook,
    IterBasedRunner,
    RunInfo,
)
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
PLACES = ["open", "write", "close"]


class Drawing(TinyModel):
    """Whose steps depend on every random state."""

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        noise = random.random() + np.random.rand() + torch.rand(())
        result = super().train_step(data_batch)
        result["loss"] = nn.functional.dropout(result["loss"] * noise, 0.1)
        return result


class Recording(BackEnd):
    """Keeps what it is called with; does something at one place first."""

    def __init__(self, place: str = "", act: Callable[[], Any] = lambda: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.place, self.act = place, act

    def open(self, run: RunInfo) -> None:
        self._called("open", run.timestamp)

    def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
        self._called("write", dict(values), step, epoch)

    def write_image(self, name: str, image: Any, step: int) -> None:
        self._called("write_image", name, image, step)

    def close(self, run: RunInfo, failed: bool) -> None:
        self._called("close", failed)

    def _called(self, place: str, *arguments: Any) -> None:
        self.calls.append((place, *arguments))
        if place == self.place:
            self.act()

    @property
    def places(self) -> list[str]:
        return [place for place, *_ in self.calls]


class Recorder(ClientLoggerHook):
    def __init__(self, back_end: BackEnd | None = None, **arguments: Any) -> None:
        super().__init__(back_end or Recording(), **{"interval": 2, **arguments})


def train(make_runner: MakeRunner, hook: Any = None, *others: Any) -> Any:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    runner = make_runner(model=Drawing())
    runner.register_optimizer_hook({})
    for each in (hook, *others):
        if each is not None:
            runner.register_hook(each, "VERY_LOW")
    runner.run([make_loader(6)], TRAIN)
    return runner


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights of a run without a logger."""
    from hookrun import EpochBasedRunner

    def make(model: Any) -> Any:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return EpochBasedRunner(model, optimizer=optimizer, max_epochs=2, logger=quiet())

    runner: Any = train(make)
    weights: dict[str, Any] = runner.model.state_dict()
    return weights


def quiet() -> logging.Logger:
    logger = logging.getLogger("hookrun.tests.quiet")
    logger.propagate = False
    return logger


def assert_same(runner: Any, expected: dict[str, Any]) -> None:
    assert runner.iter == 12
    weights = runner.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


@contextlib.contextmanager
def gate() -> Iterator[threading.Event]:
    """An event on which back ends block until the test is over."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def fail() -> None:
    raise ConnectionError("no route to host")


def test_calls_come_in_order_with_plain_numbers(
    make_runner: MakeRunner, expected: dict[str, Any]
) -> None:
    back_end = Recording()
    assert_same(train(make_runner, Recorder(back_end)), expected)
    assert back_end.places == ["open", *["write"] * 6, "close"]
    written = [call[1:] for call in back_end.calls[1:-1]]
    assert [(step, epoch) for _, step, epoch in written] == [
        *((2, 1), (4, 1), (6, 1), (8, 2), (10, 2), (12, 2)),
    ]
    values = [value for each, *_ in written for value in each.values()]
    assert {type(value) for value in values} == {float}
    assert set(written[0][0]) == {"train/loss", "learning_rate", "momentum"}
    assert back_end.calls[-1] == ("close", False)


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_training_and_evaluations_at_one_step_share_the_learning_rate(
    make_runner: MakeRunner, kind: type
) -> None:
    by_epoch = kind is EpochBasedRunner
    length = {"max_epochs": 2} if by_epoch else {"max_iters": 8}
    runner, back_end = make_runner(kind, **length), Recording()
    scores = [{"acc": 0.5}] * 2
    period = 1 if by_epoch else 4
    evaluation = EvalHook(make_loader(2, scores=scores), by_epoch=by_epoch, interval=period)
    runner.register_hook(evaluation, "LOW")
    runner.register_hook(Recorder(back_end, by_epoch=by_epoch), "VERY_LOW")
    phases = [("train", 1 if by_epoch else 4), ("val", 1 if by_epoch else 2)]
    runner.run([make_loader(4), make_loader(2)], phases)
    steps: dict[str, list[int]] = {}
    for _, values, step, _ in (each for each in back_end.calls if each[0] == "write"):
        for tag in values:
            steps.setdefault(tag, []).append(step)
    training = {tag: [2, 4, 6, 8] for tag in ("train/loss", "learning_rate", "momentum")}
    assert steps == {**training, "val/acc": [4, 8], "val/loss": [4, 8]}


def test_another_value_at_a_step_is_written(make_runner: MakeRunner) -> None:
    runner, hook = make_runner(), Recorder()
    runner.mode, runner._iter = "train", 3
    for value in (1.0, 1.0, 2.0):
        hook.write(runner, {"a": value, "b": 0.0})
    runner._iter = 4
    hook.write(runner, {"a": 2.0})
    hook.drain()
    hook.close(runner, None)
    written = [each[1] for each in hook.back_end.calls if each[0] == "write"]
    assert written == [{"a": 1.0, "b": 0.0}, {"a": 2.0}, {"a": 2.0}]


@pytest.mark.parametrize("place", PLACES)
def test_one_that_raises_is_reported_once_and_disabled(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    expected: dict[str, Any],
    place: str,
) -> None:
    back_end, other = Recording(place, fail), Recording()
    hook = Recorder(back_end)
    assert_same(train(make_runner, hook, Recorder(other)), expected)
    assert reports(caplog) == [
        "Recorder failed and is disabled; the run goes on. ConnectionError: no route to host"
    ]
    assert not hook.enabled
    assert back_end.places.count(place) == 1
    assert other.places == ["open", *["write"] * 6, "close"]


@pytest.mark.parametrize("place", PLACES)
def test_on_request_it_raises(make_runner: MakeRunner, place: str) -> None:
    with pytest.raises(ConnectionError, match="no route to host") as raised:
        train(make_runner, Recorder(Recording(place, fail), on_error="raise"))
    assert "raised by Recorder" in raised.value.__notes__


def test_one_that_raised_is_closed_as_failed() -> None:
    """In its thread: the run does not wait for that."""
    closed = threading.Event()

    class Closed(Recording):
        def close(self, run: RunInfo, failed: bool) -> None:
            super().close(run, failed)
            closed.set()

    back_end = Closed("write", fail)
    from hookrun.loggers.isolated_back_end import IsolatedBackEnd

    isolated = IsolatedBackEnd(back_end, "name", timeout=60)
    isolated.open(RunInfo(None, "t", None, "m"))
    isolated.call(back_end.write, {}, 1, 1)
    assert closed.wait(60)
    assert back_end.calls[-1] == ("close", True)
    with pytest.raises(ConnectionError):
        isolated.close(failed=False)
    isolated.close(failed=False)  # once


@pytest.mark.parametrize("place", PLACES)
def test_one_that_blocks_is_reported_once_and_disabled(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    expected: dict[str, Any],
    place: str,
) -> None:
    """It blocks until the run is over: no call of the run can have waited for it longer."""
    with gate() as event:
        hook = Recorder(Recording(place, event.wait), timeout=0.2)
        assert_same(train(make_runner, hook), expected)
        (report,) = reports(caplog)
        assert report.startswith("Recorder failed and is disabled; the run goes on. TimeoutError: ")
        what = "has not opened" if place == "open" else "has not finished"
        assert f"the back end {what} within 0.2 s: " in report
        assert not hook.enabled


def test_a_full_queue_disables_it_in_mid_run(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, expected: dict[str, Any]
) -> None:
    with gate() as event:
        hook = Recorder(Recording("write", event.wait), timeout=60)
        fill = ClosureHook("after_train_epoch", lambda runner: send_images(runner, 300))
        assert_same(train(make_runner, fill, hook), expected)
        (report,) = reports(caplog)
        assert "TimeoutError: the back end is blocked: " in report


def send_images(runner: Any, count: int) -> None:
    image = np.zeros((1000, 1000, 3), np.uint8)  # the queue holds 256 MiB
    for _ in range(count):
        runner.log_image("image", image)


def test_one_that_exits_is_reported(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, expected: dict[str, Any]
) -> None:
    hook = Recorder(Recording("write", lambda: sys.exit(3)))
    assert_same(train(make_runner, hook), expected)
    assert reports(caplog) == [
        "Recorder failed and is disabled; the run goes on. RuntimeError: the back end raised "
        "SystemExit(3)"
    ]


def test_one_whose_process_dies_is_reported(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, expected: dict[str, Any]
) -> None:
    class Service(Recording):
        """Writes to a process, which is killed at the second value."""

        def open(self, run: RunInfo) -> None:
            self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=-3)

        def write(self, values: Mapping[str, Any], step: int, epoch: int) -> None:
            if step == 4:
                self.process.kill()
                self.process.wait()
            assert self.process.stdin is not None
            self.process.stdin.write(str(values).encode())
            self.process.stdin.flush()

        def close(self, run: RunInfo, failed: bool) -> None:
            self.process.kill()
            self.process.wait()

    assert_same(train(make_runner, Recorder(Service())), expected)
    assert reports(caplog) == [
        "Recorder failed and is disabled; the run goes on. BrokenPipeError: [Errno 32] Broken pipe"
    ]


@pytest.mark.parametrize("place", ["open", "close"])
def test_one_that_draws_random_numbers_changes_nothing(
    make_runner: MakeRunner, expected: dict[str, Any], place: str
) -> None:
    def draw() -> None:
        random.random()
        np.random.rand()
        torch.rand(())

    runner = train(make_runner, Recorder(Recording(place, draw)))
    assert_same(runner, expected)
    assert random.getstate() == after_run(make_runner)


def after_run(make_runner: MakeRunner) -> Any:
    train(make_runner)
    return random.getstate()


def test_an_error_of_the_run_closes_it_as_failed(make_runner: MakeRunner) -> None:
    def stop(runner: Any) -> None:
        if runner.iter == 4:
            raise KeyboardInterrupt

    back_end = Recording()
    with pytest.raises(KeyboardInterrupt):
        train(make_runner, ClosureHook("before_train_iter", stop), Recorder(back_end))
    assert back_end.places == ["open", "write", "write", "close"]
    assert back_end.calls[-1] == ("close", True)


def test_only_rank_0_writes(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    back_end, runner = Recording(), make_runner()
    monkeypatch.setattr(runner, "_rank", 1)
    runner.register_hook(Recorder(back_end), "VERY_LOW")
    picture = ClosureHook("after_train_epoch", lambda runner: runner.log_image("x", np.eye(2)))
    runner.register_hook(picture)
    runner.run([make_loader(4)], TRAIN)
    assert back_end.calls == []


def test_a_second_run_opens_it_again(make_runner: MakeRunner) -> None:
    back_end = Recording()
    runner = train(make_runner, Recorder(back_end))
    runner._max_epochs = 3
    runner.run([make_loader(6)], TRAIN)
    assert back_end.places == ["open", *["write"] * 6, "close", "open", *["write"] * 3, "close"]


def test_a_hook_can_be_copied_after_a_run(make_runner: MakeRunner) -> None:
    hook = Recorder(timeout=5)
    train(make_runner, hook)
    assert copy.deepcopy(hook).interval == 2


def test_threads_end_with_their_runs(make_runner: MakeRunner) -> None:
    train(make_runner, Recorder())
    for thread in threading.enumerate():
        if thread.name == "Recorder":
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0}, "Recorder: timeout must be positive, in seconds, not 0"),
        ({"timeout": "1"}, "Recorder: timeout must be positive, in seconds, not '1'"),
        ({"on_error": "ignore"}, "Recorder: on_error must be 'disable' or 'raise', not 'ignore'"),
        ({"interval": 0}, "Recorder: interval must be a positive int, not 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recorder(**arguments)
