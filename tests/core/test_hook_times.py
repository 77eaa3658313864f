"""How long hooks take: measured by the native dispatcher and by the reference alike."""

from __future__ import annotations

import gc
import json
import time
import weakref
from typing import Any

import pytest

from hookrun import EpochBasedRunner, Hook, IterTimerHook, every
from hookrun.core.hook_times import HookTime, chrome_trace, format_table, format_time
from tests.support import make_loader


class Slow(Hook):
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def after_train_iter(self, runner: Any) -> None:
        time.sleep(self.seconds)

    @every(iters=2)
    def before_train_iter(self, runner: Any) -> None: ...


@pytest.fixture(params=["native", "reference"])
def runner(request: pytest.FixtureRequest, make_runner: Any, monkeypatch: Any) -> Any:
    if request.param == "reference":
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    made = make_runner(EpochBasedRunner, max_epochs=2)
    assert made.dispatches_natively == (request.param == "native")
    return made


def train(runner: Any) -> None:
    runner.run([make_loader(3)], [("train", 1)])


def test_calls_and_times_by_hook_and_event(runner: Any) -> None:
    slow, other, timer = Slow(0.002), Slow(), IterTimerHook()
    for hook in (slow, other, timer):
        runner.register_hook(hook)
    runner.measure_hooks(max_spans=4)
    begin = time.perf_counter()
    train(runner)
    spent = time.perf_counter() - begin
    stats = {(each.hook, each.event): each for each in runner.hook_stats()}
    calls = {key: each.calls for key, each in stats.items()}
    assert calls == {
        **{(hook, "after_train_iter"): 6 for hook in (slow, other, timer)},
        **{(hook, "before_train_iter"): 3 for hook in (slow, other)},
        (timer, "before_train_iter"): 6,  # a native action
        (timer, "before_train_epoch"): 2,
    }
    for each in stats.values():
        assert 0 <= each.median <= each.maximum <= each.total <= spent
    times = stats[slow, "after_train_iter"]
    assert times.median >= 0.002 * 0.98
    assert times.total >= 6 * 0.002
    assert times.total > stats[other, "after_train_iter"].total
    spans = runner.hook_spans()
    assert len(spans) == 4
    assert [hook for hook, *_ in spans[-3:]] == [slow, other, timer]
    starts = [start for _, _, start, _ in spans]
    assert starts == sorted(starts)
    assert all(duration >= 0 for *_, duration in spans)


def test_nothing_is_measured_unless_asked(runner: Any) -> None:
    hook = Slow()
    runner.register_hook(hook)
    train(runner)
    message = "not measured: call runner.measure_hooks.. before the run, or register .* HookStats"
    for begin in (False, True):
        if begin:
            runner.measure_hooks()
            assert runner.hook_stats() == []
            assert runner.is_measuring_hooks
        runner.measure_hooks(False)
        assert not runner.is_measuring_hooks
        assert runner.hook_spans() == []
        with pytest.raises(RuntimeError, match=message):
            runner.hook_stats()
    for wrong in (-1, 10**12):
        with pytest.raises(ValueError, match="max_spans must lie between 0 and"):
            runner.measure_hooks(max_spans=wrong)


def test_measuring_begins_and_ends_within_an_event(runner: Any) -> None:
    seen = []

    class Switch(Hook):
        def before_train_iter(self, runner: Any) -> None:
            if runner.iter == 1:
                runner.measure_hooks()

        def after_train_iter(self, runner: Any) -> None:
            if runner.iter == 3:
                stats = runner.hook_stats()
                seen.append({(type(e.hook), e.event): e.calls for e in stats})
                runner.measure_hooks(False)

    runner.register_hook(Switch())
    runner.register_hook(Slow())
    train(runner)
    assert seen == [
        {
            (Switch, "after_train_iter"): 2,
            (Slow, "after_train_iter"): 2,
            (Switch, "before_train_iter"): 2,
            (Slow, "before_train_iter"): 1,
        }
    ]
    assert not runner.is_measuring_hooks


def test_a_hook_that_fails_and_events_within_events(runner: Any) -> None:
    class Outer(Hook):
        def after_train_iter(self, runner: Any) -> None:
            runner.call_hook("refreshed")

    class Inner(Hook):
        def refreshed(self, runner: Any) -> None:
            raise ValueError("no")

    runner.register_hook(Outer())
    runner.register_hook(Inner())
    runner.measure_hooks(max_spans=10)
    with pytest.raises(ValueError, match="no"):
        train(runner)
    inner, outer = runner.hook_stats()
    assert [inner.event, outer.event] == ["refreshed", "after_train_iter"]
    assert [inner.calls, outer.calls] == [1, 1]
    assert inner.total <= outer.total
    assert [event for _, event, *_ in runner.hook_spans()] == ["refreshed", "after_train_iter"]


def test_a_hook_that_was_removed_is_still_reported(runner: Any) -> None:
    first, second = Slow(), Slow()
    for hook in (first, second):
        runner.register_hook(hook)
    runner.measure_hooks()
    runner.call_hook("after_train_iter")
    runner.hooks.remove(first)
    runner.call_hook("after_train_iter")
    assert [(each.hook, each.calls) for each in runner.hook_stats()] == [(first, 1), (second, 2)]


def test_a_dropped_runner_that_measured_is_collected(make_runner: Any) -> None:
    def drop() -> list[weakref.ref[Any]]:
        runner = make_runner()
        hook = Slow()
        hook.runner = runner  # type: ignore[attr-defined]  # a cycle
        runner.register_hook(hook)
        runner.measure_hooks(max_spans=5)
        train(runner)
        runner.hooks.remove(hook)  # now it is only in what was measured
        return [weakref.ref(runner), weakref.ref(hook)]

    references = drop()
    gc.collect()
    assert [each() for each in references] == [None, None]


# Tables and traces


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (4.2e-8, "42 ns"),
        (9.994e-7, "999 ns"),
        (9.999e-7, "1.00 us"),
        (1.25e-3, "1.25 ms"),
        (0.0125, "12.5 ms"),
        (0.125, "125 ms"),
        (9.9999e-3, "10.0 ms"),
        (0.99999, "1.00 s"),
        (75.25, "75.2 s"),
        (4321.0, "4321 s"),
    ],
)
def test_times_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


class GradientAccumulatingAndVeryLongNamedOptimizerHook(Hook): ...


def test_the_table_is_aligned_within_80_columns() -> None:
    fast, slow = Slow(), GradientAccumulatingAndVeryLongNamedOptimizerHook()
    table = format_table(
        [
            HookTime(fast, "before_run", 1, 1e-6, 1e-6, 1e-6),
            HookTime(slow, "after_train_iter", 123456, 9.0, 7e-5, 1.0),
            HookTime(fast, "after_train_iter", 10, 0.5, 0.05, 0.06),
            HookTime(Slow(), "before_run", 1, 4e-8, 4e-8, 4e-8),
        ]
    )
    assert table.splitlines() == [
        "hook and event                               calls     total    median       max",
        "-" * 80,
        "GradientAccumulatingAndVeryLongNamedO...              9.00 s",
        "  after_train_iter                          123456    9.00 s   70.0 us    1.00 s",
        "Slow                                                  500 ms",
        "  after_train_iter                              10    500 ms   50.0 ms   60.0 ms",
        "  before_run                                     1   1.00 us   1.00 us   1.00 us",
        "Slow #2                                                40 ns",
        "  before_run                                     1     40 ns     40 ns     40 ns",
    ]


def test_the_trace_has_a_row_for_each_hook() -> None:
    first, second = Slow(), Slow()
    spans = [(first, "before_run", 5000, 1500), (second, "before_run", 7000, 500)]
    trace = json.loads(json.dumps(chrome_trace([*spans, (first, "after_run", 9000, 1)])))
    rows = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert rows == {0: "Slow", 1: "Slow #2"}
    calls = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert [(e["tid"], e["name"], e["ts"], e["dur"]) for e in calls] == [
        (0, "before_run", 0.0, 1.5),
        (1, "before_run", 2.0, 0.5),
        (0, "after_run", 4.0, 0.001),
    ]
    assert chrome_trace([])["traceEvents"] == []
