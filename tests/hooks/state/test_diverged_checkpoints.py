"""A run that has diverged leaves the last good checkpoint alone, whoever saves and whenever."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import (
    CheckInvalidLossHook,
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
)
from hookrun.checkpoint import find_not_finite, read_checkpoint
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
LENGTH = 8  # batches of an epoch; the second of two has a bad one


class Batches:
    """An epoch of batches; those of one iteration of the run hold a bad value."""

    def __init__(self, bad_at: int, bad: float = float("nan")) -> None:
        self.batches = list(make_loader(LENGTH))
        self.bad_at, self.bad, self.given = bad_at, bad, 0

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Any:
        for batch in self.batches:
            self.given += 1
            wrong = self.given == self.bad_at
            yield {**batch, "x": batch["x"] * self.bad} if wrong else batch


class Deep(TinyModel):
    """With an average of what it has seen, as BatchNorm keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        return super().train_step({**data_batch, "x": self.norm(data_batch["x"])})


def make(make_runner: MakeRunner, kind: type = EpochBasedRunner, **arguments: Any) -> Any:
    limit = {"max_epochs": 2} if kind is EpochBasedRunner else {"max_iters": 2 * LENGTH}
    return make_runner(kind, **limit, **arguments)


def run_until_refused(runner: Any, bad_at: int, match: str, **keywords: Any) -> None:
    with pytest.raises(ValueError, match=match):
        runner.run([Batches(bad_at, **keywords)], [("train", 1)])


def assert_good(folder: Path, *names: str) -> None:
    """The files are those of these names, and all that is in them is finite."""
    assert sorted(path.name for path in folder.glob("*.pth")) == sorted(names)
    for path in folder.glob("*.pth"):
        assert list(find_not_finite(read_checkpoint(path))) == []


LOSS, WEIGHTS = r"the loss is (nan|inf) at iteration 1[0-6]", r"no checkpoint is saved after iter"


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("interval", [1, 3, 5, 100])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_whatever_the_order_and_the_intervals(
    make_runner: MakeRunner,
    tmp_path: Path,
    by_epoch: bool,
    interval: int,
    first: bool,
    logged: bool,
) -> None:
    runner = make(make_runner)
    check = CheckInvalidLossHook(interval)
    if first:
        runner.register_hook(check, priority="HIGHEST")
    runner.register_optimizer_hook({})
    runner.register_checkpoint_hook(
        {"interval": 1 if by_epoch else LENGTH, "by_epoch": by_epoch, "max_keep_ckpts": 1}
    )
    if logged:
        runner.register_logger_hooks({"interval": 50, "hooks": [{"type": "TextLoggerHook"}]})
    if not first:
        runner.register_hook(check, priority="LOWEST")
    run_until_refused(runner, 14, f"{LOSS}|{WEIGHTS}")
    name = "epoch_1.pth" if by_epoch else f"iter_{LENGTH}.pth"
    assert_good(tmp_path / "run", name, "latest.pth")
    assert os.readlink(tmp_path / "run" / "latest.pth") == name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad_at", [10, 15, 16])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_each_iteration_saved(
    make_runner: MakeRunner, tmp_path: Path, kind: type, bad_at: int, bad: float
) -> None:
    runner = make(make_runner, kind)
    runner.register_optimizer_hook({})
    runner.register_checkpoint_hook({"interval": 1, "by_epoch": False, "max_keep_ckpts": 2})
    runner.register_logger_hooks({"interval": 50, "hooks": [{"type": "TextLoggerHook"}]})
    runner.register_hook(CheckInvalidLossHook(2))
    run_until_refused(
        runner, bad_at, rf"(?=.*CheckInvalidLossHook)(?=.*iteration {bad_at})", bad=bad
    )
    names = [f"iter_{number}.pth" for number in (bad_at - 1, bad_at - 2)]
    assert_good(tmp_path / "run", "latest.pth", *names)


class SavesByHand(Hook):
    def after_train_epoch(self, runner: Any) -> None:
        runner.save_checkpoint(runner.work_dir, "mine_{}.pth")


SAVERS: dict[str, Callable[[], list[Hook]]] = {
    "mine": lambda: [SavesByHand()],
    "best": lambda: [
        EvalHook(make_loader(2, scores=[{"acc": 0.1}, {"acc": 0.2}]), save_best="acc")
    ],
}


@pytest.mark.parametrize("model", [TinyModel, Deep])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("averages", [True, False])
@pytest.mark.parametrize("saver", SAVERS)
def test_other_savers(
    make_runner: MakeRunner,
    tmp_path: Path,
    saver: str,
    averages: bool,
    background: bool,
    model: type[nn.Module],
) -> None:
    runner = make(make_runner, model=model())
    if averages:
        runner.register_hook(EMAHook(momentum=0.1, warm_up=1), priority=45)
    runner.register_optimizer_hook({})
    for hook in SAVERS[saver]():
        hook.background = background  # type: ignore[attr-defined]
        runner.register_hook(hook)
    runner.register_logger_hooks({"interval": 3, "hooks": [{"type": "TextLoggerHook"}]})
    runner.register_hook(CheckInvalidLossHook(5))
    run_until_refused(runner, 14, f"{LOSS}|{WEIGHTS}")
    if saver == "mine":
        assert_good(tmp_path / "run", "mine_1.pth", "latest.pth")
        return
    assert_good(tmp_path / "run", "best_acc_epoch_1.pth")
    assert runner.meta["hook_msgs"]["best_score"] == 0.1


@pytest.mark.parametrize("interval", [1, 100])
def test_a_signal_saves_nothing_bad(make_runner: MakeRunner, tmp_path: Path, interval: int) -> None:
    def kill(runner: Any) -> None:
        if runner.iter == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        runner = make(make_runner)
        runner.register_optimizer_hook({})
        runner.register_hook(ClosureHook("before_train_iter", kill))
        runner.register_logger_hooks({"interval": 50, "hooks": [{"type": "TextLoggerHook"}]})
        runner.register_hook(CheckInvalidLossHook(interval))
        run_until_refused(runner, 11, f"{LOSS}|{WEIGHTS}")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert_good(tmp_path / "run")


def test_a_skipped_step_leaves_weights_that_may_be_saved(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make(make_runner)
    runner.register_optimizer_hook({"skip_nonfinite": True})
    runner.register_checkpoint_hook({"interval": 1})
    runner.register_hook(CheckInvalidLossHook(LENGTH))
    runner.run([Batches(13)], [("train", 1)])
    assert_good(tmp_path / "run", "epoch_1.pth", "epoch_2.pth", "latest.pth")


def test_running_statistics_count_too(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make(make_runner, model=Deep())
    runner.register_optimizer_hook({"skip_nonfinite": True})
    runner.register_checkpoint_hook({"interval": 1})
    runner.register_hook(CheckInvalidLossHook(100))
    run_until_refused(runner, 13, r"after iteration 16.*norm\.running_mean \(\d of 2\)")
    assert_good(tmp_path / "run", "epoch_1.pth", "latest.pth")


@pytest.mark.parametrize("frozen", [True, False])
def test_a_mask_is_meant_to_be_infinite(make_runner: MakeRunner, frozen: bool) -> None:
    model = TinyModel()
    model.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=not frozen)
    model.register_buffer("bounds", torch.full((2,), torch.nan))
    runner = make(make_runner, model=model)
    runner.register_checkpoint_hook({"interval": 1})
    runner.register_hook(CheckInvalidLossHook(1))
    runner.run([Batches(0)], [("train", 1)])


def test_without_the_hook_and_after_the_run_anything_is_saved(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make(make_runner)
    runner.register_optimizer_hook({})
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([Batches(14)], [("train", 1)])
    assert (tmp_path / "run" / "epoch_2.pth").exists()

    runner = make(make_runner)
    runner.register_optimizer_hook({})
    runner.register_hook(CheckInvalidLossHook(1))
    run_until_refused(runner, 14, LOSS)
    runner.save_checkpoint(runner.work_dir, "to_look_at.pth")
    assert (tmp_path / "run" / "to_look_at.pth").exists()


def test_a_hook_of_ones_own_may_refuse(make_runner: MakeRunner, tmp_path: Path) -> None:
    class Never(Hook):
        def check_before_saving(self, runner: Any) -> None:
            raise ValueError("not today")

    runner = make(make_runner)
    runner.register_checkpoint_hook({"interval": 1})
    runner.register_hook(Never())
    with pytest.raises(ValueError, match="not today"):
        runner.run([make_loader(LENGTH)], [("train", 1)])
    assert_good(tmp_path / "run")
