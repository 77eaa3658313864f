"""A resumed run goes on in a loader that a hook puts into ``runner.data_loader`` before epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import (
    ClosureHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
)

from .replaced_support import (
    Seen,
    from_global_seed,
    loader,
    replace,
    seeking,
    shuffling,
)

MakeRunner = Callable[..., Any]


@pytest.mark.parametrize("save_at", [2, 5, 6, 8, 9, 11])
@pytest.mark.parametrize("make", [loader, shuffling, seeking, from_global_seed])
def test_a_run_goes_on_in_the_loader_of_the_epoch(
    make_runner: MakeRunner, tmp_path: Path, make: Callable[..., Any], save_at: int
) -> None:
    def prepared() -> tuple[Any, Seen]:
        runner, seen, other = make_runner(max_epochs=5), Seen(), make(100, 3)
        runner.register_hook(
            replace("before_train_epoch", lambda r: r.epoch in (1, 2), lambda: other)
        )
        runner.register_hook(seen)
        return runner, seen

    torch.manual_seed(0)
    runner, whole = prepared()

    def save(runner: Any) -> None:
        if runner.iter + 1 == save_at:
            runner.save_checkpoint(tmp_path, filename_tmpl="saved.pth")

    runner.register_hook(ClosureHook("after_train_iter", save))
    runner.run([make(0, 2)], [("train", 1)])
    torch.manual_seed(1)
    again, rest = prepared()
    again.resume(tmp_path / "saved.pth")
    again.run([make(0, 2)], [("train", 1)])
    assert len(whole.batches["train"]) == 12
    assert rest.batches["train"] == whole.batches["train"][save_at:]
    assert (again.epoch, again.iter, again.max_iters) == (5, 12, 12)


def test_a_run_resumed_without_the_hook_says_so(
    make_runner: MakeRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, event in (
        (EpochBasedRunner, "before_train_epoch"),
        (IterBasedRunner, "before_epoch"),
    ):
        runner = make_runner(kind, **{"max_epochs": 2} if kind is EpochBasedRunner else {})
        runner.register_hook(replace(event, lambda r: True, lambda: loader(100, 2)))

        def save(runner: Any) -> None:
            if runner.iter == 0:
                runner.save_checkpoint(tmp_path, filename_tmpl="saved.pth")

        runner.register_hook(ClosureHook("after_train_iter", save))
        runner.run([loader(0, 2)], [("train", 1)])
        again = make_runner(kind, **{"max_epochs": 2} if kind is EpochBasedRunner else {})
        again.register_hook(OptimizerHook())
        again.resume(tmp_path / "saved.pth")
        caplog.clear()
        again.run([loader(0, 2)], [("train", 1)])
        (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
        assert "on a loader that a hook had put into runner.data_loader" in warning.getMessage()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("gives", ["one", "one for each epoch", "one seed for each epoch"])
def test_a_given_loader_goes_on_where_it_is_kept(
    make_runner: MakeRunner, tmp_path: Path, caplog: pytest.LogCaptureFixture, gives: str
) -> None:
    """Epochs 1, 2 and 4 of training and each epoch of validation have a loader of the hook's."""

    class Give(Hook):
        def __init__(self) -> None:
            self.kept = {"train": shuffling(100, 3), "val": shuffling(200, 3)}

        def before_epoch(self, runner: Any) -> None:
            if runner.mode == "train" and runner.epoch in (0, 3):
                return
            seed = 7 if gives == "one seed for each epoch" else runner.epoch
            generator = torch.Generator().manual_seed(seed)
            first = 100 if runner.mode == "train" else 200
            fresh = loader(first, 3, shuffle=True, generator=generator)
            runner.data_loader = self.kept[runner.mode] if gives == "one" else fresh

    def prepared() -> tuple[Any, Seen]:
        runner, seen = make_runner(max_epochs=5), Seen()
        for hook in (Give(), seen, OptimizerHook()):
            runner.register_hook(hook)
        return runner, seen

    def save(runner: Any) -> None:
        seen = [len(whole.batches["train"]), len(whole.batches["val"])]
        if runner.current_event == "after_val_iter":  # a resumed run begins its epoch again
            seen[1] -= runner.inner_iter + 1
        runner.save_checkpoint(tmp_path, filename_tmpl=f"{len(files)}.pth")
        files.append((tmp_path / f"{len(files)}.pth", *seen))

    files: list[tuple[Path, int, int]] = []
    runner, whole = prepared()
    for event in ("after_train_iter", "after_val_iter", "after_train_epoch", "after_val_epoch"):
        runner.register_hook(ClosureHook(event, save))
    runner.run([shuffling(0, 2), loader(50, 1)], [("train", 1), ("val", 1)])
    assert len(files) == (2 + 3 + 3 + 2 + 3) + 5 * 3 + 5 + 5
    for file, trained, validated in files:
        again, rest = prepared()
        again.resume(file)
        caplog.clear()
        again.run([shuffling(0, 2), loader(50, 1)], [("train", 1), ("val", 1)])
        left = whole.batches["train"][trained:], whole.batches["val"][validated:]
        warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        if not warnings:
            assert (rest.batches["train"], rest.batches["val"]) == left, file.name
            continue
        # After the first epoch it cannot be known yet that the hook does not keep its loader.
        assert gives == "one seed for each epoch"
        assert trained in (2, 5), file.name
        assert all(
            "a hook assigns another loader than for the previous epoch" in w for w in warnings
        )
