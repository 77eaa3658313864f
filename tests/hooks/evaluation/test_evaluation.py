"""EvalHook: when it evaluates and what, and its interface."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hookrun import (
    CheckpointHook,
    EvalHook,
    IterBasedRunner,
    LoggerHook,
    OptimizerHook,
    TrainStep,
)
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Watch(EvalHook):
    """Notes the counters at each evaluation."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.at: list[tuple[str, int]] = []

    def _do_evaluate(self, runner: Any) -> None:
        self.at.append((runner.current_event, runner.epoch if self.by_epoch else runner.iter))
        super()._do_evaluate(runner)


class Lines(LoggerHook):
    """Keeps what would be logged."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def log(self, runner: Any) -> None:
        self.lines.append((runner.iter + 1, dict(runner.log_buffer.output)))


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"interval": 3}, [3, 6]),
        ({"start": 3}, [3, 4, 5, 6, 7]),
        ({"start": 3, "interval": 2}, [3, 5, 7]),
        ({"start": 9}, []),
    ],
)
def test_epochs_that_are_evaluated(
    make_runner: MakeRunner, arguments: dict[str, Any], epochs: list[int]
) -> None:
    runner = make_runner(max_epochs=7)
    hook = Watch(make_loader(), **arguments)
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
    assert hook.at == [("after_train_epoch", epoch - 1) for epoch in epochs]


@pytest.mark.parametrize(
    ("arguments", "iters"),
    [({"interval": 3}, [3, 6]), ({"start": 3, "interval": 2}, [3, 5, 7])],
)
@pytest.mark.parametrize("by", ["epochs", "iters"])
def test_iterations_that_are_evaluated(
    make_runner: MakeRunner, by: str, arguments: dict[str, Any], iters: list[int]
) -> None:
    runner = make_runner(IterBasedRunner, max_iters=7) if by == "iters" else make_runner()
    hook = Watch(make_loader(), by_epoch=False, **arguments)
    runner.register_hook(hook)
    runner.run([make_loader(7) if by == "iters" else make_loader(4)], TRAIN)
    assert hook.at == [("after_train_iter", i - 1) for i in iters]


@pytest.mark.parametrize(("start", "first"), [(5, True), (2, True), (6, False), (None, False)])
def test_a_resumed_run_is_evaluated_first_where_start_is_reached(
    make_runner: MakeRunner, start: int | None, first: bool
) -> None:
    runner = make_runner(max_epochs=7)
    runner._epoch = 5
    hook = Watch(make_loader(), start=start)
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
    before = [("before_train_epoch", 5)] if first else []
    assert hook.at == [*before, ("after_train_epoch", 5), ("after_train_epoch", 6)]


def test_a_resumed_run_is_evaluated_first_by_iteration(make_runner: MakeRunner) -> None:
    runner = make_runner(IterBasedRunner, max_iters=6)
    runner._iter = 4
    hook = Watch(make_loader(), start=4, interval=2, by_epoch=False)
    runner.register_hook(hook)
    runner.run([make_loader()], TRAIN)
    assert hook.at == [("before_train_iter", 4), ("after_train_iter", 5)]


def test_assigning_the_interval_takes_effect(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=4)
    hook = Watch(make_loader())
    runner.register_hook(hook)
    hook.interval = 2
    runner.run([make_loader(1)], TRAIN)
    assert [epoch for _, epoch in hook.at] == [1, 3]


def test_counting_epochs_where_there_are_none_is_warned_about(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(IterBasedRunner)
    runner.register_hook(EvalHook(make_loader()))
    runner.run([make_loader()], TRAIN)
    assert "EvalHook counts epochs" in caplog.text


def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"mae": (outputs - targets).abs().mean().item(), "n": len(outputs)}


def pairs(size: int = 6) -> DataLoader[Any]:
    x = torch.arange(size * 2.0).reshape(size, 2)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def test_metrics_see_all_outputs_and_targets_of_a_train_step(make_runner: MakeRunner) -> None:
    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    with torch.no_grad():
        model.model.weight.fill_(1.0)
        model.model.bias.fill_(0.5)
    runner = make_runner(model=model, max_epochs=1)
    lines = Lines()
    runner.register_hook(EvalHook(pairs(), metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([pairs()], TRAIN)
    assert lines.lines[1:] == [(3, {"eval_iter_num": 2, "mae": 0.5, "n": 6})]


def test_metrics_take_dicts_with_a_target(make_runner: MakeRunner) -> None:
    class Mmcv(TinyModel):
        def forward(self, x: Tensor, target: Tensor, return_loss: bool = True) -> Tensor:
            assert return_loss is False
            return target + 0.25

    loader = [{"x": torch.zeros(2, 2), "target": torch.zeros(2, 1)}] * 3
    runner, lines = make_runner(model=Mmcv(), max_epochs=1), Lines()
    runner.register_hook(EvalHook(loader, metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(1)], TRAIN)
    assert lines.lines[1][1] == {"eval_iter_num": 3, "mae": 0.25, "n": 6}


def test_dataset_evaluate_gets_one_result_per_sample_and_the_arguments(
    make_runner: MakeRunner,
) -> None:
    runner, loader = make_runner(max_epochs=1), make_loader(3)
    given: dict[str, Any] = {}

    def evaluate(results: Any, logger: Any = None, metric: str = "") -> dict[str, Any]:
        given.update(results=results, logger=logger, metric=metric)
        return {"acc": 1.0}

    loader.dataset.evaluate = evaluate
    runner.register_hook(EvalHook(loader, metric="bbox"))
    runner.run([make_loader(1)], TRAIN)
    assert torch.equal(torch.stack(given["results"]), runner.model.fc(loader.dataset.x))
    assert not given["results"][0].requires_grad
    assert (given["logger"], given["metric"]) == (runner.logger, "bbox")


def test_a_test_fn_is_used(make_runner: MakeRunner) -> None:
    runner, loader = make_runner(max_epochs=1), make_loader()
    runner.register_hook(EvalHook(loader, test_fn=lambda model, data_loader: [1, 2, 3]))
    runner.run([make_loader(1)], TRAIN)
    assert loader.dataset.evaluated == [[1, 2, 3]]


def test_a_loader_without_length(make_runner: MakeRunner) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(pairs())

    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    runner, lines = make_runner(model=model, max_epochs=1), Lines()
    runner.register_hook(EvalHook(Endless(), metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([pairs()], TRAIN)
    assert lines.lines[1][1].keys() == {"mae", "n"}


def test_no_batches_are_an_error_that_says_so(make_runner: MakeRunner) -> None:
    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    runner = make_runner(model=model, max_epochs=1)
    runner.register_hook(EvalHook([], metrics=scores))
    with pytest.raises(ValueError, match=r"yields no batches"):
        runner.run([pairs()], TRAIN)


def test_text_and_arrays_among_the_scores_are_logged_as_they_are(make_runner: MakeRunner) -> None:
    runner, lines = make_runner(max_epochs=1), Lines()
    array = np.array([0.1, 0.2])
    scores = {"copypaste": "0.1 0.2", "per_class": array, "one": np.float32(0.5)}
    runner.register_hook(EvalHook(make_loader(scores=[scores])))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(1)], TRAIN)
    output = lines.lines[1][1]
    assert output["copypaste"] == "0.1 0.2"
    assert output["per_class"] is array
    assert type(output["one"]) is float


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_is_left_in_the_mode_it_was_in(make_runner: MakeRunner, fails: bool) -> None:
    class Frozen(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.norm.eval()
            return self

    def metrics(outputs: Any, targets: Any) -> dict[str, float]:
        modes.append([module.training for module in runner.model.modules()])
        if fails:
            raise RuntimeError("no score")
        return {"acc": 1.0}

    modes: list[list[bool]] = []
    runner = make_runner(model=Frozen(), max_epochs=2)
    loader = [{"x": torch.zeros(2, 2), "target": torch.zeros(2, 1)}]
    runner.model.forward = lambda x, target, return_loss: runner.model.fc(x)
    runner.register_hook(EvalHook(loader, metrics=metrics))
    if fails:
        with pytest.raises(RuntimeError, match=r"no score"):
            runner.run([make_loader(1)], TRAIN)
    else:
        runner.run([make_loader(1)], TRAIN)
    assert modes[0] == [False, False, False]
    assert [module.training for module in runner.model.modules()] == [True, True, False]


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"interval": 0}, ValueError, "interval must be a positive int, not 0"),
        ({"interval": -1}, ValueError, "interval must be a positive int"),
        ({"start": -1}, ValueError, "start must be an int of at least 0"),
        ({"start": 1.5}, ValueError, "start must be an int"),
        ({"start": True}, ValueError, "start must be an int"),
        ({"rule": {}}, KeyError, "rule must be 'greater', 'less' or None"),
        ({"test_fn": 3}, TypeError, "test_fn must be callable, not 3"),
        ({"by_epoch": "no"}, TypeError, "by_epoch must be a bool"),
        ({"save_best": 1}, TypeError, "save_best is the name of a score"),
        ({"greater_keys": [1]}, TypeError, "greater_keys is a string or a list"),
        ({"metrics": 1}, TypeError, "metrics must be callable"),
        ({"metrics": scores, "test_fn": len}, ValueError, "metrics or test_fn, not both"),
        ({"metrics": scores, "intervall": 2}, TypeError, "'intervall'.*mean 'interval'"),
        ({"file_client_args": {"backend": "petrel"}}, ValueError, "no storage 'petrel'"),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EvalHook(make_loader(), **keywords)


def test_a_misspelt_argument_that_evaluate_does_not_take_is_named() -> None:
    loader = make_loader()
    loader.dataset.evaluate = lambda results, logger=None, metric="": {}
    EvalHook(loader, metric="bbox")
    with pytest.raises(TypeError, match=r"'save_bst'.*Did you mean 'save_best'"):
        EvalHook(loader, save_bst="acc")


def test_loaders_that_cannot_be_evaluated_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a loader of batches, not int"):
        EvalHook(3)
    with pytest.raises(TypeError, match=r"TensorDataset has no evaluate.*metrics="):
        EvalHook(pairs())
    with pytest.raises(TypeError, match=r"list has no evaluate"):
        EvalHook([1])
    with pytest.raises(TypeError, match=r"generator can be gone through only once"):
        EvalHook((batch for batch in pairs()), metrics=scores)


def test_pair_batches_without_a_train_step_are_explained(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(EvalHook(pairs(), metrics=scores))
    with pytest.raises(
        TypeError, match=r"TinyModel\(return_loss=False.*batch is a list.*TrainStep"
    ):
        runner.run([make_loader(1)], TRAIN)


def test_scores_that_are_no_dict_are_refused(make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.register_hook(EvalHook(make_loader(scores=[0.5])))
    with pytest.raises(TypeError, match=r"must return a dict of scores, not float"):
        runner.run([make_loader(1)], TRAIN)


def test_methods_can_be_called_on_a_mock_that_never_saw_before_run() -> None:
    loader = make_loader(scores=[{"acc": 0.5}, {"acc": 0.4}])
    runner = MagicMock(epoch=1, iter=7, meta={"hook_msgs": {}})
    hook = EvalHook(loader, interval=2, save_best="acc", test_fn=lambda model, data: [])
    hook.after_train_epoch(runner)
    assert runner.meta["hook_msgs"]["best_score"] == 0.5
    runner.save_checkpoint.assert_called_once()
    runner.epoch = 2
    hook.after_train_epoch(runner)  # not due
    runner.epoch = 3
    hook.after_train_epoch(runner)  # not better
    runner.save_checkpoint.assert_called_once()
    assert len(loader.dataset.evaluated) == 2


def test_overridden_methods_are_used(make_runner: MakeRunner) -> None:
    calls = []

    class Mine(EvalHook):
        def _should_evaluate(self, runner: Any) -> bool:
            return bool(runner.epoch == 1)  # not what a native trigger for 5 would give

        def _do_evaluate(self, runner: Any) -> None:
            calls.append("do")
            super()._do_evaluate(runner)

        def evaluate(self, runner: Any, results: Any) -> float:
            calls.append("evaluate")
            return 0.0  # falsy, and still a score

        def _save_ckpt(self, runner: Any, key_score: float) -> None:
            calls.append(f"save {key_score}")

    runner = make_runner(max_epochs=4)
    loader = DataLoader([{"x": torch.zeros(2)}])
    runner.register_hook(Mine(loader, interval=5, save_best="acc"))  # no dataset.evaluate needed
    runner.run([make_loader(1)], TRAIN)
    assert calls == ["do", "evaluate", "save 0.0"]


def test_an_overridden_every_n_epochs_decides(make_runner: MakeRunner) -> None:
    class Mine(Watch):
        def every_n_epochs(self, runner: Any, n: int) -> bool:
            return bool(runner.epoch == 1)

    runner, hook = make_runner(max_epochs=3), Mine(make_loader(), interval=3)
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
    assert [epoch for _, epoch in hook.at] == [1]


def test_evaluation_does_not_disturb_training(make_runner: MakeRunner) -> None:
    weights = []
    for evaluate in (False, True):
        runner = make_runner(max_epochs=2)
        runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
        if evaluate:
            runner.register_hook(EvalHook(make_loader(), save_best="acc"))
            runner.register_hook(CheckpointHook(1))
        runner.run([make_loader()], TRAIN)
        weights.append(copy.deepcopy(runner.model.state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
