"""A loader that a hook puts into ``runner.data_loader`` is the one that is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hookrun import (
    ClosureHook,
    DevicePrefetcher,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
)

from .replaced_support import (
    Seen,
    loader,
    pairs,
    replace,
)
from .variants import EPOCH_VARIANTS

MakeRunner = Callable[..., Any]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("loop", EPOCH_VARIANTS)
@pytest.mark.parametrize("event", ["before_train_epoch", "before_epoch"])
def test_an_epoch_of_training_has_the_loader_that_a_hook_gives(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
    loop: str,
    prefetch: bool,
) -> None:
    kind, reference = EPOCH_VARIANTS[loop]
    if reference:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    runner = make_runner(kind, max_epochs=3)
    given: list[Any] = []

    def second(runner: Any) -> bool:
        return runner.mode == "train" and runner.epoch == 1

    def note(runner: Any) -> None:
        given.append((len(runner.data_loader), isinstance(runner.data_loader, DevicePrefetcher)))

    class Replace(Hook):
        pass

    setattr(
        Replace,
        event,
        lambda self, runner: (
            setattr(runner, "data_loader", loader(100, 4)) if second(runner) else None
        ),
    )
    seen = Seen()
    runner.register_hook(Replace())
    runner.register_hook(seen)
    runner.register_hook(ClosureHook("before_train_iter", note))
    runner.run([loader(0, 2), loader(50, 1)], [("train", 1), ("val", 1)], prefetch=prefetch)
    assert seen.batches["train"] == [*pairs(0, 2), *pairs(100, 4), *pairs(0, 2)]
    assert seen.batches["val"] == pairs(50, 1) * 3
    assert [length for mode, *length in seen.lengths if mode == "train"] == [[2, 2], [4, 4], [2, 2]]
    assert seen.ends == [1, 5, 7]
    assert given == [(2, prefetch)] * 2 + [(4, prefetch)] * 4 + [(2, prefetch)] * 2
    assert (runner.iter, runner.max_iters) == (8, 8)


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("loop", EPOCH_VARIANTS)
def test_so_has_an_epoch_of_validation(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch, loop: str, prefetch: bool
) -> None:
    kind, reference = EPOCH_VARIANTS[loop]
    if reference:
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    runner = make_runner(kind, max_epochs=2)
    seen = Seen()
    runner.register_hook(
        replace("before_val_epoch", lambda r: r.epoch == 2, lambda: loader(100, 3))
    )
    runner.register_hook(seen)
    runner.run([loader(0, 2), loader(50, 2)], [("train", 1), ("val", 1)], prefetch=prefetch)
    assert seen.batches["train"] == pairs(0, 2) * 2
    assert seen.batches["val"] == [*pairs(50, 2), *pairs(100, 3)]
    assert [length for mode, *length in seen.lengths if mode == "val"] == [[2, 2], [3, 3]]


def test_what_has_no_length_and_can_be_gone_through_once(make_runner: MakeRunner) -> None:
    def generator() -> Iterator[Any]:
        yield from loader(100, 3)

    runner = make_runner(max_epochs=3)
    seen, limits = Seen(), []
    runner.register_hook(replace("before_train_epoch", lambda r: r.epoch == 1, generator))
    runner.register_hook(seen)
    runner.register_hook(ClosureHook("before_train_iter", lambda r: limits.append(r.max_iters)))
    runner.run([loader(0, 2)], [("train", 1)])
    assert seen.batches["train"] == [*pairs(0, 2), *pairs(100, 3), *pairs(0, 2)]
    assert limits == [6, 6, None, None, None, 7, 7]
    assert seen.ends == [1, 6]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (list, ValueError, r"loader that a hook has put into runner.data_loader in .* is empty"),
        (lambda: loader(0, 0), ValueError, "is empty"),
        (lambda: iter(()), ValueError, "gives no batches"),
        (lambda: 3, TypeError, "has put 3 into runner.data_loader .* cannot be iterated"),
        (lambda: None, TypeError, "has put None into runner.data_loader"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (EpochBasedRunner, "before_train_epoch"),
        (EpochBasedRunner, "before_val_epoch"),
        (IterBasedRunner, "before_epoch"),
        (IterBasedRunner, "after_train_iter"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    make_runner: MakeRunner,
    kind: type,
    event: str,
    make: Callable[[], Any],
    error: type[Exception],
    message: str,
) -> None:
    runner = make_runner(kind)
    runner.register_hook(replace(event, lambda r: True, make))
    with pytest.raises(error, match=message):
        runner.run([loader(0, 2), loader(0, 2)], [("train", 1), ("val", 1)])
