"""Validation during a run by iterations: averages and lines of its own, whatever the workflow."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import EvalHook, Hook, IterBasedRunner, LogBuffer, LoggerHook
from tests.support import TinyModel, make_loader

from .variants import ITER_VARIANTS

Line = tuple[str, int, float]


class Counting(TinyModel):
    """Reports the number of the step, and each with its own number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = self.validated = 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        self.trained += 1
        value = float(self.trained)
        return report({"value": value, "train_only": torch.tensor(value)}, self.trained)

    def val_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        self.validated += 1
        value = 1000.0 + self.validated
        return report({"value": value, "val_only": torch.tensor(value)}, self.validated)


def report(log_vars: dict[str, Any], step: int) -> dict[str, Any]:
    return {"log_vars": log_vars, "num_samples": samples(step)}


def samples(step: int) -> int:
    return step % 3 + 1


def mean(numbers: list[int], base: float = 0.0) -> float:
    weights = [samples(number) for number in numbers]
    weighted = [(base + n) * w for n, w in zip(numbers, weights, strict=True)]
    return sum(weighted) / sum(weights)


def expected_lines(workflow: list[tuple[str, int]], iters: int, interval: int) -> list[Line]:
    lines: list[Line] = []
    trained = validated = 0
    while trained < iters:
        for mode, count in workflow:
            if mode == "val" and count:
                steps = list(range(validated + 1, validated + count + 1))
                validated += count
                lines.append(("val", trained, mean(steps, 1000.0)))
            for _ in range(min(count, iters - trained) if mode == "train" else 0):
                trained += 1
                silent = trained == iters < interval
                if trained % interval == 0 or silent:
                    window = list(range(max(trained - interval, 0) + 1, trained + 1))
                    lines.append(("train", trained, mean(window)))
    return lines


class Lines(LoggerHook):
    """Keeps what a back end would write."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[tuple[str, int, dict[str, Any]]] = []

    def log(self, runner: Any) -> None:
        _, values = self.get_output(runner)
        self.lines.append((self.get_mode(runner), self.get_iter(runner), values))

    def values(self, name: str = "value") -> list[Line]:
        return [(mode, at, values[name]) for mode, at, values in self.lines if name in values]


def run(
    variant: tuple[type, bool],
    workflow: list[tuple[str, int]],
    iters: int,
    *hooks: Hook,
    model: Any = None,
) -> Any:
    runner_type, reference = variant
    model = model or Counting()
    with pytest.MonkeyPatch.context() as patch:
        if reference:
            patch.setenv("HOOKRUN_BACKEND", "reference")
        runner = runner_type(
            model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            logger=logging.getLogger("hookrun.tests"),
            max_iters=iters,
        )
    runner.register_timer_hook({})
    for hook in hooks:
        runner.register_hook(hook, "VERY_LOW" if isinstance(hook, LoggerHook) else "NORMAL")
    runner.run([make_loader(3) for _ in workflow], workflow)
    return runner


phases = st.lists(
    st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 5)), min_size=0, max_size=4
)


@settings(max_examples=60)
@given(
    before=phases,
    train=st.integers(1, 6),
    behind=phases,
    iters=st.integers(0, 20),
    intervals=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    by_epoch=st.booleans(),
    variant=st.sampled_from(sorted(ITER_VARIANTS)),
    evaluate=st.booleans(),
)
def test_each_phase_of_validation_is_averaged_and_logged_by_itself(
    before: list[tuple[str, int]],
    train: int,
    behind: list[tuple[str, int]],
    iters: int,
    intervals: list[int],
    by_epoch: bool,
    variant: str,
    evaluate: bool,
) -> None:
    workflow = [*before, ("train", train), *behind]
    loggers = [Lines(interval=interval, by_epoch=by_epoch) for interval in intervals]
    hooks: list[Hook] = [*loggers]
    if evaluate:
        hooks.append(EvalHook(make_loader(2), interval=3, by_epoch=False))
    run(ITER_VARIANTS[variant], workflow, iters, *hooks)
    for logger in loggers:
        lines = expected_lines(workflow, iters, logger.interval)
        got = logger.values()
        assert [line[:2] for line in got] == [line[:2] for line in lines]
        assert [line[2] for line in got] == pytest.approx([line[2] for line in lines])
        for mode, _, values in logger.lines:
            assert ("val_only" in values) == (mode == "val" and "acc" not in values)
            assert ("train_only" in values) == (mode == "train")
        accs = [(mode, at) for mode, at, _ in logger.values("acc")]
        assert accs == [("val", at) for at in range(3, iters + 1, 3) if evaluate]


class Seconds(Hook):
    """A timer by which validation takes a hundred times as long."""

    def after_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"time": 1.0 if runner.mode == "train" else 100.0})


def test_times_of_validation_are_its_own() -> None:
    class Times(Lines):
        def log(self, runner: Any) -> None:
            own, _ = self.get_output(runner)
            self.lines.append((self.get_mode(runner), self.get_iter(runner), own))

    times = Times(interval=2, by_epoch=False)
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = IterBasedRunner(model, optimizer=optimizer, max_iters=4)
    runner.register_hook(Seconds())
    runner.register_hook(times, "VERY_LOW")
    runner.run([make_loader(3), make_loader(3)], [("train", 1), ("val", 2)])
    assert {(mode, own["time"]) for mode, _, own in times.lines} == {
        ("train", 1.0),
        ("val", 100.0),
    }


@pytest.mark.parametrize("variant", ITER_VARIANTS.values(), ids=ITER_VARIANTS)
def test_what_waits_for_the_next_line_of_training_waits_over_a_validation(variant: Any) -> None:
    class Note(Hook):
        def after_train_iter(self, runner: Any) -> None:
            if runner.iter == 0:
                runner.log_buffer.output["note"] = "first"

    lines = Lines(interval=2, by_epoch=False)
    run(variant, [("train", 1), ("val", 1)], 2, Note(), lines)
    assert [(mode, values.get("note")) for mode, _, values in lines.lines] == [
        ("val", None),
        ("train", "first"),
        ("val", None),
    ]


def test_a_validation_that_fails_leaves_trainings_averages() -> None:
    class Fails(Counting):
        def val_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            if self.validated == 1:
                raise FloatingPointError
            return super().val_step(data_batch)

    model = Fails()
    runner = IterBasedRunner(
        model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), max_iters=9
    )
    with pytest.raises(FloatingPointError):
        runner.run([make_loader(3), make_loader(3)], [("train", 3), ("val", 2)])
    runner.log_buffer.average()
    assert runner.log_buffer.output == {"value": mean([1, 2, 3]), "train_only": mean([1, 2, 3])}


def test_a_log_buffer_of_somebody_else_is_left_as_it_is() -> None:
    class Foreign:
        def __init__(self) -> None:
            self.output: dict[str, Any] = {}
            self.ready = False
            self.updates = 0

        def update(self, values: Any, count: int = 1) -> None:
            self.updates += 1

        def average(self, n: int = 0) -> None:
            self.ready = True

        def clear(self) -> None: ...

        def clear_output(self) -> None:
            self.ready = False

    model, lines = Counting(), Lines(interval=2, by_epoch=False)
    runner = IterBasedRunner(
        model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), max_iters=4
    )
    foreign = runner.log_buffer = Foreign()  # type: ignore[assignment]
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(3), make_loader(3)], [("train", 2), ("val", 1)])
    assert foreign.updates == 6
    assert [at for _, at, _ in lines.lines] == [2, 4]


def test_validation_leaves_nothing_behind() -> None:
    class Sizes(Hook):
        def __init__(self) -> None:
            self.kept: list[list[int]] = []

        def before_train_iter(self, runner: Any) -> None:
            buffer: LogBuffer = runner.log_buffer
            self.kept.append([len(values) for values in buffer.val_history.values()])

    sizes = Sizes()
    run(ITER_VARIANTS["native"], [("train", 1), ("val", 50)], 5, sizes)
    assert [max(kept, default=0) for kept in sizes.kept] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_a_resumed_run_goes_on_with_the_lines(make_runner: Any, at: int) -> None:
    workflow, interval = [("train", 2), ("val", 3)], 1
    straight = Lines(interval=interval, by_epoch=False)
    run(ITER_VARIANTS["native"], workflow, 8, straight)
    first = make_runner(IterBasedRunner, model=Counting(), max_iters=8)
    first.register_checkpoint_hook({"interval": at, "by_epoch": False})
    first.run([make_loader(3), make_loader(3)], workflow)
    again = make_runner(IterBasedRunner, model=Counting(), max_iters=8)
    again.model.trained, again.model.validated = at, (at - 1) // 2 * 3
    resumed = Lines(interval=interval, by_epoch=False)
    again.register_hook(resumed, "VERY_LOW")
    again.resume(f"{first.work_dir}/iter_{at}.pth")
    again.run([make_loader(3), make_loader(3)], workflow)
    number = [line[1] for line in straight.lines].index(at) + 1  # the line behind the file
    assert resumed.values() == straight.values()[number:]
