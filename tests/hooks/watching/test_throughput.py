"""ThroughputHook: speed, waiting for data and step times, with a clock that the tests set."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookrun import EpochBasedRunner, EvalHook, Hook, IterBasedRunner, ThroughputHook
from hookrun.hooks.watching.throughput import percentile
from tests.support import TinyModel, make_loader


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Working(TinyModel):
    """Takes 3 s for a step, and 1,000 s for an evaluation or a step of validation."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.now += 3.0
        return super().train_step(*args, **kwargs)

    def val_step(self, data_batch: Any, *args: Any, **kwargs: Any) -> Any:
        self.clock.now += 1000.0
        return TinyModel.train_step(self, data_batch)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.now += 1000.0
        return super().forward(*args, **kwargs)


class Loader:
    """Makes the step wait for 1 s."""

    def __init__(self, clock: Clock, batches: int) -> None:
        self.clock, self.batches = clock, list(make_loader(batches))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        for batch in self.batches:
            self.clock.now += 1.0
            yield batch


class Values(Hook):
    """Keeps what was written to the log buffer."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def after_train_iter(self, runner: Any) -> None:
        runner.log_buffer.average()
        others = ("loss", "acc", "eval_iter_num")
        found = {k: v for k, v in runner.log_buffer.output.items() if k not in others}
        runner.log_buffer.clear()
        if found:
            self.values.append(found)


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("first", ["throughput", "evaluation"])
def test_evaluations_and_validations_do_not_count(
    make_runner: Any, clock: Clock, kind: type, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    by_epoch = kind is EpochBasedRunner
    limit = {"max_epochs": 3} if by_epoch else {"max_iters": 12}
    runner = make_runner(kind, model=Working(clock), **limit)
    evaluation = EvalHook(make_loader(2), interval=1 if by_epoch else 3, by_epoch=by_epoch)
    hooks = [ThroughputHook(interval=2, flops_per_sample=1e9, peak_flops=1e10), evaluation]
    for hook in hooks if first == "throughput" else hooks[::-1]:
        runner.register_hook(hook)
    values = Values()
    runner.register_hook(values, "VERY_LOW")
    workflow = [("train", 1 if by_epoch else 4), ("val", 1)]
    runner.run([Loader(clock, 4), make_loader(2)], workflow)
    assert values.values == 6 * [
        {
            "samples_per_sec": 0.5,
            "data_share": 0.25,
            "step_time_median": 4.0,
            "step_time_p99": 4.0,
            "mfu": 0.05,
        }
    ]
    (line,) = [each for each in caplog.messages if each.startswith("throughput")]
    assert line == (
        "throughput: 0.5 samples/s, step time 4000.00 ms (median), 4000.00 ms (99th percentile), "
        "25.0% of it waiting for data, MFU 5.0%"
    )


def test_loggers_write_the_values(make_runner: Any, clock: Clock) -> None:
    runner = make_runner(model=Working(clock), max_epochs=1)
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    runner.register_hook({"type": "ThroughputHook", "interval": 2})
    runner.run([Loader(clock, 4)], [("train", 1)])
    (log,) = Path(runner.work_dir).glob("*.log.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["samples_per_sec"] for each in entries if "mode" in each] == [0.5, 0.5]


def test_without_samples_it_says_so_once(
    make_runner: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Silent(Working):
        def train_step(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().train_step(*args, **kwargs)
            del outputs["num_samples"]
            return outputs

    runner = make_runner(model=Silent(clock))
    hook = ThroughputHook(interval=1, flops_per_sample=1, peak_flops=1)
    runner.register_hook(hook)
    values = Values()
    runner.register_hook(values, "VERY_LOW")
    runner.run([Loader(clock, 2)], [("train", 1)])
    assert caplog.text.count("ThroughputHook cannot count samples") == 1
    assert "samples_per_sec" not in values.values[0]
    assert values.values[0]["step_time_median"] == 4.0


def test_the_peak_of_a_cpu_is_not_known(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_hook(ThroughputHook(flops_per_sample=1e9))
    with pytest.raises(ValueError, match="give peak_flops, in FLOP/s"):
        runner.run([make_loader(2)], [("train", 1)])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_percentiles_are_those_of_numpy(values: list[float], part: float) -> None:
    ordered = sorted(values)
    assert percentile(ordered, part) == pytest.approx(float(np.quantile(ordered, part)))
    assert percentile(ordered, 0.5) == pytest.approx(statistics.median(values))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"interval": 0}, ValueError, "interval must be a positive int, not 0"),
        ({"interval": 2.5}, ValueError, "interval must be a positive int"),
        ({"flops_per_sample": -1}, ValueError, "flops_per_sample must be positive, not -1"),
        ({"flops_per_sample": float("nan")}, ValueError, "flops_per_sample must be positive"),
        ({"peak_flops": "1e12"}, TypeError, "peak_flops must be a number, not '1e12'"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ThroughputHook(**arguments)
