"""What iterations count in a run that is resumed with epochs of another length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hookrun import ClosureHook, IterBasedRunner, ResumableSampler
from tests.support import Points, make_loader

from .counting_support import (
    FALLING,
    LINEAR,
    WORKFLOWS,
    Changing,
    ends_where_it_should,
    falls,
    prepare,
    save,
    save_epoch,
)


@settings(max_examples=25)
@given(data=st.data())
def test_a_run_that_is_resumed_with_other_loaders(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("run")
    workflow = data.draw(st.sampled_from(WORKFLOWS))
    sizes = st.lists(st.integers(3, 12), min_size=3, max_size=3)
    before, max_epochs = data.draw(sizes), data.draw(st.integers(2, 6))
    lr = data.draw(st.sampled_from(FALLING))
    runner, watch = prepare(max_epochs, lr)

    saved = data.draw(st.integers(1, max_epochs - 1))
    save_epoch(runner, folder, saved)
    runner.run([make_loader(n) for n in before[: len(workflow)]], workflow)
    again, rest = prepare(max_epochs, lr, folder)
    again.register_checkpoint_hook({"by_epoch": False})
    again.resume(folder / "saved.pth")
    again.run([make_loader(n) for n in data.draw(sizes)[: len(workflow)]], workflow)
    iterations = torch.load(folder / "saved.pth")["meta"]["iter"]
    assert falls([watch.rates[iterations - 1], *rest.rates], lr)
    assert ends_where_it_should(again, rest, lr)
    assert again.iter == again.max_iters
    assert (folder / f"iter_{again.iter}.pth").exists()


@pytest.mark.parametrize(
    ("before", "now", "epochs", "at", "iterations", "total"),
    [
        # batches before and now, epochs of the run, where it is saved; iterations then, in all
        (10, 5, 4, 20, 10, 20),
        (5, 10, 4, 10, 20, 40),
        (10, 10, 4, 20, 20, 40),
        (4, 1, 3, 8, 2, 3),
        (1, 4, 3, 2, 8, 12),
        (6, 4, 5, 6, 4, 20),
        (7, 3, 4, 14, 6, 12),
        (3, 7, 4, 9, 21, 28),
        (8, 8, 3, 24, 24, 24),
        (8, 4, 3, 24, 24, 24),  # nothing is left to measure by
    ],
)
def test_iterations_at_the_end_of_an_epoch(
    tmp_path: Path, before: int, now: int, epochs: int, at: int, iterations: int, total: int
) -> None:
    runner, _ = prepare(epochs)

    def at_end(runner: Any) -> None:
        if runner.iter == at:
            runner.save_checkpoint(tmp_path, filename_tmpl="saved.pth")

    runner.register_hook(ClosureHook("after_train_epoch", at_end))
    runner.run([make_loader(before)], [("train", 1)])
    again, watch = prepare(epochs)
    again.resume(tmp_path / "saved.pth")
    first: list[tuple[int, int | None]] = []
    again.register_hook(
        ClosureHook("before_run", lambda r: first.append((r.iter, r.max_iters))), priority="LOWEST"
    )
    again.run([make_loader(now)], [("train", 1)])
    assert first == [(iterations, total)]
    assert (again.iter, again.max_iters) == (total, total)
    assert set(watch.limits) <= {total}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("lengths", [[3, 3, 3, 3], [2, 5, 3, 6], [6, 1, 4, 2]])
@pytest.mark.parametrize("said", [None, 4])
def test_a_run_and_its_resumption_agree(
    tmp_path: Path, lengths: list[int], said: int | None
) -> None:
    runner, watch = prepare(4)
    total = sum(lengths)
    save(runner, tmp_path, *range(1, total))
    runner.run([Changing(lengths, said)], [("train", 1)])
    for at in range(1, total):
        loader = Changing(lengths, said)
        loader.epoch = torch.load(tmp_path / f"{at}.pth")["meta"]["epoch"]
        again, rest = prepare(4)
        again.resume(tmp_path / f"{at}.pth")
        again.run([loader], [("train", 1)])
        assert rest.rates == watch.rates[at:], at
        assert rest.limits == watch.limits[at:], at
        assert rest.last == [each for each in watch.last if each >= at]


@pytest.mark.parametrize(
    ("before", "now", "at", "iterations"),
    [(2, 4, 7, 3), (4, 2, 3, 6), (2, 8, 8, 2), (6, 2, 5, 15), (2, 24, 13, 1), (3, 2, 10, 15)],
)
def test_iterations_amid_an_epoch(
    tmp_path: Path, before: int, now: int, at: int, iterations: int
) -> None:
    def loader(batch_size: int) -> Any:
        points = Points(24)
        return DataLoader(points, batch_size, sampler=ResumableSampler(points))

    runner, whole = prepare(3)
    save(runner, tmp_path, at)
    runner.run([loader(before)], [("train", 1)])
    again, watch = prepare(3)
    again.resume(tmp_path / f"{at}.pth")
    again.run([loader(now)], [("train", 1)])
    total = 3 * 24 // now
    assert (again.iter, again.max_iters) == (total, total)
    assert len(watch.rates) == total - iterations
    assert watch.rates == pytest.approx([1 - n / total for n in range(iterations, total)])
    assert abs(watch.rates[0] - whole.rates[at]) < 1 / total


def test_more_epochs_after_a_resume(tmp_path: Path) -> None:
    runner, _ = prepare(2)
    save_epoch(runner, tmp_path, 2)
    runner.run([make_loader(4)], [("train", 1)])
    again, watch = prepare(4)
    again.resume(tmp_path / "saved.pth")
    again.run([make_loader(2)], [("train", 1)])
    assert watch.rates == pytest.approx([1 - n / 8 for n in range(4, 8)])
    assert again.iter == again.max_iters == 8


@pytest.mark.parametrize("warmup_by_epoch", [False, True])
def test_a_warmup_that_is_over_does_not_begin_again(tmp_path: Path, warmup_by_epoch: bool) -> None:
    lr = {
        **LINEAR,
        "warmup": "linear",
        "warmup_iters": 1 if warmup_by_epoch else 10,
        "warmup_by_epoch": warmup_by_epoch,
    }
    runner, _ = prepare(4, lr)
    save_epoch(runner, tmp_path, 1)
    runner.run([make_loader(10)], [("train", 1)])
    again, watch = prepare(4, lr)
    save(again, tmp_path, 6)
    again.resume(tmp_path / "saved.pth")
    again.run([make_loader(5)], [("train", 1)])
    assert watch.rates == pytest.approx([1 - n / 20 for n in range(5, 20)])
    third, rest = prepare(4, lr)
    third.resume(tmp_path / "6.pth")
    third.run([make_loader(5)], [("train", 1)])
    assert rest.rates == watch.rates[1:]


def test_a_warmup_by_epochs_lasts_until_they_are_over(tmp_path: Path) -> None:
    lr = {**LINEAR, "warmup": "constant", "warmup_iters": 1, "warmup_by_epoch": True}
    runner, watch = prepare(3, lr)
    save_epoch(runner, tmp_path, 1)
    runner.run([Changing([2, 6, 6])], [("train", 1)])
    again, rest = prepare(3, lr)
    again.resume(tmp_path / "saved.pth")
    loader = Changing([2, 6, 6])
    loader.epoch = 1
    again.run([loader], [("train", 1)])
    assert rest.rates == watch.rates[2:]


def test_files_that_do_not_say_how_long_epochs_were(tmp_path: Path) -> None:
    """Those of older versions: iterations stay what they are."""
    runner, _ = prepare(4)
    save_epoch(runner, tmp_path, 2)
    runner.run([make_loader(10)], [("train", 1)])
    checkpoint = torch.load(tmp_path / "saved.pth")
    del checkpoint["hookrun"]["counting"]
    torch.save(checkpoint, tmp_path / "old.pth")
    again, watch = prepare(4)
    again.resume(tmp_path / "old.pth")
    again.run([make_loader(5)], [("train", 1)])
    assert (again.iter, again.max_iters) == (30, 30)
    assert watch.rates == pytest.approx([1 - n / 30 for n in range(20, 30)])


@pytest.mark.parametrize(
    "counting",
    [{}, {"step": -1, "lengths": [], "loaders": [], "uncounted": 0}, 3, {"lengths": [[1]]}],
)
def test_damaged_files_are_refused(tmp_path: Path, counting: Any) -> None:
    runner, _ = prepare(2)
    save(runner, tmp_path, 2)
    runner.run([make_loader(2)], [("train", 1)])
    checkpoint = torch.load(tmp_path / "2.pth")
    checkpoint["hookrun"]["counting"] = counting
    torch.save(checkpoint, tmp_path / "2.pth")
    with pytest.raises(ValueError, match="cannot be resumed"):
        prepare(2)[0].resume(tmp_path / "2.pth")


@pytest.mark.parametrize(("before", "now"), [(6, 3), (3, 6)])
def test_a_run_by_iterations_keeps_them(tmp_path: Path, before: int, now: int) -> None:
    runner, whole = prepare(12, kind=IterBasedRunner)
    save(runner, tmp_path, before)
    runner.run([make_loader(before)], [("train", 1)])
    again, watch = prepare(12, kind=IterBasedRunner)
    again.resume(tmp_path / f"{before}.pth")
    epochs: list[int] = []
    again.register_hook(ClosureHook("before_train_iter", lambda r: epochs.append(r.epoch)))
    again.run([make_loader(now)], [("train", 1)])
    assert watch.rates == whole.rates[before:]
    assert epochs[0] == (before > now)  # the other data goes on behind as many samples
    assert (again.iter, again.max_iters) == (12, 12)
