"""The fields of a line and the values that are reported are never taken for each other."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hookrun import (
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
    LoggerHook,
    TrainStep,
)
from tests.support import TinyModel, make_loader

from .text_support import printed, written

FIELDS = ("mode", "epoch", "iter", "lr", "time", "data_time", "memory", "eta", "eval_iter_num")
VALUES = {name: 100.0 + number for number, name in enumerate(FIELDS)}
WORKFLOW = [("train", 1), ("val", 1)]


def model_of(values: dict[str, Any]) -> TinyModel:
    class Reports(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            outputs = super().train_step(data_batch)
            return {**outputs, "log_vars": {"loss": outputs["loss"], **values}}

    return Reports()


class OwnStepRunner(EpochBasedRunner):
    """Logs what a step reports by itself, as runners derived from MMCV's do."""

    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        step = self.model.train_step if train_mode else self.model.val_step
        outputs = step(data_batch, self.optimizer, **kwargs)
        self.log_buffer.update(outputs["log_vars"], outputs["num_samples"])
        self.outputs = outputs


class PythonIterRunner(IterBasedRunner):
    def call_hook(self, event: str) -> None:
        super().call_hook(event)


class Tags(LoggerHook):
    """Keeps the tags that a back end such as TensorBoard would get."""

    def __init__(self, add_mode: bool = True, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.add_mode = add_mode
        self.tags: list[dict[str, Any]] = []

    def log(self, runner: Any) -> None:
        self.tags.append(self.get_loggable_tags(runner, add_mode=self.add_mode))


def train(make_runner: Any, kind: type, model: Any, *hooks: Hook, timer: bool = True) -> Any:
    limit = {"max_iters": 4} if issubclass(kind, IterBasedRunner) else {"max_epochs": 2}
    runner = make_runner(kind, model=model, **limit)
    if timer:
        runner.register_timer_hook({})
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    for hook in hooks:
        runner.register_hook(hook, "VERY_LOW" if isinstance(hook, LoggerHook) else "NORMAL")
    runner.run([make_loader(2), make_loader(2)], WORKFLOW)
    return runner


RUNNERS = [EpochBasedRunner, OwnStepRunner, IterBasedRunner, PythonIterRunner]


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("timer", [False, True])
def test_neither_a_field_nor_a_value_is_lost(
    make_runner: Any, caplog: pytest.LogCaptureFixture, kind: type, as_tensors: bool, timer: bool
) -> None:
    given = {name: torch.tensor(v) if as_tensors else v for name, v in VALUES.items()}
    by_epoch = not issubclass(kind, IterBasedRunner)
    loggers = [Tags(interval=2), Tags(interval=2, add_mode=False)]
    evaluation = EvalHook(make_loader(3, scores=[{**VALUES, "acc": 0.5}] * 4), by_epoch=by_epoch)
    with pytest.warns(UserWarning, match="'eval_iter_num' is logged as 'eval_iter_num_'"):
        runner = train(make_runner, kind, model_of(given), evaluation, *loggers, timer=timer)
    lines = written(runner)
    assert {(line["mode"], "acc" in line) for line in lines} == {
        ("train", False),
        ("val", False),
        ("val", True),
    }
    for line in lines:
        assert line["lr"] == 0.1
        assert line["epoch"] in (1, 2)
        assert line["iter"] == 3 if "acc" in line else line["iter"] in (1, 2, 3, 4)
        assert "memory" not in line or torch.cuda.is_available()
        assert ("time" in line) == ("data_time" in line) == (timer and "acc" not in line)
        assert line.get("time", 0.0) < 100
        assert {name.rstrip("_"): line[f"{name}_"] for name in FIELDS} == VALUES
        assert "eval_iter_num" not in line
    for text in printed(caplog):
        assert all(f"{name}_: {value:.4f}" in text for name, value in VALUES.items())
    for logger in loggers:
        for tags in logger.tags:
            names = {tag.split("/")[-1] for tag in tags}
            assert not names & {"time", "data_time", "eval_iter_num"}
            assert set(VALUES.values()) <= set(tags.values())
            assert (tags["learning_rate"], tags["momentum"]) == (0.1, 0.9)
    warned = [r.getMessage() for r in caplog.records if "is logged as" in r.getMessage()]
    assert len([text for text in warned if "'lr' is logged as 'lr_'" in text]) == 1
    assert len(warned) == len(FIELDS)


@pytest.mark.parametrize("order", [("time", "time_"), ("time_", "time")])
@pytest.mark.parametrize("timer", [False, True])
def test_a_name_that_is_taken_gets_more_underscores(
    make_runner: Any, order: tuple[str, str], timer: bool
) -> None:
    values = {name: {"time": 5.0, "time_": 6.0}[name] for name in order}
    lines = written(train(make_runner, EpochBasedRunner, model_of(values), timer=timer))
    assert {(line["time_"], line["time__"]) for line in lines} == {(6.0, 5.0)}
    assert all(("time" in line) == timer for line in lines)


def test_learning_rates_among_the_tags_stay_what_they_are(make_runner: Any) -> None:
    values = {"learning_rate": 5.0, "momentum": 6.0}
    tags, flat = Tags(interval=2), Tags(interval=2, add_mode=False)
    train(make_runner, EpochBasedRunner, model_of(values), tags, flat)
    assert tags.tags[0]["train/learning_rate"] == 5.0
    assert tags.tags[0]["learning_rate"] == 0.1
    assert (flat.tags[0]["learning_rate_"], flat.tags[0]["learning_rate"]) == (5.0, 0.1)
    assert (flat.tags[0]["momentum_"], flat.tags[0]["momentum"]) == (6.0, 0.9)


def test_metrics_of_a_train_step_are_kept_apart_too(make_runner: Any) -> None:
    def seconds(outputs: Any, targets: Any) -> float:
        return 7.0

    model = TrainStep(TinyModel().fc, torch.nn.functional.mse_loss, metrics={"time": seconds})
    runner = make_runner(model=model, max_epochs=1)
    runner.register_timer_hook({})
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    loader = [{"inputs": batch["x"], "targets": batch["y"]} for batch in make_loader(2)]
    runner.run([[tuple(batch.values()) for batch in loader]], [("train", 1)])
    (line,) = written(runner)
    assert line["time_"] == 7.0
    assert line["time"] < 7.0


def test_names_that_are_free_are_neither_changed_nor_warned_about(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"loss_": 1.0, "mode_loss": 2.0, "timer": 3.0, "Epoch": 4.0, "lr_backbone": 5.0}
    lines = written(train(make_runner, EpochBasedRunner, model_of(values)))
    assert all(values.items() <= line.items() for line in lines)
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert not [text for text in warned if "nothing has been trained" not in text]


# The mode


@pytest.mark.parametrize("kind", RUNNERS)
@pytest.mark.parametrize("timer", [False, True])
@pytest.mark.parametrize("values", [{}, {"time": 1.0}, {"data_time": 1.0}])
def test_the_mode_is_who_reports_and_not_what(
    make_runner: Any, kind: type, timer: bool, values: dict[str, float]
) -> None:
    scores = [{"acc": 0.5, **values}] * 4
    by_epoch = not issubclass(kind, IterBasedRunner)
    modes = []

    class Modes(LoggerHook):
        def log(self, runner: Any) -> None:
            is_evaluation = "acc" in runner.log_buffer.output
            modes.append((self.get_mode(runner), is_evaluation, runner.mode))

    evaluation = EvalHook(make_loader(3, scores=scores), by_epoch=by_epoch)
    train(make_runner, kind, model_of(values), evaluation, Modes(interval=2), timer=timer)
    assert set(modes) == {
        ("train", False, "train"),
        ("val", True, "train"),
        ("val", False, "val"),
    }


def test_a_line_without_any_value_is_trainings(make_runner: Any) -> None:
    class Silent(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            return {"loss": super().train_step(data_batch)["loss"]}

    runner = make_runner(model=Silent(), max_epochs=1)
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    runner.run([make_loader(2)], [("train", 1)])
    assert written(runner) == [{"mode": "train", "epoch": 1, "iter": 2, "lr": 0.1}]


class Mmcv(Hook):
    """Evaluates as code for MMCV does: it writes the output, and reads what is there."""

    def __init__(self) -> None:
        self.read: list[Any] = []

    def after_train_epoch(self, runner: Any) -> None:
        runner.log_buffer.output["eval_iter_num"] = 7
        runner.log_buffer.output["time"] = 8.0
        runner.log_buffer.ready = True
        self.read.append(runner.log_buffer.output["eval_iter_num"])


def test_code_that_writes_and_reads_the_output_goes_on_working(make_runner: Any) -> None:
    hook, tags = Mmcv(), Tags(interval=2)
    runner = train(make_runner, EpochBasedRunner, TinyModel(), hook, tags)
    assert hook.read == [7, 7]
    evaluations = [line for line in written(runner) if "time_" in line]
    assert evaluations == [
        {"mode": "val", "epoch": epoch, "iter": 7, "lr": 0.1, "time_": 8.0} for epoch in (1, 2)
    ]
    assert [each for each in tags.tags if "val/time_" in each] == [
        {"val/time_": 8.0, "learning_rate": 0.1, "momentum": 0.9}
    ] * 2


def test_an_evaluation_that_forgets_to_say_so_does_not_leak_its_length(make_runner: Any) -> None:
    class Forgets(Hook):
        def after_train_iter(self, runner: Any) -> None:
            runner.log_buffer.output["eval_iter_num"] = 7

    tags = Tags(interval=2)
    runner = train(make_runner, IterBasedRunner, TinyModel(), Forgets(), tags)
    assert all("eval_iter_num" not in name for each in tags.tags for name in each)
    assert all("eval_iter_num" not in line for line in written(runner))


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_the_iteration_of_a_line_is_the_one_that_is_done(make_runner: Any, kind: type) -> None:
    at = []

    class At(LoggerHook):
        def log(self, runner: Any) -> None:
            names = runner.log_buffer.output
            kind = "acc" if "acc" in names else self.get_mode(runner)
            at.append((kind, self.get_epoch(runner), self.get_iter(runner)))

    by_epoch = kind is EpochBasedRunner
    evaluation = EvalHook(make_loader(3), start=0, interval=1 if by_epoch else 2, by_epoch=by_epoch)
    train(make_runner, kind, TinyModel(), evaluation, At(interval=2))
    if by_epoch:
        assert at == [
            ("acc", 0, 0),
            *(("train", 1, 2), ("acc", 1, 2), ("val", 1, 2)),
            *(("train", 2, 4), ("acc", 2, 4), ("val", 2, 4)),
        ]
    else:
        assert at == [
            ("acc", 1, 0),
            ("val", 1, 1),
            *(("train", 1, 2), ("acc", 1, 2), ("val", 1, 2)),
            ("val", 2, 3),
            *(("train", 2, 4), ("acc", 2, 4), ("val", 2, 4)),
        ]
