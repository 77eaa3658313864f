"""Checkpoints of a run, and going on from them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import (
    CheckpointHook,
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
)
from tests.fixtures.mmcv_runs.workflows import Model as MMCVModel
from tests.support import Recorder, TinyModel, make_loader

from .variants import LOOPS

MMCV = Path(__file__).parents[1] / "fixtures" / "mmcv_runs"
EPOCHS, BATCHES = 3, 4


def limits(kind: type) -> dict[str, int]:
    by_epoch = issubclass(kind, EpochBasedRunner)
    return {"max_epochs": EPOCHS} if by_epoch else {"max_iters": EPOCHS * BATCHES}


def train(make_runner: Any, kind: type, folder: Path, resume: Any = None) -> Any:
    """A whole run with momentum, cosine annealing by iteration and EMA; returns the runner."""
    torch.manual_seed(0)
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    runner = make_runner(kind, model=model, optimizer=optimizer, work_dir=folder, **limits(kind))
    runner.register_lr_hook({"policy": "CosineAnnealing", "min_lr": 0, "by_epoch": False})
    runner.register_optimizer_hook({"grad_clip": {"max_norm": 1.0}})
    runner.register_hook(EMAHook(momentum=0.3, warm_up=2), priority=45)
    runner.register_hook(CheckpointHook(interval=1, by_epoch=False, create_symlink=False))
    if issubclass(kind, EpochBasedRunner):
        runner.register_hook(CheckpointHook(interval=1, create_symlink=False))
    recorder = Recorder()
    runner.register_hook(recorder)
    if resume is not None:
        runner.resume(resume)
    runner.run([make_loader(BATCHES)], [("train", 1)])
    runner.recorder = recorder
    return runner


def outcome(runner: Any) -> Any:
    state = runner.optimizer.state_dict()
    return (
        {name: value.tolist() for name, value in runner.model.state_dict().items()},
        [state["state"][key]["momentum_buffer"].tolist() for key in state["state"]],
        runner.current_lr(),
        (runner.epoch, runner.iter),
    )


@pytest.mark.parametrize("variant", LOOPS)
def test_a_resumed_run_ends_as_the_uninterrupted_one_bit_for_bit(
    make_runner: Any, variant: Any, tmp_path: Path
) -> None:
    kind = variant[0]
    whole = train(make_runner, kind, tmp_path / "whole")
    files = sorted((tmp_path / "whole").glob("*.pth"))
    epochs = EPOCHS if issubclass(kind, EpochBasedRunner) else 0
    assert len(files) == EPOCHS * BATCHES + epochs
    for file in files:
        resumed = train(make_runner, kind, tmp_path / "resumed", resume=file)
        assert outcome(resumed) == outcome(whole), file.name
        # The same iterations follow, with the same counters.
        rest = [event for event in whole.recorder.events if event[0] == "after_train_iter"]
        done = torch.load(file)["meta"]["iter"]
        steps = [event for event in resumed.recorder.events if event[0] == "after_train_iter"]
        assert steps == rest[done:], file.name
    written = sorted(path.name for path in (tmp_path / "resumed").glob("*.pth"))
    assert len(written) == len(files) - 1  # all but the first: each run writes what follows
    for name in written:
        again, first = (torch.load(tmp_path / folder / name) for folder in ("resumed", "whole"))
        for part in ("state_dict", "optimizer", "hookrun"):
            assert repr(again[part]) == repr(first[part]), name


def save_at(event: str, when: Any = lambda runner: True) -> Hook:
    def save(runner: Any) -> None:
        if when(runner):
            runner.save_checkpoint(runner.work_dir, filename_tmpl=f"{event}.pth")

    return ClosureHook(event, save)


@pytest.mark.parametrize(
    ("event", "expected"),
    [  # at the second epoch's second batch, or around the second epoch
        ("before_run", (0, 0, 0)),
        ("before_train_epoch", (1, 3, 0)),
        ("before_train_iter", (1, 4, 1)),
        ("after_train_iter", (1, 5, 2)),
        ("after_train_epoch", (2, 6, 0)),
        ("before_val_epoch", (2, 6, 0)),
        ("before_val_iter", (2, 6, 0)),
        ("after_val_iter", (2, 6, 0)),
        ("after_val_epoch", (2, 6, 0)),
        ("after_run", (2, 6, 0)),
    ],
)
def test_a_checkpoint_counts_what_is_finished(
    make_runner: Any, event: str, expected: tuple[int, int, int]
) -> None:
    runner = make_runner(max_epochs=2)
    iters = "train_iter" in event
    runner.register_hook(save_at(event, lambda r: not iters or r.inner_iter == 1))
    runner.run([make_loader(3), make_loader(1)], [("train", 1), ("val", 1)])
    saved = torch.load(Path(runner.work_dir) / f"{event}.pth")
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == expected[:2]
    assert saved["hookrun"]["inner_iter"] == expected[2]


def test_a_checkpoint_by_iteration_counts_what_is_finished(make_runner: Any) -> None:
    for event, expected in {
        "before_train_iter": (1, 4, [[1, 1]]),
        "after_train_iter": (1, 5, [[1, 2]]),
        "after_epoch": (1, 5, [[1, 2]]),
        "after_run": (1, 5, [[1, 2]]),
    }.items():
        runner = make_runner(IterBasedRunner, max_iters=5)
        runner.register_hook(save_at(event))
        runner.run([make_loader(3)], [("train", 1)])
        saved = torch.load(Path(runner.work_dir) / f"{event}.pth")
        assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == expected[:2], event
        places = [[each["epoch"], each["batches"]] for each in saved["hookrun"]["loaders"]]
        assert places == expected[2], event


@pytest.mark.parametrize("variant", LOOPS)
def test_a_checkpoint_taken_where_a_run_failed_goes_on_with_the_failed_batch(
    make_runner: Any, variant: Any
) -> None:
    class Model(TinyModel):
        broken = True

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            if self.broken and runner.iter == 5:
                raise RuntimeError("the fifth")
            seen.append(data_batch["x"].tolist())
            return super().train_step(data_batch)

    seen: list[Any] = []
    model, kind = Model(), variant[0]
    runner = make_runner(kind, model=model, **limits(kind))
    with pytest.raises(RuntimeError, match="the fifth"):
        runner.run([make_loader(BATCHES)], [("train", 1)])
    runner.save_checkpoint(runner.work_dir, filename_tmpl="failed.pth")
    model.broken = False
    runner = make_runner(kind, model=model, **limits(kind))
    runner.resume(Path(runner.work_dir) / "failed.pth")
    runner.run([make_loader(BATCHES)], [("train", 1)])
    assert seen == [batch["x"].tolist() for batch in make_loader(BATCHES)] * EPOCHS


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_run_saved_before_it_goes_on_keeps_its_place(make_runner: Any, kind: type) -> None:
    runner = make_runner(kind, **limits(kind))
    runner.register_hook(save_at("after_train_iter", lambda r: r.iter == 5))
    runner.run([make_loader(BATCHES)], [("train", 1)])
    first = Path(runner.work_dir) / "after_train_iter.pth"
    again = make_runner(kind, **limits(kind))
    again.resume(first)
    again.save_checkpoint(runner.work_dir, filename_tmpl="second.pth")
    saved, kept = torch.load(first), torch.load(Path(runner.work_dir) / "second.pth")
    for part in ("epoch", "iter"):
        assert saved["meta"][part] == kept["meta"][part]
    assert repr(saved["hookrun"]) == repr(kept["hookrun"])
    assert kept["meta"]["iter"] == 6


def test_each_loader_of_a_workflow_goes_on_where_it_was(make_runner: Any) -> None:
    def run(resume: Any) -> list[Any]:
        runner = make_runner(IterBasedRunner, max_iters=6)
        seen: list[Any] = []
        note = lambda r: seen.append((r.mode, r.data_batch["x"].tolist()))  # noqa: E731
        runner.register_hook(ClosureHook("before_train_iter", note))
        runner.register_hook(ClosureHook("before_val_iter", note))
        runner.register_hook(save_at("after_val_iter", lambda r: r.iter == 4))
        if resume is not None:
            runner.resume(resume)
        runner.run([make_loader(4), make_loader(3)], [("train", 2), ("val", 1)])
        run.folder = Path(runner.work_dir)  # type: ignore[attr-defined]
        return seen

    whole = run(None)
    assert run(run.folder / "after_val_iter.pth") == whole[6:]  # type: ignore[attr-defined]


def test_a_sampler_is_told_of_the_pass_at_work(make_runner: Any) -> None:
    class Sampler:
        epochs: list[int]

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    class Loader(list[Any]):
        sampler = Sampler()

    runner = make_runner(IterBasedRunner, max_iters=7)
    runner.register_hook(save_at("after_train_iter", lambda r: r.iter == 3))
    runner.run([list(make_loader(3))], [("train", 1)])
    again = make_runner(IterBasedRunner, max_iters=7)
    again.resume(Path(runner.work_dir) / "after_train_iter.pth")
    Loader.sampler.epochs = []
    again.run([Loader(make_loader(3))], [("train", 1)])
    assert Loader.sampler.epochs == [1, 2]


@pytest.mark.parametrize(
    ("kind", "start", "end", "counters"),
    [
        (EpochBasedRunner, "epoch_1.pth", "epoch_2.pth", (1, 4)),
        (IterBasedRunner, "iter_5.pth", "iter_6.pth", (0, 5)),
    ],
)
def test_files_of_mmcv_are_resumed_and_lead_to_mmcvs_result(
    make_runner: Any, kind: type, start: str, end: str, counters: tuple[int, int]
) -> None:
    model = MMCVModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    limit = {"max_epochs": 2} if kind is EpochBasedRunner else {"max_iters": 6}
    runner = make_runner(kind, model=model, optimizer=optimizer, **limit)
    runner.register_hook(OptimizerHook())
    runner.resume(MMCV / start)
    assert (runner.epoch, runner.iter) == counters
    if kind is EpochBasedRunner:
        assert runner.meta["exp_name"] == "mmcv"
        assert runner.meta["hook_msgs"]["best_score"] == 0.5
    # MMCV's resumed run by iterations restarts the data, which such a file says nothing of.
    data = torch.arange(8.0).reshape(4, 2, 1)
    batches = data if kind is EpochBasedRunner else data[1:]
    runner.run([list(batches)], [("train", 1)])
    expected = torch.load(MMCV / end, weights_only=False)
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(model.state_dict()[name], value)
    torch.testing.assert_close(
        optimizer.state_dict()["state"][0]["momentum_buffer"],
        expected["optimizer"]["state"][0]["momentum_buffer"],
    )


def test_auto_takes_the_newest_and_passes_over_damaged_ones(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(max_epochs=3)
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader(2)], [("train", 1)])
    folder = Path(runner.work_dir)
    for age, number in enumerate((1, 2, 3)):
        os.utime(folder / f"epoch_{number}.pth", (age, age))
    again = make_runner(max_epochs=3)
    again.resume("auto")
    assert (again.epoch, again.iter) == (3, 6)

    half = (folder / "epoch_3.pth").read_bytes()[:500]
    (folder / "epoch_3.pth").write_bytes(half)
    again = make_runner(max_epochs=3)
    again.resume("auto")
    assert (again.epoch, again.iter) == (2, 4)
    assert "passing over a damaged checkpoint" in caplog.text
    assert "epoch_3.pth" in caplog.text


def test_auto_starts_afresh_where_there_is_nothing(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    runner.resume("auto")
    assert (runner.epoch, runner.iter) == (0, 0)
    shutil.rmtree(runner.work_dir)
    runner.resume("auto")
    assert runner.iter == 0


def test_auto_needs_a_work_dir(make_runner: Any) -> None:
    with pytest.raises(ValueError, match="looks into work_dir, but the runner has none"):
        make_runner(work_dir=None).resume("auto")


@pytest.mark.parametrize("kind", ["CheckpointHook", "EvalHook"])
def test_auto_looks_where_hooks_save(make_runner: Any, tmp_path: Path, kind: str) -> None:
    def make(epochs: int) -> Any:
        runner = make_runner(max_epochs=epochs)
        hook = {"type": kind, "interval": 1, "out_dir": str(tmp_path / "out")}
        if kind == "EvalHook":
            hook |= {"dataloader": make_loader(), "save_best": "acc"}
        runner.register_hook_from_cfg(hook)
        return runner

    runner = make(1)
    runner.run([make_loader(2)], [("train", 1)])
    assert not list(Path(runner.work_dir).glob("*.pth"))
    again = make(2)
    again.resume("auto")
    assert (again.epoch, again.iter) == (1, 2)


def test_auto_says_that_it_does_not_look_into_other_storage(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    runner.register_checkpoint_hook({"interval": 1, "out_dir": "memory://auto"})
    runner.run([make_loader(2)], [("train", 1)])
    again = make_runner()
    again.register_checkpoint_hook({"interval": 1, "out_dir": "memory://auto"})
    again.resume("auto")
    assert again.epoch == 0
    assert "CheckpointHook saves to memory://auto/run: to resume from a file there" in caplog.text


def test_auto_warns_of_a_folder_with_files_but_none_to_resume(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner()
    runner.register_checkpoint_hook({"interval": 1, "filename_tmpl": "epoch_{}.pt"})
    runner.resume("auto")
    assert f"no checkpoint in {runner.work_dir}" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    runner.register_optimizer_hook({})
    runner.run([make_loader(2)], [("train", 1)])
    make_runner().resume("auto")
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == 1
    assert f"starting from the beginning: {runner.work_dir} is not empty" in warned[0]


def test_averages_that_nobody_takes_are_reported(
    make_runner: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of mmdet's own EMA hooks, which begin them anew in ``before_run``."""

    class Averages(Hook):
        def before_run(self, runner: Any) -> None:
            for name, param in list(runner.model.named_parameters()):
                buffer = param.detach().clone()
                runner.model.register_buffer(f"ema_{name.replace('.', '_')}", buffer)

    first = make_runner(max_epochs=1)
    first.register_hook(Averages())
    first.register_checkpoint_hook({"interval": 1})
    first.run([make_loader(2)], [("train", 1)])
    runner = make_runner(max_epochs=2)
    runner.register_hook(Averages())
    runner.resume(tmp_path / "run" / "epoch_1.pth")
    caplog.clear()
    runner.run([make_loader(2)], [("train", 1)])
    assert "averages of the weights (ema_fc_bias, ...)" in caplog.text
