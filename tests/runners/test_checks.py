"""Bad input is refused with an error that says what to do, before training where possible."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import ClosureHook, EpochBasedRunner, Hook, IterBasedRunner, build_runner
from tests.support import Recorder, TinyModel, make_loader

from .variants import limits

RUNNERS = [EpochBasedRunner, IterBasedRunner]


@pytest.fixture(params=RUNNERS)
def runner(request: Any, make_runner: Any) -> Any:
    return make_runner(request.param, **limits(request.param))


def refused(runner: Any, error: type[Exception], *words: str, **arguments: Any) -> None:
    """The run is refused with these words, and nothing has happened."""
    recorder = Recorder()
    runner.register_hook(recorder)
    given = {"data_loaders": [make_loader(2)], "workflow": [("train", 1)], **arguments}
    with pytest.raises(error) as caught:
        runner.run(**given)
    for word in words:
        assert word in str(caught.value)
    assert recorder.events == []


@pytest.mark.parametrize("hook", [None, 3, "CheckpointHook", object(), lambda runner: None])
def test_what_is_no_hook(runner: Any, hook: Any) -> None:
    with pytest.raises(TypeError, match="only hooks can be registered, not"):
        runner.register_hook(hook)
    assert runner.hooks == []


def test_a_hook_class_instead_of_an_object(runner: Any) -> None:
    with pytest.raises(TypeError, match="give an object of the class"):
        runner.register_hook(Recorder)


@pytest.mark.parametrize("priority", [-1, 101, 1.5, True, None, []])
def test_a_priority_outside_the_range(runner: Any, priority: Any) -> None:
    if priority is None:
        runner.register_hook(Hook(), priority=None)  # the default
        assert runner.hooks[0].priority == 50
        return
    with pytest.raises((ValueError, TypeError), match=r"0.*100|priority"):
        runner.register_hook(Hook(), priority=priority)
    assert runner.hooks == []


def test_an_unknown_priority_lists_the_near_ones(runner: Any) -> None:
    with pytest.raises(KeyError, match="VERY_HIGH"):
        runner.register_hook(Hook(), priority="VERY_HIHG")


def test_an_unknown_policy_lists_the_near_ones(runner: Any) -> None:
    with pytest.raises(KeyError, match=r"no policy is called 'CosinAnealing'.*CosineAnnealing"):
        runner.register_lr_hook({"policy": "CosinAnealing", "min_lr": 0})


def test_an_unknown_hook_type_lists_the_near_ones(runner: Any) -> None:
    with pytest.raises(KeyError, match="CheckpointHook"):
        runner.register_hook({"type": "ChekpointHook"})


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"step": [1]}, KeyError, "needs the key 'policy'"),
        ({"policy": 3}, TypeError, "the policy is a string"),
        ("step", TypeError, "lr_config is a config dict or a hook"),
    ],
)
def test_an_lr_config_that_is_none(runner: Any, config: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        runner.register_lr_hook(config)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ([], TypeError, "log_config is a dict such as"),
        ({"interval": 1}, KeyError, "needs the key 'hooks', the list of loggers"),
        ({"hooks": "TextLoggerHook"}, TypeError, "is a list of loggers"),
        ("text", TypeError, "log_config is a dict such as"),
    ],
)
def test_a_log_config_without_a_list_of_loggers(
    runner: Any, config: Any, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        runner.register_logger_hooks(config)


@pytest.mark.parametrize("kind", RUNNERS)
def test_a_model_without_train_step_is_told_of_train_step(kind: Any) -> None:
    with pytest.raises(TypeError) as caught:
        kind(nn.Linear(2, 1), max_epochs=1)
    assert "the model Linear has no method train_step" in str(caught.value)
    assert "hookrun.TrainStep(model, loss_fn)" in str(caught.value)


def test_a_model_without_val_step_is_refused_when_the_workflow_validates(make_runner: Any) -> None:
    class TrainOnly(nn.Module):
        def train_step(self, data_batch: Any, optimizer: Any) -> dict[str, Any]:
            return {}

    for kind in RUNNERS:
        runner = make_runner(kind, model=TrainOnly(), optimizer=None, **limits(kind))
        refused(
            runner,
            TypeError,
            "TrainOnly has no method val_step",
            "hookrun.TrainStep",
            data_loaders=[make_loader(1)] * 2,
            workflow=[("train", 1), ("val", 1)],
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizer": "SGD"}, "optimizer must be a torch.optim.Optimizer"),
        ({"optimizer": {"a": 3}}, r"optimizer\['a'\] must be a torch.optim.Optimizer"),
        ({"logger": "text"}, "logger must be a logging.Logger"),
        ({"meta": [1]}, "meta must be a dict"),
        ({"work_dir": 3}, "work_dir must be a path"),
        ({"max_epochs": "3"}, "max_epochs must be an int"),
        ({"max_iters": 2.0}, "max_iters must be an int"),
        ({"max_epochs": True}, "max_epochs must be an int"),
        ({"batch_processor": 3}, "batch_processor must be callable"),
    ],
)
def test_arguments_of_a_wrong_type(arguments: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        EpochBasedRunner(TinyModel(), **arguments)


@pytest.mark.parametrize("limit", ["max_epochs", "max_iters"])
def test_a_negative_limit(limit: str) -> None:
    with pytest.raises(ValueError, match=f"{limit} must be at least 0"):
        EpochBasedRunner(TinyModel(), **{limit: -1})


def test_both_limits() -> None:
    with pytest.raises(ValueError, match="only one of max_epochs and max_iters"):
        EpochBasedRunner(TinyModel(), max_epochs=1, max_iters=1)


def test_neither_limit() -> None:
    refused(EpochBasedRunner(TinyModel()), ValueError, "needs max_epochs")
    refused(IterBasedRunner(TinyModel()), ValueError, "needs max_iters")


def test_the_limit_of_the_other_runner() -> None:
    refused(EpochBasedRunner(TinyModel(), max_iters=3), ValueError, "max_iters is for Iter")
    refused(IterBasedRunner(TinyModel(), max_epochs=3), ValueError, "max_epochs is for Epoch")


@pytest.mark.parametrize(("limit", "error"), [("3", TypeError), (-1, ValueError)])
def test_a_wrong_limit_given_to_run(limit: Any, error: Any) -> None:
    for runner, name in (
        (EpochBasedRunner(TinyModel()), "max_epochs"),
        (IterBasedRunner(TinyModel()), "max_iters"),
    ):
        with pytest.warns(DeprecationWarning, match=f"{name} of run"):
            refused(runner, error, name, **{name: limit})


def test_a_limit_given_to_run_is_deprecated_and_works() -> None:
    for runner, name in (
        (EpochBasedRunner(TinyModel()), "max_epochs"),
        (IterBasedRunner(TinyModel()), "max_iters"),
    ):
        with pytest.warns(DeprecationWarning, match=f"{name} of run"):
            runner.run([make_loader(2)], [("train", 1)], **{name: 1})
        assert runner.iter == {"max_epochs": 2, "max_iters": 1}[name]


def test_one_loader_that_is_not_in_a_list(runner: Any) -> None:
    refused(runner, TypeError, "data_loaders is a list", "[loader]", data_loaders=make_loader(1))


@pytest.mark.parametrize("workflow", ["train", [["train", 1]], [("train",)], ("train", 1), None])
def test_a_workflow_that_is_no_list_of_pairs(runner: Any, workflow: Any) -> None:
    refused(runner, TypeError, "workflow is a list of (mode, count) tuples", workflow=workflow)


def test_loaders_and_workflow_of_different_length(runner: Any) -> None:
    refused(
        runner,
        ValueError,
        "1 loaders and 2 phases",
        "('val', 1)",
        workflow=[("train", 1), ("val", 1)],
    )


def test_an_unknown_mode_names_the_near_one(runner: Any) -> None:
    refused(runner, ValueError, "no method 'trian'", "'train'", workflow=[("trian", 1)])


def test_a_mode_that_is_no_string(runner: Any) -> None:
    refused(runner, TypeError, "a mode of the workflow is a method's name", workflow=[(1, 1)])


@pytest.mark.parametrize("count", [-1, 1.0, "1", None, True])
def test_a_count_that_counts_nothing(runner: Any, count: Any) -> None:
    refused(runner, ValueError, "must be an int of at least 0", workflow=[("train", count)])


@pytest.mark.parametrize("workflow", [[("val", 1)], [("train", 0)], [("val", 2), ("train", 0)]])
def test_a_workflow_that_would_never_end(runner: Any, workflow: Any) -> None:
    loaders = [make_loader(1)] * len(workflow)
    refused(runner, ValueError, "would never end", data_loaders=loaders, workflow=workflow)


def test_an_empty_workflow(runner: Any) -> None:
    refused(runner, ValueError, "would never end", data_loaders=[], workflow=[])


def test_an_empty_loader(runner: Any) -> None:
    refused(runner, ValueError, "the loader of phase ('train', 1) is empty", data_loaders=[[]])


@pytest.mark.parametrize("loader", [None, 5])
def test_a_loader_that_cannot_be_iterated(runner: Any, loader: Any) -> None:
    refused(runner, TypeError, "cannot be iterated", data_loaders=[loader])


def test_a_work_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot be written") as caught:
            EpochBasedRunner(TinyModel(), work_dir=folder)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("s3://bucket/run", "s3://bucket", "gs://a/b", "memory://x", "hdfs://host:9000/runs"),
        *("file:///tmp/x", "s3:/bucket", "https://host/a", "az+x://c", Path("s3://bucket/run")),
    ],
)
def test_a_storage_is_no_work_dir(name: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"work_dir is a local folder.* as out_dir"):
        EpochBasedRunner(TinyModel(), work_dir=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a:b/c", "lr=0.1:x", "./s3:/x", "2026-11-29T20:40/a", "C:/x"])
def test_a_colon_in_the_name_of_a_work_dir_is_no_storage(
    name: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert EpochBasedRunner(TinyModel(), work_dir=name).work_dir == str(tmp_path / name)


def test_a_work_dir_is_made_and_absolute(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    runner = EpochBasedRunner(TinyModel(), work_dir="a/b")
    assert runner.work_dir == str(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_what_is_no_checkpoint(runner: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        runner.resume(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no checkpoint at all")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": runner.model.state_dict()}, tmp_path / "weights.pth")
    for name, words in (
        ("text.pth", "is not a checkpoint that can be read safely"),
        ("list.pth", "holds a list, not a checkpoint dict"),
        ("weights.pth", "does not say which epoch and iteration"),
        (".", "is a folder"),
    ):
        with pytest.raises(ValueError, match=words):
            runner.resume(tmp_path / name)


def test_a_hook_whose_arguments_are_wrong_is_named(runner: Any) -> None:
    with pytest.raises(ValueError, match="interval must be a positive int"):
        runner.register_checkpoint_hook({"interval": 0})
    with pytest.raises(TypeError) as caught:
        runner.register_optimizer_hook({"grad_clop": None})
    assert "OptimizerHook" in caught.value.__notes__[0]


def test_an_object_in_the_list_of_hooks_that_is_none(runner: Any) -> None:
    with pytest.raises(TypeError, match="only hooks can be in the list of hooks, not 3"):
        runner._hooks = [3]
    assert runner.hooks == []


def test_a_logger_is_made_where_none_is_given() -> None:
    runner = EpochBasedRunner(TinyModel(), max_epochs=1)
    assert isinstance(runner.logger, logging.Logger)
    assert runner.work_dir is None
    runner.run([make_loader(1)], [("train", 1)])


def test_an_unknown_runner_lists_the_near_ones() -> None:
    with pytest.raises(KeyError, match="EpochBasedRunner"):
        build_runner({"type": "EpochBasdRunner", "model": TinyModel()})


def test_a_run_within_a_run(runner: Any) -> None:
    def nest(runner: Any) -> None:
        runner.run([make_loader(2)], [("train", 1)])

    runner.register_hook(ClosureHook("after_train_iter", nest))
    with pytest.raises(RuntimeError, match=r"run\(\) was called while this .*Runner runs"):
        runner.run([make_loader(2)], [("train", 1)])


def test_a_run_that_is_at_its_end_already_is_told(
    runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def told() -> list[str]:
        return [each for each in caplog.messages if "took no step" in each]

    runner.run([make_loader(2)], [("train", 1)])
    assert told() == []
    runner.run([make_loader(2)], [("train", 1)])
    assert [f"after {runner.iter} iterations" in each for each in told()] == [True]
