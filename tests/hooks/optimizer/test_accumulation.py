"""Accumulation, without a runner: where windows begin and end, and what a resumed one has."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hookrun.hooks.optimizer.accumulation import Accumulation, restore_gradients


@given(
    iters=st.integers(1, 7),
    start=st.integers(0, 20),
    length=st.integers(1, 40),
    known=st.booleans(),
)
@settings(max_examples=300)
def test_windows_end_at_multiples_and_with_the_run(
    iters: int, start: int, length: int, known: bool
) -> None:
    window, end = Accumulation(iters), start + length
    steps, members = [], []
    for iteration in range(start, end):
        begins_late = [window.enter(iteration, end if known else None) for _ in range(2)]
        # Entering twice is entering once, and only a start inside of a window is late.
        assert begins_late == [iteration == start and start % iters != 0, False]
        members.append(iteration)
        steps_next = window.steps_next
        if window.count(2.0):
            assert steps_next
            assert window.length == len(members)
            assert window.samples == 2.0 * len(members)
            steps.append(iteration + 1)
            members = []
        else:
            assert not steps_next
            assert window.is_open
    expected = [k for k in range(start + 1, end + 1) if k % iters == 0 or (known and k == end)]
    assert steps == expected


def test_a_window_is_begun_anew_where_an_iteration_was_not_the_next() -> None:
    window = Accumulation(4)
    window.enter(0, None)
    window.count(2)
    assert window.enter(2, None)  # as after resuming another file
    assert (window.done, window.length, window.samples) == (0, 2, 0.0)


def test_iterations_per_step_can_be_changed_for_the_next_window() -> None:
    window = Accumulation(2)
    window.enter(0, None)
    window.count(1)
    window.iters = 3
    window.enter(1, None)
    assert window.count(1)
    window.enter(2, None)
    assert window.length == 1  # ends at a multiple of 3
    assert window.count(1)
    window.enter(3, None)
    assert window.length == 3


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def open_window() -> tuple[Accumulation, nn.Module]:
    window, model = Accumulation(4), make_model()
    for iteration in (4, 5):
        window.enter(iteration, 100, model)
        model(torch.ones(1, 2)).sum().backward()
        window.count(3)
    return window, model


def test_a_state_goes_on_in_the_middle_of_a_window() -> None:
    window, model = open_window()
    state = window.state_dict(model)
    assert state is not None
    assert {name: state[name] for name in ("length", "done", "samples", "next")} == {
        "length": 4,
        "done": 2,
        "samples": 6,
        "next": 6,
    }
    again, other = Accumulation(4), make_model()
    again.load_state_dict(state)
    assert not again.is_open  # until the iteration that goes on
    assert not again.enter(6, 100, other)
    assert (again.done, again.length, again.samples) == (2, 4, 6)
    for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)  # type: ignore[arg-type]
    again.count(3)
    other.zero_grad()
    again.enter(7, 100, other)
    assert all(each.grad is None for each in other.parameters())  # restored only once


def test_there_is_no_state_between_two_windows() -> None:
    window, model = open_window()
    for iteration in (6, 7):
        window.enter(iteration, 100, model)
        window.count(3)
    assert window.state_dict(model) is None
    assert Accumulation(4).state_dict(model) is None


def test_gradients_of_another_model_are_refused() -> None:
    for gradients in ({"other": torch.ones(1)}, {"bias": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"a gradient of '(other|bias)', which the model has"):
            restore_gradients(make_model(), gradients)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))]
)
def test_a_copy_has_the_window_but_not_the_run(copied: Callable[[Any], Any]) -> None:
    window, model = open_window()
    window.begin_run(model)
    twin = copied(window)
    assert twin.no_sync is None
    assert window.no_sync is not None
    twin.enter(6, 100)
    twin.count(3)
    assert (twin.done, window.done) == (3, 2)


class Wrapper(nn.Module):
    """Synchronizes gradients unless asked not to, as DistributedDataParallel does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.synchronizes = make_model(), True

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        self.synchronizes = False
        try:
            yield
        finally:
            self.synchronizes = True


def test_wrappers_synchronize_in_the_last_iteration_of_a_window() -> None:
    window, model = Accumulation(3), Wrapper()
    assert not window.defers_sync
    window.begin_run(model)
    assert window.defers_sync
    seen = []
    for iteration in range(7):
        window.enter(iteration, 7)
        window.before_forward()
        seen.append(model.synchronizes)
        assert window.no_sync is not None
        window.no_sync.leave()
        assert model.synchronizes
        window.count(1)
    assert seen == [False, False, True] * 2 + [True]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
def test_the_end_of_a_run_leaves_the_model_as_it_was(error: BaseException | None) -> None:
    window, model = Accumulation(3), Wrapper()
    window.begin_run(model)
    for iteration in (0, 1):
        window.enter(iteration, None)
        window.before_forward()
        if iteration == 0:
            window.count(1)
    window.end_run(error)
    assert model.synchronizes
    assert window.is_open == (error is not None)  # a run that was interrupted may go on
