"""CheckpointHook: what is saved when, what is kept, and what a file says about itself."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from hookrun import CheckpointHook, EpochBasedRunner, IterBasedRunner
from hookrun.checkpoint import read_checkpoint
from tests.support import make_loader

from .checkpoint_support import MakeRunner, saved, train


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"interval": 1}, ["epoch_1.pth", "epoch_2.pth", "epoch_3.pth"]),
        ({"interval": 2}, ["epoch_2.pth", "epoch_3.pth"]),
        ({"interval": 2, "save_last": False}, ["epoch_2.pth"]),
        ({}, ["epoch_3.pth"]),
        ({"save_last": False}, []),
        ({"interval": 1, "max_keep_ckpts": 1}, ["epoch_3.pth"]),
        ({"interval": 1, "max_keep_ckpts": 2}, ["epoch_2.pth", "epoch_3.pth"]),
        ({"interval": 5, "by_epoch": False}, ["iter_10.pth", "iter_12.pth", "iter_5.pth"]),
        ({"interval": 1, "filename_tmpl": "e{:03d}.pth", "max_keep_ckpts": 1}, ["e003.pth"]),
        ({"interval": 1, "filename_tmpl": "same.pth", "max_keep_ckpts": 1}, ["same.pth"]),
    ],
)
def test_files_of_an_epoch_based_run(
    make_runner: MakeRunner, config: dict[str, Any], expected: list[str]
) -> None:
    names = train(make_runner(max_epochs=3), config)
    assert names == sorted([*expected, *(["latest.pth"] if expected else [])])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"interval": 2}, ["iter_2.pth", "iter_4.pth", "iter_5.pth"]),
        ({"interval": 2, "save_last": False}, ["iter_2.pth", "iter_4.pth"]),
        ({"interval": 1, "max_keep_ckpts": 2}, ["iter_4.pth", "iter_5.pth"]),
    ],
)
def test_files_of_an_iter_based_run(
    make_runner: MakeRunner, config: dict[str, Any], expected: list[str]
) -> None:
    names = train(make_runner(IterBasedRunner, max_iters=5), {"by_epoch": False, **config})
    assert names == [*expected, "latest.pth"]


def test_counting_epochs_where_there_are_none_is_warned_about(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(make_runner(IterBasedRunner, max_iters=2), {"interval": 1}) == []
    assert "CheckpointHook counts epochs" in caplog.text


def test_latest_means_the_newest_file(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    train(runner, {"interval": 1})
    assert os.readlink(Path(runner.work_dir) / "latest.pth") == "epoch_2.pth"
    assert runner.meta is None  # nobody asked for messages


def test_no_link_on_request(make_runner: MakeRunner) -> None:
    names = train(make_runner(max_epochs=1), {"interval": 1, "create_symlink": False})
    assert names == ["epoch_1.pth"]


def test_the_last_checkpoint_is_noted(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2, meta={"seed": 1})
    train(runner, {"interval": 1})
    assert runner.meta["hook_msgs"]["last_ckpt"] == os.path.join(runner.work_dir, "epoch_2.pth")


def test_out_dir_gets_a_folder_of_the_work_dirs_name(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(max_epochs=1)
    assert train(runner, {"interval": 1, "out_dir": str(tmp_path / "out")}) == []
    assert saved(tmp_path / "out" / "run") == ["epoch_1.pth", "latest.pth"]


def test_out_dir_alone_is_enough(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1, work_dir=None)
    runner.register_hook(CheckpointHook(1, out_dir=tmp_path / "out"))
    runner.run([make_loader()], [("train", 1)])
    assert saved(tmp_path / "out") == ["epoch_1.pth", "latest.pth"]


def test_without_any_folder_the_run_does_not_start(make_runner: MakeRunner) -> None:
    runner = make_runner(work_dir=None)
    runner.register_hook(CheckpointHook(1))
    with pytest.raises(ValueError, match=r"CheckpointHook has no folder.*work_dir.*out_dir"):
        runner.run([make_loader()], [("train", 1)])
    assert runner.iter == 0


def test_a_work_dir_that_vanished_is_made_again(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    os.rmdir(runner.work_dir)
    assert train(runner, {"interval": 1}) == ["epoch_1.pth", "latest.pth"]


def test_a_file_saved_within_an_epoch_does_not_claim_the_next(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    train(runner, {"interval": 3, "by_epoch": False})
    folder = Path(runner.work_dir)
    read = {name: read_checkpoint(folder / name) for name in saved(folder)}
    read_back = {
        name: (c["meta"]["epoch"], c["meta"]["iter"], c["hookrun"]["inner_iter"])
        for name, c in read.items()
    }
    assert read_back == {
        "iter_3.pth": (0, 3, 3),
        "iter_6.pth": (1, 6, 2),
        "iter_8.pth": (1, 8, 4),
        "latest.pth": (1, 8, 4),
    }


def test_a_file_saved_after_an_epoch_counts_it(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    train(runner, {"interval": 1})
    meta = read_checkpoint(Path(runner.work_dir) / "epoch_1.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 4)


@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
def test_the_optimizer_can_be_left_out(make_runner: MakeRunner, runner_type: type) -> None:
    runner = make_runner(runner_type)
    train(runner, {"interval": 1, "by_epoch": False, "save_optimizer": False})
    assert "optimizer" not in read_checkpoint(Path(runner.work_dir) / "iter_1.pth")


def test_meta_given_to_the_hook_is_kept(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    train(runner, {"interval": 1, "meta": {"note": "mine"}})
    assert read_checkpoint(Path(runner.work_dir) / "epoch_1.pth")["meta"]["note"] == "mine"


def test_the_callers_dicts_stay_as_they_are(make_runner: MakeRunner) -> None:
    config = {"interval": 1, "meta": {"note": [1]}, "file_client_args": {"backend": "disk"}}
    meta = {"seed": 1, "hook_msgs": {"mine": 2}}
    configs_before, meta_before = copy.deepcopy(config), copy.deepcopy(meta)
    train(make_runner(max_epochs=1, meta=meta), config)
    assert config == configs_before
    assert meta == meta_before


def test_files_of_others_and_later_ones_are_not_deleted(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    others = ["best_acc_epoch_1.pth", "epoch_7.pth", "epoch_x.pth", "my_epoch_1.pth", "epoch_1.pt"]
    for name in others:
        (Path(runner.work_dir) / name).touch()
    train(runner, {"interval": 1, "max_keep_ckpts": 1})
    assert {*others, "epoch_2.pth"} <= set(os.listdir(runner.work_dir))
    assert "epoch_1.pth" not in os.listdir(runner.work_dir)


def test_a_second_run_goes_on(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_checkpoint_hook(
        {"interval": 1, "out_dir": str(tmp_path / "out"), "max_keep_ckpts": 3}
    )
    runner.run([make_loader()], [("train", 1)])
    runner._max_epochs = 4
    runner.run([make_loader()], [("train", 1)])
    names = ["epoch_2.pth", "epoch_3.pth", "epoch_4.pth", "latest.pth"]
    assert saved(tmp_path / "out" / "run") == names
    assert os.listdir(tmp_path / "out" / "run" / "..") == ["run"]


def test_assigning_the_interval_takes_effect(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=3)
    hook = CheckpointHook(1, save_last=False)
    runner.register_hook(hook)
    hook.interval = 2
    runner.run([make_loader()], [("train", 1)])
    assert saved(runner.work_dir) == ["epoch_2.pth", "latest.pth"]


@pytest.mark.parametrize("name", ["interval", "max_keep_ckpts"])
@pytest.mark.parametrize("value", [0, -2, 1.5, "1", True])
def test_numbers_that_mean_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"CheckpointHook: {name} must be a positive int, or -1"):
        CheckpointHook(**{name: value})


def test_a_misspelt_argument_is_named_with_its_near_spelling(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with pytest.raises(TypeError, match=r"'max_keep_ckpt'.*Did you mean 'max_keep_ckpts'"):
        runner.register_checkpoint_hook({"interval": 1, "max_keep_ckpt": 3})
    assert runner.hooks == []
    runner.hooks.append(CheckpointHook(1, max_keep_ckpt=3))
    with pytest.raises(TypeError, match=r"'max_keep_ckpt'.*Did you mean 'max_keep_ckpts'"):
        runner.run([make_loader()], [("train", 1)])
    assert runner.iter == 0


def test_meta_that_no_checkpoint_can_hold_is_refused_before_training(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner(meta={"cfg": [object()]})
    runner.register_checkpoint_hook({"interval": 1})
    with pytest.raises(TypeError, match=r"runner\.meta\['cfg'\]\[0\] is a object"):
        runner.run([make_loader()], [("train", 1)])
    assert runner.iter == 0


def test_storage_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="no storage 'petrel'"):
        CheckpointHook(1, file_client_args={"backend": "petrel"})


def test_methods_can_be_called_on_a_mock_that_never_saw_before_run() -> None:
    runner = MagicMock(epoch=1, iter=5, _max_epochs=9, _max_iters=99)
    hook = CheckpointHook(interval=2, out_dir="/tmp/out")
    hook.after_train_epoch(runner)
    runner.save_checkpoint.assert_called_once_with(
        "/tmp/out", save_optimizer=True, filename_tmpl="epoch_2.pth"
    )
    runner.epoch = 2
    hook.after_train_epoch(runner)
    hook.after_train_iter(runner)
    runner.save_checkpoint.assert_called_once()


def test_overridden_methods_are_used(make_runner: MakeRunner) -> None:
    calls = []

    class Mine(CheckpointHook):
        def _save_checkpoint(self, runner: Any) -> None:
            calls.append(("save", runner.epoch))
            super()._save_checkpoint(runner)

        def every_n_epochs(self, runner: Any, n: int) -> bool:
            return bool(runner.epoch == 1)  # not what a native trigger for 5 would give

    class Every(CheckpointHook):
        def after_train_epoch(self, runner: Any) -> None:
            calls.append(("epoch", runner.epoch))
            super().after_train_epoch(runner)

    runner = make_runner(max_epochs=3)
    runner.register_hook(Mine(interval=5, save_last=False))
    runner.register_hook(Every(interval=2, save_last=False, filename_tmpl="every_{}.pth"))
    runner.run([make_loader()], [("train", 1)])
    assert calls == [("epoch", 0), ("save", 1), ("epoch", 1), ("epoch", 2)]
    assert saved(runner.work_dir) == ["epoch_2.pth", "every_2.pth", "latest.pth"]


def test_a_file_called_latest_is_the_file_itself(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(CheckpointHook(interval=1, filename_tmpl="latest.pth"))
    runner.run([make_loader(2)], [("train", 1)])
    make_runner(max_epochs=2).resume(f"{runner.work_dir}/latest.pth")


def test_braces_in_names_are_kept(make_runner: Any) -> None:
    runner = make_runner(max_epochs=3)
    runner.register_hook(CheckpointHook(interval=1, filename_tmpl="{{a}}{}.pth", max_keep_ckpts=1))
    runner.run([make_loader(2)], [("train", 1)])
    names = sorted(path.name for path in Path(runner.work_dir).glob("*.pth"))
    assert names == ["latest.pth", "{a}3.pth"]
    assert Path(runner.meta["hook_msgs"]["last_ckpt"]).exists() if runner.meta else True


@pytest.mark.parametrize(
    "template", ["{}{}.pth", "{a}.pth", "../{}.pth", "/tmp/{}.pth", "..", "", "\0", 3]
)
def test_names_that_cannot_be_written_are_refused_before_training(
    make_runner: Any, template: Any
) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(CheckpointHook(interval=1, filename_tmpl=template))
    with pytest.raises(ValueError, match="filename_tmpl"):
        runner.run([make_loader(2)], [("train", 1)])
    assert runner.iter == 0
