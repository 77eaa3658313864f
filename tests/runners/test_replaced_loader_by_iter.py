"""By iteration, a loader that a hook gives lasts to the end of the run: no epoch would end it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import (
    ClosureHook,
    IterBasedRunner,
    IterLoader,
)
from tests.support import make_loader

from .replaced_support import (
    Seen,
    from_global_seed,
    loader,
    pairs,
    replace,
    seeking,
    shuffling,
)
from .variants import ITER_VARIANTS

MakeRunner = Callable[..., Any]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("loop", ITER_VARIANTS)
@pytest.mark.parametrize(
    ("event", "at", "first"),
    [
        ("before_epoch", 0, 0),
        ("before_train_iter", 0, 1),
        ("before_train_iter", 2, 3),
        ("after_train_iter", 1, 2),
        ("after_train_iter", 3, 4),
        ("after_train_iter", 6, 7),
    ],
)
def test_training(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
    at: int,
    first: int,
    loop: str,
    prefetch: bool,
) -> None:
    kind, reference = ITER_VARIANTS[loop]
    if reference:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    runner, seen = make_runner(kind, max_iters=7), Seen()
    runner.register_hook(replace(event, lambda r: r.iter == at, lambda: loader(100, 10)))
    runner.register_hook(seen)
    runner.run([loader(0, 3), loader(50, 1)], [("train", 2), ("val", 1)], prefetch=prefetch)
    own = pairs(0, 3) * 3
    assert seen.batches["train"] == [*own[:first], *pairs(100, 7 - first)]
    assert runner.epoch == max(first - 1, 0) // 3
    assert runner.iter == 7


@pytest.mark.parametrize("loop", ITER_VARIANTS)
def test_validation(make_runner: MakeRunner, loop: str) -> None:
    runner, seen = make_runner(ITER_VARIANTS[loop][0], max_iters=4), Seen()
    runner.register_hook(
        replace(
            "before_val_iter",
            lambda r: r.iter == 2 and r.inner_iter == 0,
            lambda: loader(100, 10),
        )
    )
    runner.register_hook(seen)
    runner.run([loader(0, 3), loader(50, 10)], [("train", 1), ("val", 2)])
    assert seen.batches["train"] == [*pairs(0, 3), *pairs(0, 1)]
    # The first batch of the second validation was there already.
    assert seen.batches["val"] == [*pairs(50, 3), *pairs(100, 5)]


def test_an_endless_loader_is_taken_as_it_is(make_runner: MakeRunner) -> None:
    runner, seen, other = make_runner(IterBasedRunner, max_iters=4), Seen(), loader(100, 5)
    ready = IterLoader(other)
    next(ready)
    runner.register_hook(replace("before_epoch", lambda r: True, lambda: ready))
    runner.register_hook(seen)
    runner.run([loader(0, 3)], [("train", 1)])
    assert seen.batches["train"] == pairs(102, 4)


def test_samples_seen_are_of_both(make_runner: MakeRunner) -> None:
    runner = make_runner(IterBasedRunner, max_iters=7)
    runner.register_hook(replace("after_train_iter", lambda r: r.iter == 3, lambda: make_loader(2)))
    runner.run([make_loader(3)], [("train", 1)])
    assert runner.progress.samples_seen() == 14


@pytest.mark.parametrize("save_at", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("make", [loader, shuffling, seeking, from_global_seed])
def test_a_run_goes_on_in_it_where_before_epoch_gives_it_again(
    make_runner: MakeRunner, tmp_path: Path, make: Callable[..., Any], save_at: int
) -> None:
    def prepared() -> tuple[Any, Seen]:
        runner, seen, other = make_runner(IterBasedRunner, max_iters=10), Seen(), make(100, 3)
        runner.register_hook(replace("after_train_iter", lambda r: r.iter + 1 == 3, lambda: other))
        runner.register_hook(replace("before_epoch", lambda r: r.iter >= 3, lambda: other))
        runner.register_hook(seen)
        return runner, seen

    torch.manual_seed(0)
    runner, whole = prepared()

    def save(runner: Any) -> None:
        if runner.iter + 1 == save_at:
            runner.save_checkpoint(tmp_path, filename_tmpl="saved.pth")

    runner.register_hook(ClosureHook("after_train_iter", save), priority="LOW")
    runner.run([make(0, 2)], [("train", 1)])
    torch.manual_seed(1)
    again, rest = prepared()
    again.resume(tmp_path / "saved.pth")
    again.run([make(0, 2)], [("train", 1)])
    assert rest.batches["train"] == whole.batches["train"][save_at:]
    assert (again.epoch, again.progress.samples_seen()) == (
        runner.epoch,
        runner.progress.samples_seen(),
    )
