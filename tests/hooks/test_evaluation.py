"""EvalHook: when it evaluates, what it logs, and which checkpoint it keeps as the best."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
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
from hookrun.checkpoint import files, read_checkpoint
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Watch(EvalHook):
    """Notes the counters at each evaluation."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.at: list[tuple[str, int]] = []

    def _do_evaluate(self, runner: Any) -> None:
        self.at.append((runner._firing, runner.epoch if self.by_epoch else runner.iter))
        super()._do_evaluate(runner)


class Lines(LoggerHook):
    """Keeps what would be logged."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.lines: list[tuple[int, dict[str, Any]]] = []

    def log(self, runner: Any) -> None:
        self.lines.append((runner.iter + 1, dict(runner.log_buffer.output)))


def best_files(runner: Any) -> list[str]:
    return sorted(name for name in os.listdir(runner.work_dir) if name.startswith("best_"))


def run_with_scores(runner: Any, scores: list[Any], key: str = "acc", **keywords: Any) -> Any:
    """Train one epoch per score, evaluated to it; gives the runner's messages."""
    runner._max_epochs = len(scores)
    loader = make_loader(scores=[{key: score} for score in scores])
    runner.register_hook(EvalHook(loader, **{"save_best": key, **keywords}))
    runner.run([make_loader(1)], TRAIN)
    return runner.meta["hook_msgs"]


# When


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


# The best checkpoint


@pytest.mark.parametrize(
    ("key", "scores", "epoch"),
    [
        ("acc", [0.2, 0.5, 0.3], 2),
        ("loss", [0.2, 0.5, 0.1], 3),
        ("acc", [0.5, 0.5, 0.5], 1),
        ("acc", [0.0], 1),
        ("loss", [0.3, 0.0, 0.1], 2),
        ("acc", [-1.0, -0.5], 2),
        ("acc", [float("nan"), 0.1, float("nan")], 2),
        ("acc", [np.float32(0.25), torch.tensor(0.5), torch.tensor([0.125])], 2),
        ("acc", [1, 3, 2], 2),
        ("acc", [0.1, float("inf")], 2),
    ],
)
def test_the_best_epoch_is_kept(
    make_runner: MakeRunner, key: str, scores: list[Any], epoch: int
) -> None:
    runner = make_runner()
    messages = run_with_scores(runner, scores, key)
    name = f"best_{key}_epoch_{epoch}.pth"
    assert best_files(runner) == [name]
    assert messages["best_ckpt"] == os.path.join(runner.work_dir, name)
    assert messages["best_score"] == float(scores[epoch - 1])
    inside = read_checkpoint(messages["best_ckpt"])["meta"]
    assert inside["epoch"] == epoch
    assert inside["hook_msgs"] == messages


def test_nan_alone_is_never_the_best(make_runner: MakeRunner) -> None:
    runner = make_runner()
    assert "best_score" not in run_with_scores(runner, [float("nan")] * 2)
    assert best_files(runner) == []


@pytest.mark.parametrize(
    ("key", "keywords", "rule"),
    [
        ("acc", {}, "greater"),
        ("ACC", {}, "greater"),
        ("mIoU", {}, "greater"),
        ("top1_accuracy", {}, "greater"),
        ("AR@100", {}, "greater"),
        ("loss", {}, "less"),
        ("val_loss", {}, "less"),
        ("error", {"rule": "less"}, "less"),
        ("acc", {"rule": "less"}, "less"),
        ("error", {"less_keys": "error"}, "less"),
        ("score", {"greater_keys": ["score"], "less_keys": ["core"]}, "greater"),
        ("core", {"greater_keys": ["or"], "less_keys": ["core"]}, "less"),
    ],
)
def test_the_rule_follows_from_the_name(key: str, keywords: dict[str, Any], rule: str) -> None:
    assert EvalHook(make_loader(), save_best=key, **keywords).rule == rule


def test_a_name_that_tells_no_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'error' is better.*rule='greater' or rule='less'"):
        EvalHook(make_loader(), save_best="error")
    with pytest.raises(KeyError, match=r"'greater', 'less' or None, not 'larger'"):
        EvalHook(make_loader(), save_best="acc", rule="larger")


def test_auto_takes_the_first_score(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    scores = [{"val_loss": 0.5, "acc": 0.1}, {"val_loss": 0.4, "acc": 0.0}]
    runner.register_hook(EvalHook(make_loader(scores=scores), save_best="auto"))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_val_loss_epoch_2.pth"]


def test_a_score_that_is_missing_or_no_number_is_an_error(make_runner: MakeRunner) -> None:
    with pytest.raises(KeyError, match=r"save_best='accc' is not among.*Did you mean 'acc'"):
        run_scored(make_runner(), {"acc": 1.0}, save_best="accc")
    with pytest.raises(TypeError, match=r"compares numbers, but the score is 'high'"):
        run_scored(make_runner(), {"acc": "high"}, save_best="acc")


def run_scored(runner: Any, scores: Any, **keywords: Any) -> None:
    runner.register_hook(EvalHook(make_loader(scores=[scores]), **keywords))
    runner._max_epochs = 1
    runner.run([make_loader(1)], TRAIN)


def test_no_scores_keep_no_best_file(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with pytest.warns(UserWarning, match=r"gave no scores"):
        run_scored(runner, {}, save_best="acc")
    assert best_files(runner) == []


def test_a_failing_save_keeps_the_old_best_file_and_its_messages(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, save, calls = make_runner(), torch.save, []

    def full_disk_at_the_second(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save(*arguments)

    monkeypatch.setattr(files.torch, "save", full_disk_at_the_second)
    with pytest.raises(OSError, match=r"no space"):
        run_with_scores(runner, [0.1, 0.2])
    assert best_files(runner) == ["best_acc_epoch_1.pth"]
    assert runner.meta["hook_msgs"]["best_score"] == 0.1
    assert runner.meta["hook_msgs"]["best_ckpt"].endswith("best_acc_epoch_1.pth")


def test_the_old_best_file_is_there_until_the_new_one_is(make_runner: MakeRunner) -> None:
    runner, seen = make_runner(), []
    save = runner.save_checkpoint

    def watched(*arguments: Any, **keywords: Any) -> None:
        save(*arguments, **keywords)
        seen.append(best_files(runner))

    runner.save_checkpoint = watched
    run_with_scores(runner, [0.1, 0.2])
    assert seen[-1] == ["best_acc_epoch_1.pth", "best_acc_epoch_2.pth"]
    assert best_files(runner) == ["best_acc_epoch_2.pth"]


def test_a_resumed_run_knows_the_best_so_far(make_runner: MakeRunner) -> None:
    first = make_runner(max_epochs=2)
    first.register_hook(EvalHook(make_loader(scores=[{"acc": 0.1}, {"acc": 0.6}]), save_best="acc"))
    first.register_checkpoint_hook({"interval": 1})
    first.run([make_loader(1)], TRAIN)

    second = make_runner(max_epochs=4)
    second.register_hook(
        EvalHook(make_loader(scores=[{"acc": 0.5}, {"acc": 0.7}]), save_best="acc")
    )
    second.resume(Path(first.work_dir) / "latest.pth")
    second.run([make_loader(1)], TRAIN)
    assert best_files(second) == ["best_acc_epoch_4.pth"]


def test_a_run_that_goes_on_elsewhere_leaves_the_first_ones_best_file(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = make_runner(max_epochs=1)
    run_with_scores(first, [0.1])
    second = make_runner(work_dir=str(tmp_path / "other"))
    second.resume(Path(first.work_dir) / "best_acc_epoch_1.pth")
    run_with_scores(second, [0.2, 0.0])
    assert best_files(first) == ["best_acc_epoch_1.pth"]
    assert best_files(second) == ["best_acc_epoch_2.pth"]


def test_out_dir_gets_a_folder_of_the_work_dirs_name(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner()
    messages = run_with_scores(runner, [0.1, 0.2], out_dir=str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out" / "run") == ["best_acc_epoch_2.pth"]
    assert Path(messages["best_ckpt"]).is_file()


def test_by_iteration_the_file_is_named_so_and_says_so(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    loader = make_loader(scores=[{"acc": 0.1}])
    runner.register_hook(EvalHook(loader, interval=3, by_epoch=False, save_best="acc"))
    runner.run([make_loader(4)], TRAIN)
    assert best_files(runner) == ["best_acc_iter_3.pth"]
    meta = read_checkpoint(Path(runner.work_dir) / "best_acc_iter_3.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (0, 3)


def test_the_best_before_training_is_named_by_what_is_finished(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=6)
    runner._epoch = 5
    loader = make_loader(scores=[{"acc": 0.5}, {"acc": 0.1}])
    runner.register_hook(EvalHook(loader, start=5, save_best="acc"))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_acc_epoch_5.pth"]
    meta = read_checkpoint(Path(runner.work_dir) / "best_acc_epoch_5.pth")["meta"]
    assert meta["epoch"] == 5


def test_without_save_best_no_folder_is_needed_and_meta_stays(make_runner: MakeRunner) -> None:
    runner = make_runner(work_dir=None, max_epochs=1)
    runner.register_hook(EvalHook(make_loader()))
    runner.run([make_loader(1)], TRAIN)
    assert runner.meta is None


def test_save_best_without_any_folder_does_not_start(make_runner: MakeRunner) -> None:
    runner = make_runner(work_dir=None)
    runner.register_hook(EvalHook(make_loader(), save_best="acc"))
    with pytest.raises(ValueError, match=r"EvalHook has no folder"):
        runner.run([make_loader(1)], TRAIN)


def test_two_hooks_that_keep_the_best_are_refused(make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.register_hook(EvalHook(make_loader(), save_best="acc"))
    runner.register_hook(EvalHook(make_loader(), save_best="loss"))
    with pytest.raises(ValueError, match=r"delete each other's files.*\['acc', 'loss'\]"):
        runner.run([make_loader(1)], TRAIN)


# What is evaluated


def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"mae": (outputs - targets).abs().mean().item(), "n": len(outputs)}


def pairs(size: int = 6) -> DataLoader[Any]:
    x = torch.arange(size * 2.0).reshape(size, 2)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)


def test_metrics_see_all_outputs_and_targets_of_a_train_step(make_runner: MakeRunner) -> None:
    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    with torch.no_grad():
        model.model.weight.fill_(1.0)  # type: ignore[union-attr, operator]
        model.model.bias.fill_(0.5)  # type: ignore[union-attr, operator]
    runner = make_runner(model=model, max_epochs=1)
    lines = Lines()
    runner.register_hook(EvalHook(pairs(), metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([pairs()], TRAIN)
    assert lines.lines == [(3, {"eval_iter_num": 2, "mae": 0.5, "n": 6})]


def test_metrics_take_dicts_with_a_target(make_runner: MakeRunner) -> None:
    class Mmcv(TinyModel):
        def forward(self, x: Tensor, target: Tensor, return_loss: bool = True) -> Tensor:  # type: ignore[override]
            assert return_loss is False
            return target + 0.25

    loader = [{"x": torch.zeros(2, 2), "target": torch.zeros(2, 1)}] * 3
    runner, lines = make_runner(model=Mmcv(), max_epochs=1), Lines()
    runner.register_hook(EvalHook(loader, metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([make_loader(1)], TRAIN)
    assert lines.lines[0][1] == {"eval_iter_num": 3, "mae": 0.25, "n": 6}


def test_dataset_evaluate_gets_one_result_per_sample_and_the_arguments(
    make_runner: MakeRunner,
) -> None:
    runner, loader = make_runner(max_epochs=1), make_loader(3)
    given: dict[str, Any] = {}

    def evaluate(results: Any, logger: Any = None, metric: str = "") -> dict[str, Any]:
        given.update(results=results, logger=logger, metric=metric)
        return {"acc": 1.0}

    loader.dataset.evaluate = evaluate  # type: ignore[attr-defined]
    runner.register_hook(EvalHook(loader, metric="bbox"))
    runner.run([make_loader(1)], TRAIN)
    assert torch.equal(torch.stack(given["results"]), runner.model.fc(loader.dataset.x))  # type: ignore[attr-defined]
    assert not given["results"][0].requires_grad
    assert (given["logger"], given["metric"]) == (runner.logger, "bbox")


def test_a_test_fn_is_used(make_runner: MakeRunner) -> None:
    runner, loader = make_runner(max_epochs=1), make_loader()
    runner.register_hook(EvalHook(loader, test_fn=lambda model, data_loader: [1, 2, 3]))
    runner.run([make_loader(1)], TRAIN)
    assert loader.dataset.evaluated == [[1, 2, 3]]  # type: ignore[attr-defined]


def test_a_loader_without_length(make_runner: MakeRunner) -> None:
    class Endless:
        def __iter__(self) -> Iterator[Any]:
            return iter(pairs())

    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    runner, lines = make_runner(model=model, max_epochs=1), Lines()
    runner.register_hook(EvalHook(Endless(), metrics=scores))
    runner.register_hook(lines, "VERY_LOW")
    runner.run([pairs()], TRAIN)
    assert lines.lines[0][1].keys() == {"mae", "n"}


def test_no_batches_are_an_error_that_says_so(make_runner: MakeRunner) -> None:
    model = TrainStep(nn.Linear(2, 1), nn.functional.mse_loss)
    runner = make_runner(model=model, max_epochs=1)
    runner.register_hook(EvalHook([], metrics=scores))
    with pytest.raises(ValueError, match=r"gives no batches"):
        runner.run([pairs()], TRAIN)


def test_text_and_arrays_among_the_scores_are_logged_as_they_are(make_runner: MakeRunner) -> None:
    runner, lines = make_runner(), Lines()
    array = np.array([0.1, 0.2])
    runner.register_hook(lines, "VERY_LOW")
    run_scored(runner, {"copypaste": "0.1 0.2", "per_class": array, "one": np.float32(0.5)})
    output = lines.lines[0][1]
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


# What is logged


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
        {"two"},
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
        ("val", 6, 4),
    ]


# Bad arguments, mocks, subclasses


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"interval": 0}, ValueError, "interval must be a positive int, not 0"),
        ({"interval": -1}, ValueError, "interval must be a positive int"),
        ({"start": -1}, ValueError, "start must be an int of at least 0"),
        ({"start": 1.5}, ValueError, "start must be an int"),
        ({"by_epoch": "no"}, TypeError, "by_epoch must be a bool"),
        ({"save_best": 1}, TypeError, "save_best is the name of a score"),
        ({"greater_keys": [1]}, TypeError, "greater_keys is a string or a list"),
        ({"metrics": 1}, TypeError, "metrics must be callable"),
        ({"metrics": scores, "test_fn": len}, ValueError, "metrics or test_fn, not both"),
        ({"metrics": scores, "intervall": 2}, TypeError, "'intervall'.*mean 'interval'"),
        ({"file_client_args": {"backend": "petrel"}}, ValueError, "only the local disk"),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EvalHook(make_loader(), **keywords)


def test_a_misspelt_argument_that_evaluate_does_not_take_is_named() -> None:
    loader = make_loader()
    loader.dataset.evaluate = lambda results, logger=None, metric="": {}  # type: ignore[attr-defined]
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
    with pytest.raises(TypeError, match=r"must give a dict of scores, not float"):
        run_scored(runner, 0.5)


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
    assert len(loader.dataset.evaluated) == 2  # type: ignore[attr-defined]


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
    loader = DataLoader([{"x": torch.zeros(2)}])  # type: ignore[arg-type, var-annotated]
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
