"""EvalHook: which checkpoint it keeps as the best."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hookrun import BaseRunner, EpochBasedRunner, EvalHook, FileClient, IterBasedRunner
from hookrun.checkpoint import files, read_checkpoint
from tests.support import make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


def best_files(runner: Any) -> list[str]:
    return sorted(name for name in os.listdir(runner.work_dir) if name.startswith("best_"))


def run_with_scores(runner: Any, scores: list[Any], key: str = "acc", **keywords: Any) -> Any:
    """Train one epoch per score, evaluated to it; gives the runner's messages."""
    runner._max_epochs = len(scores)
    loader = make_loader(scores=[{key: score} for score in scores])
    runner.register_hook(EvalHook(loader, **{"save_best": key, **keywords}))
    runner.run([make_loader(1)], TRAIN)
    return runner.meta["hook_msgs"]


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
    refused = r"smaller 'score' better\? The name does not say: give rule='greater' or rule='less'"
    with pytest.raises(ValueError, match=refused):
        EvalHook(make_loader(), save_best="score")
    with pytest.raises(KeyError, match=r"'greater', 'less' or None, not 'larger'"):
        EvalHook(make_loader(), save_best="acc", rule="larger")


def test_auto_takes_the_first_score(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    scores = [{"val_loss": 0.5, "acc": 0.1}, {"val_loss": 0.4, "acc": 0.0}]
    runner.register_hook(EvalHook(make_loader(scores=scores), save_best="auto"))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_val_loss_epoch_2.pth"]


def test_a_score_that_is_missing_or_no_number_is_an_error(make_runner: MakeRunner) -> None:
    with pytest.raises(KeyError, match=r"save_best='acc1' is not among.*Did you mean 'acc'"):
        run_scored(make_runner(), {"acc": 1.0}, save_best="acc1")
    with pytest.raises(TypeError, match=r"compares numbers, but the score is 'high'"):
        run_scored(make_runner(), {"acc": "high"}, save_best="acc")


def run_scored(runner: Any, scores: Any, **keywords: Any) -> None:
    runner.register_hook(EvalHook(make_loader(scores=[scores]), **keywords))
    runner._max_epochs = 1
    runner.run([make_loader(1)], TRAIN)


def test_no_scores_keep_no_best_file(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with pytest.warns(UserWarning, match=r"returned no scores"):
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


def test_the_old_best_file_is_there_until_the_new_one_is(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, seen = make_runner(), []
    hook = EvalHook(make_loader(scores=[{"acc": 0.1}, {"acc": 0.2}]), save_best="acc")
    remove = FileClient.remove

    def watch(client: FileClient, path: Any) -> None:
        seen.append(best_files(runner))
        remove(client, path)

    monkeypatch.setattr(FileClient, "remove", watch)
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
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


def scored_run(make_runner: MakeRunner, folder: Path, epochs: int, scores: list[float]) -> Any:
    """A run that saves before it evaluates; ``scores`` are those of its evaluations in turn."""
    runner = make_runner(max_epochs=epochs, work_dir=str(folder))
    runner.register_checkpoint_hook({"interval": 1})
    loader = make_loader(scores=[{"acc": score} for score in scores])
    runner.register_hook(EvalHook(loader, save_best="acc"), priority="LOW")
    return runner


def test_a_run_resumed_from_before_an_evaluation_makes_up_for_it(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    whole = scored_run(make_runner, tmp_path / "whole", 4, [0.1, 0.9, 0.3, 0.5])
    whole.run([make_loader(2)], TRAIN)
    expected = whole.meta["hook_msgs"]["best_score"]
    # The file of epoch 2 knows the score of epoch 1 only: its own came later.
    file = tmp_path / "whole" / "epoch_2.pth"
    assert read_checkpoint(file)["meta"]["hook_msgs"]["best_score"] == 0.1
    resumed = scored_run(make_runner, tmp_path / "resumed", 4, [0.9, 0.3, 0.5])
    resumed.resume(file)
    resumed.run([make_loader(2)], TRAIN)
    assert resumed.meta["hook_msgs"]["best_score"] == expected == 0.9
    assert best_files(resumed) == ["best_acc_epoch_2.pth"]
    best = [tmp_path / each / "best_acc_epoch_2.pth" for each in ("whole", "resumed")]
    one, other = (read_checkpoint(path)["state_dict"] for path in best)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_resumed_from_behind_an_evaluation_does_not_repeat_it(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = scored_run(make_runner, tmp_path / "run", 2, [0.1, 0.9])
    first.run([make_loader(2)], TRAIN)
    second = scored_run(make_runner, tmp_path / "run", 3, [0.5])  # one evaluation only
    second.resume("auto")  # the best file, which was written last
    second.run([make_loader(2)], TRAIN)
    assert second.meta["hook_msgs"]["best_score"] == 0.9
    assert best_files(second) == ["best_acc_epoch_2.pth"]


def test_the_evaluation_of_the_very_end_is_made_up_for(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    first = scored_run(make_runner, tmp_path / "run", 2, [0.1, 0.9])
    first.run([make_loader(2)], TRAIN)
    second = scored_run(make_runner, tmp_path / "other", 2, [0.9])
    second.resume(tmp_path / "run" / "epoch_2.pth")
    second.run([make_loader(2)], TRAIN)
    assert best_files(second) == ["best_acc_epoch_2.pth"]


def test_missed_evaluations_by_iteration(make_runner: MakeRunner, tmp_path: Path) -> None:
    def make(folder: str, scores: list[float]) -> Any:
        runner = make_runner(IterBasedRunner, max_iters=5, work_dir=str(tmp_path / folder))
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
        loader = make_loader(scores=[{"acc": score} for score in scores])
        hook = EvalHook(loader, interval=2, by_epoch=False, save_best="acc")
        runner.register_hook(hook, priority="LOW")
        return runner

    make("whole", [0.8, 0.2]).run([make_loader(5)], TRAIN)
    for number, scores in {1: [0.8, 0.2], 2: [0.8, 0.2], 3: [0.2], 4: [0.2], 5: []}.items():
        resumed = make(str(number), scores)
        resumed.resume(tmp_path / "whole" / f"iter_{number}.pth")
        resumed.run([make_loader(5)], TRAIN)
        assert resumed.meta["hook_msgs"]["best_score"] == 0.8, number
        assert len(resumed.hooks[-1].dataloader.dataset.evaluated) == len(scores), number


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_missed_evaluation_draws_its_random_numbers_before_the_next_batch(
    make_runner: MakeRunner, tmp_path: Path, kind: type[BaseRunner]
) -> None:
    class Noise(Dataset[Any]):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": torch.rand(2) + index, "y": torch.rand(1)}

    def run(folder: str, resume: Path | None = None) -> Any:
        limit = {"max_epochs": 2} if kind is EpochBasedRunner else {"max_iters": 6}
        runner = make_runner(kind, work_dir=str(tmp_path / folder), **limit)
        runner.register_optimizer_hook({})
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": False})
        test_set: Any = make_loader()
        test_set.dataset.evaluate = lambda *args, **kwargs: {"acc": torch.rand(())}
        runner.register_hook(EvalHook(test_set, by_epoch=False, save_best="acc"), priority="LOW")
        torch.manual_seed(0 if resume is None else 1)
        if resume is not None:
            runner.resume(resume)
        runner.run([DataLoader(Noise(), 2, shuffle=True)], TRAIN)
        weights = [p.tolist() for p in runner.model.parameters()]
        return weights, runner.meta["hook_msgs"]["best_score"], torch.get_rng_state().tolist()

    whole = run("whole")
    for number in range(1, 7):
        assert run(str(number), tmp_path / "whole" / f"iter_{number}.pth") == whole, number


def test_the_best_file_goes_to_other_storage(make_runner: MakeRunner) -> None:
    runner = make_runner()
    messages = run_with_scores(runner, [0.1, 0.2], out_dir="memory://best/out")
    assert messages["best_ckpt"] == "memory://best/out/run/best_acc_epoch_2.pth"
    names = list(FileClient("memory").list_dir_or_file("memory://best/out/run"))
    assert names == ["best_acc_epoch_2.pth"]
    assert read_checkpoint(messages["best_ckpt"])["meta"]["hook_msgs"]["best_score"] == 0.2
