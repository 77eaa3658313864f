"""Epochs of different lengths: iterations, schedules by iteration, the last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from hookrun import CheckpointHook, ClosureHook
from tests.support import Points, make_loader

from .counting_support import (
    FALLING,
    LENGTHS,
    WORKFLOWS,
    Changing,
    ends_where_it_should,
    falls,
    prepare,
)


@pytest.mark.parametrize("reference", [False, True])
@settings(max_examples=60)
@given(
    lengths=st.lists(LENGTHS, min_size=3, max_size=3),
    workflow=st.sampled_from(WORKFLOWS),
    max_epochs=st.integers(1, 7),
    lr=st.sampled_from(FALLING),
)
def test_schedules_by_iteration_never_go_back_and_reach_their_end(
    reference: bool, lengths: list[list[int]], workflow: Any, max_epochs: int, lr: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if reference:
            patch.setenv("HOOKRUN_BACKEND", "reference")
        runner, watch = prepare(max_epochs, lr)
        runner.run([Changing(each) for each in lengths[: len(workflow)]], workflow)
    assert falls(watch.rates, lr)
    assert ends_where_it_should(runner, watch, lr)
    assert runner.iter == runner.max_iters == len(watch.rates)
    assert watch.last == [runner.iter - 1] or max_epochs > 1
    assert watch.last[-1] == runner.iter - 1
    assert len(watch.ends) == max_epochs


@settings(max_examples=60)
@given(
    said=st.integers(1, 9),
    lengths=LENGTHS,
    max_epochs=st.integers(1, 6),
    lr=st.sampled_from(FALLING),
)
def test_a_length_that_is_wrong(said: int, lengths: list[int], max_epochs: int, lr: Any) -> None:
    runner, watch = prepare(max_epochs, lr)
    runner.run([Changing(lengths, said)], [("train", 1)])
    assert falls(watch.rates, lr)
    assert watch.rates[-1] > 0.0
    assert runner.iter == runner.max_iters == len(watch.rates)
    if len(set(lengths)) == 1 and max_epochs > 1:  # it was found out in the first epoch
        assert ends_where_it_should(runner, watch, lr)
        assert watch.last[-1] == runner.iter - 1
        assert (max_epochs - 1, lengths[0] - 1) in watch.ends


def test_epochs_of_one_length_count_as_ever(tmp_path: Path) -> None:
    runner, watch = prepare(3)
    runner.run([make_loader(4), make_loader(2)], [("train", 1), ("val", 1)])
    assert watch.rates == pytest.approx([1 - n / 12 for n in range(12)])
    assert watch.limits == [12] * 12


def test_two_training_phases_count_by_what_is_left_of_the_workflow() -> None:
    runner, watch = prepare(5)
    runner.run([make_loader(2), make_loader(4)], [("train", 1), ("train", 1)])
    assert watch.limits == [2 + 4 + 2 + 4 + 2] * 14
    assert watch.rates == pytest.approx([1 - n / 14 for n in range(14)])
    assert watch.last == [13]


def test_limits_that_are_changed_in_mid_run(tmp_path: Path) -> None:
    runner, watch = prepare(4)

    def change(runner: Any) -> None:
        runner._max_epochs = {0: 3, 1: 3, 2: 5}.get(runner.epoch, 5)

    runner.register_hook(ClosureHook("before_train_epoch", change))
    runner.run([make_loader(2)], [("train", 1)])
    assert watch.limits == [6] * 4 + [10] * 6
    assert watch.last == [9]


def test_a_second_run_goes_on_and_one_from_zero_begins_anew() -> None:
    runner, watch = prepare(2)
    runner.run([make_loader(4)], [("train", 1)])
    runner._max_epochs = 4
    runner.run([make_loader(2)], [("train", 1)])
    assert watch.rates[8:] == pytest.approx([1 - n / 8 for n in range(4, 8)])
    assert runner.max_iters == runner.iter == 12
    runner._epoch = runner._iter = 0
    runner.run([make_loader(3)], [("train", 1)])
    assert watch.rates[12:] == pytest.approx([1 - n / 12 for n in range(12)])
    assert runner.max_iters == runner.iter == 12


def test_milestones_are_iterations_as_they_happen() -> None:
    lr = {"policy": "step", "step": [3, 8], "by_epoch": False}
    _, watch = both = prepare(3, lr)
    both[0].run([Changing([2, 6, 3])], [("train", 1)])
    assert [watch.rates.index(pytest.approx(each)) for each in (1.0, 0.1, 0.01)] == [0, 3, 8]


@pytest.mark.parametrize(("said", "actual"), [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("interval", [-1, 2])
def test_the_last_iteration_is_saved(tmp_path: Path, said: int, actual: int, interval: int) -> None:
    for max_epochs in (1, 2):
        folder = tmp_path / str(max_epochs)
        runner, _ = prepare(max_epochs, folder=folder)
        runner.register_hook(CheckpointHook(interval=interval, by_epoch=False))
        runner.run([Changing([actual], said)], [("train", 1)])
        last = folder / f"iter_{max_epochs * actual}.pth"
        assert (folder / "latest.pth").resolve() == last.resolve()
        assert torch.load(last)["meta"]["iter"] == max_epochs * actual


def test_a_loader_of_torch_that_lies(caplog: pytest.LogCaptureFixture) -> None:
    class Stream(IterableDataset[Any]):
        def __len__(self) -> int:
            return 20

        def __iter__(self) -> Iterator[Any]:
            points = Points(12)
            return (points[n] for n in range(12))

    runner, watch = prepare(3)
    runner.register_optimizer_hook({})
    runner.run([DataLoader(Stream(), 2)], [("train", 1)])
    assert watch.limits == [30] * 6 + [18] * 12
    assert falls(watch.rates)
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "DataLoader yielded 6 batches in epoch 1, but its len() is 10" in warning.getMessage()


def test_loaders_that_change_are_no_matter_for_warnings(caplog: pytest.LogCaptureFixture) -> None:
    runner, _ = prepare(3)
    runner.register_optimizer_hook({})
    runner.run([Changing([4, 2, 6])], [("train", 1)])
    assert not [each for each in caplog.records if each.levelname == "WARNING"]
