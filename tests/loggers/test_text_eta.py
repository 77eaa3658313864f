"""TextLoggerHook: the ETA is the mean time of what this run has trained, times what is left."""

from __future__ import annotations

import datetime
import logging
import re
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import EpochBasedRunner, EvalHook, Hook, IterBasedRunner, TextLoggerHook
from tests.support import TinyModel, make_loader

from .text_support import written

WORKFLOWS = [
    [("train", 1)],
    [("train", 2), ("val", 1)],
    [("val", 1), ("train", 1)],
    [("train", 1), ("train", 2)],
]


class Timer(Hook):
    """Takes the next of some times for each iteration of training, and ages for validation."""

    def __init__(self, seconds: list[int]) -> None:
        self.seconds = seconds
        self.timed: list[float] = []

    def after_train_iter(self, runner: Any) -> None:
        self.timed.append(float(self.seconds[len(self.timed) % len(self.seconds)]))
        runner.log_buffer.update({"data_time": 1.0, "time": self.timed[-1]})

    def after_val_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": 1.0, "time": 5000.0})


class Checked(TextLoggerHook):
    """Compares the ETA of each line with the one that the times give."""

    def __init__(self, timer: Timer, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.timer = timer
        self.etas: list[tuple[str, str]] = []

    def _format_timing(self, entry: Any, runner: Any) -> str:
        text = super()._format_timing(entry, runner)
        if runner.max_iters is None:
            assert "eta" not in text
            return text
        match = re.match(r"eta: (.*?), time", text)
        assert match is not None
        left = max(runner.max_iters - self.get_iter(runner), 0)
        seconds = left * sum(self.timer.timed) / len(self.timer.timed)
        self.etas.append((match[1], str(datetime.timedelta(seconds=int(seconds)))))
        return text


class NoLength:
    def __init__(self, batches: int) -> None:
        self.batches = list(make_loader(batches))

    def __iter__(self) -> Any:
        return iter(self.batches)


def run(kind: type, limit: int, done: int, lengths: list[int], workflow: Any, *hooks: Any) -> Any:
    model = TinyModel()
    by_epoch = issubclass(kind, EpochBasedRunner)
    runner: Any = kind(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        logger=logging.getLogger("hookrun.tests"),
        **{"max_epochs" if by_epoch else "max_iters": limit},
    )
    runner._epoch, runner._iter = (done, done * lengths[0]) if by_epoch else (0, done)
    for hook in hooks:
        runner.register_hook(hook, "VERY_LOW" if isinstance(hook, TextLoggerHook) else "LOW")
    loaders = [make_loader(length) if length else NoLength(4) for length in lengths]
    runner.run(loaders[: len(workflow)], workflow)
    return runner


@settings(max_examples=60)
@given(
    kind=st.sampled_from([EpochBasedRunner, IterBasedRunner]),
    limit=st.integers(1, 12),
    resumed=st.booleans(),
    lengths=st.lists(st.integers(1, 7), min_size=2, max_size=2),
    workflow=st.sampled_from(WORKFLOWS),
    seconds=st.lists(st.integers(0, 3600), min_size=1, max_size=5),
    loggers=st.lists(
        st.fixed_dictionaries(
            {
                "interval": st.integers(1, 9),
                "ignore_last": st.booleans(),
                "by_epoch": st.booleans(),
            }
        ),
        min_size=1,
        max_size=3,
    ),
    evaluates=st.booleans(),
)
def test_the_eta_is_of_what_was_timed(
    kind: type,
    limit: int,
    resumed: bool,
    lengths: list[int],
    workflow: Any,
    seconds: list[int],
    loggers: list[dict[str, Any]],
    evaluates: bool,
) -> None:
    timer = Timer(seconds)
    hooks = [Checked(timer, **keywords) for keywords in loggers]
    evaluation = EvalHook(make_loader(2), by_epoch=kind is EpochBasedRunner)
    done = limit // 2 if resumed else 0
    run(kind, limit, done, lengths, workflow, timer, *hooks, *([evaluation] if evaluates else []))
    for hook in hooks:
        assert hook.enabled
        assert all(eta == expected for eta, expected in hook.etas)
        assert hook.etas or done == limit


def test_without_the_number_of_iterations_there_is_no_eta() -> None:
    timer = Timer([1])
    hooks = [Checked(timer, interval=2), Checked(timer, interval=50)]
    run(EpochBasedRunner, 2, 0, [0], [("train", 1)], timer, *hooks)
    assert all(hook.enabled and hook.etas == [] for hook in hooks)


def test_more_iterations_than_were_foreseen_are_never_less_than_none_left() -> None:
    class Fewer(Hook):
        def before_train_iter(self, runner: Any) -> None:
            runner._max_iters = 2

    timer = Timer([3600])
    checked = Checked(timer, interval=1)
    run(EpochBasedRunner, 1, 0, [6], [("train", 1)], timer, Fewer(), checked)
    assert checked.etas[0] == ("1:00:00", "1:00:00")
    assert checked.etas[1:] == [("0:00:00", "0:00:00")] * 5


@pytest.mark.parametrize("clears", ["clear", "replace"])
def test_a_buffer_that_somebody_clears_or_replaces_does_no_harm(clears: str) -> None:
    class Clears(Hook):
        def before_train_iter(self, runner: Any) -> None:
            if runner.iter == 3 and clears == "clear":
                runner.log_buffer.clear()
            elif runner.iter == 3:
                runner.log_buffer = type(runner.log_buffer)()

    timer = Timer([10])
    checked = Checked(timer, interval=2, by_epoch=False)
    run(IterBasedRunner, 8, 0, [8], [("train", 1)], timer, Clears(), checked)
    assert checked.enabled
    assert all(eta == expected for eta, expected in checked.etas)


PAUSE = 0.6  # seconds of an evaluation; an iteration takes less, on a busy machine too


@pytest.mark.parametrize("native", [True, False])
def test_an_evaluation_amid_an_iteration_counts_for_none(make_runner: Any, native: bool) -> None:
    class Scores:
        def evaluate(self, results: Any, logger: Any = None) -> dict[str, float]:
            time.sleep(PAUSE)
            return {"acc": 1.0}

    class Loader(list[Any]):
        dataset = Scores()

    runner = make_runner(IterBasedRunner, max_iters=4)
    evaluation = EvalHook(Loader(make_loader(1)), start=0, interval=2, by_epoch=False)
    runner.register_hook(evaluation)
    timer: Any = {"type": "IterTimerHook"}
    if not native:
        from hookrun import IterTimerHook

        class InPython(IterTimerHook):
            def after_iter(self, runner: Any) -> None:
                super().after_iter(runner)

        timer = InPython()
    runner.register_timer_hook(timer)
    runner.register_logger_hooks({"interval": 1, "hooks": [{"type": "TextLoggerHook"}]})
    runner.run([make_loader(4)], [("train", 1)])
    lines = [line for line in written(runner) if "time" in line]
    assert len(lines) >= 2
    # The line before an evaluation has the time of the iteration before, so they are not compared.
    assert all(0 <= line[name] < PAUSE for line in lines for name in ("data_time", "time"))
