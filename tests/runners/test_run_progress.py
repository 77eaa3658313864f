"""RunProgress: how far a run is, without a runner."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from hookrun import BaseRunner, EpochBasedRunner, IterBasedRunner
from hookrun.runners.epoch_progress import EpochProgress
from hookrun.runners.iter_progress import IterProgress
from hookrun.runners.run_progress import RunProgress, sum_if_known


class Counters:
    """In place of a runner: what RunProgress reads and sets of one."""

    def __init__(self, **attributes: Any) -> None:
        self.logger = logging.getLogger("hookrun.tests")
        self.epoch = self.iter = self.inner_iter = 0
        self.max_epochs: int | None = 4
        self.max_iters: int | None = None
        self.mode = self.data_loader = self.current_event = self.epoch_length = None
        self.schedule_shift = self.uncounted_iters = 0
        vars(self).update(attributes)

    def set_counters(self, *, epoch: int, iter: int) -> None:
        self.epoch, self.iter = epoch, iter

    def set_max_iters(self, max_iters: int | None) -> None:
        self.max_iters = max_iters


WORKFLOW = [("train", 2), ("val", 1)]
LOADERS = [[1, 2, 3], [4]]
KINDS = [RunProgress, EpochProgress, IterProgress]


@pytest.mark.parametrize("kind", KINDS)
def test_a_workflow_begins_with_its_first_phase(kind: type[RunProgress]) -> None:
    counters = Counters()
    progress = kind(counters)
    assert progress.begin(LOADERS, WORKFLOW) == (0, 0)
    assert (progress.workflow, progress.modes) == (WORKFLOW, ["train", "val"])
    assert progress.samples_seen() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_epoch", [True, False])
def test_what_is_saved_is_where_another_run_goes_on(
    kind: type[RunProgress], by_epoch: bool
) -> None:
    counters = Counters(epoch=1, iter=5, inner_iter=1, max_epochs=4 if by_epoch else None)
    progress = kind(counters)
    progress.begin(LOADERS, WORKFLOW)
    progress.phase, progress.samples = (0, 1), 40
    state = progress.state_dict({})
    assert state["phase"] == {"workflow": [["train", 2], ["val", 1]], "index": 0, "done": 1}

    other = Counters(max_epochs=counters.max_epochs)
    resumed = kind(other)
    resumed.load_state_dict(state, epoch=1, iter=5)
    assert (other.epoch, other.iter, resumed.samples_seen()) == (1, 5, 40)
    again = resumed.state_dict({})
    assert again["phase"] == state["phase"]  # saved before it has gone on
    assert (again["samples"], again["inner_iter"]) == (40, state["inner_iter"])
    assert resumed.begin(LOADERS, WORKFLOW) == (0, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_resume_is_rolled_back_by_two_calls(kind: type[RunProgress]) -> None:
    counters = Counters(epoch=2, iter=9, uncounted_iters=1)
    progress = kind(counters)
    progress.begin(LOADERS, WORKFLOW)
    progress.phase, progress.samples = (1, 0), 7
    before = dict(vars(progress))

    snapshot = progress.snapshot()
    progress.load_state_dict({"samples": 3, "inner_iter": 1}, epoch=0, iter=1)
    assert progress.resume_point is not None
    progress.restore(snapshot)

    assert vars(progress) == before
    assert (counters.epoch, counters.iter, counters.uncounted_iters) == (2, 9, 1)


def test_files_of_mmcv_by_iteration_are_one_behind() -> None:
    counters = Counters(max_epochs=None)
    IterProgress(counters).load_state_dict({}, epoch=1, iter=4)
    assert (counters.epoch, counters.iter) == (0, 5)
    by_epoch = Counters()
    EpochProgress(by_epoch).load_state_dict({}, epoch=1, iter=4)
    assert (by_epoch.epoch, by_epoch.iter) == (1, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_no_runner_alive(kind: type[RunProgress]) -> None:
    counters = Counters()
    progress = kind(counters)
    del counters
    with pytest.raises(AssertionError, match="does not outlive its runner"):
        progress.counters  # noqa: B018


def test_finished_counts_what_the_event_ends() -> None:
    counters = Counters(epoch=1, iter=5, mode="train", current_event="after_train_iter")
    progress = EpochProgress(counters)
    progress.epoch_start = 3
    assert progress.finished() == {"epoch": 1, "iter": 6, "inner_iter": 3}
    counters.current_event = "after_train_epoch"
    assert progress.finished() == {"epoch": 2, "iter": 5, "inner_iter": 0}
    counters.mode = "val"
    assert progress.finished()["epoch"] == 1


def test_sums_with_an_unknown_part_are_unknown() -> None:
    assert sum_if_known(2, 3) == 5
    assert sum_if_known(None, 3) is sum_if_known(2, None) is None


def test_a_runner_of_ones_own_needs_no_private_methods() -> None:
    class Own(BaseRunner):
        def run(self, data_loaders: Any, workflow: Any, **kwargs: Any) -> None: ...
        def train(self, data_loader: Any, **kwargs: Any) -> None: ...
        def val(self, data_loader: Any, **kwargs: Any) -> None: ...
        def save_checkpoint(self, out_dir: Any, *args: Any, **kwargs: Any) -> None: ...

    class Model(torch.nn.Module):
        def train_step(self, *args: Any) -> dict[str, Any]:
            return {"loss": torch.zeros(())}

    runner = Own(Model(), max_epochs=1)
    assert runner.progress.finished() == {"epoch": 0, "iter": 0, "inner_iter": 0}
    assert type(EpochBasedRunner(Model(), max_epochs=1).progress) is EpochProgress
    assert type(IterBasedRunner(Model(), max_iters=1).progress) is IterProgress


def test_a_pass_that_cannot_begin_leaves_the_resume_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counters = Counters()
    progress = EpochProgress(counters)
    state = {"inner_iter": 2, "samples": 5, "loaders": [{"epoch": 1, "batches": 2, "samples": 4}]}
    progress.load_state_dict(state, epoch=1, iter=9)
    progress.begin(LOADERS, WORKFLOW)
    point = progress.resume_point
    progress.begin_epoch(3)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "_set_epoch_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        progress.begin_pass(LOADERS[0], 3)
    assert progress.resume_point is point
    assert progress.data_pass is None
    assert progress.samples == 5


def test_passes_of_a_run_that_failed_are_forgotten() -> None:
    counters = Counters()
    progress = EpochProgress(counters)
    progress.begin(LOADERS, WORKFLOW)
    progress.begin_epoch(3)
    progress.begin_pass(LOADERS[0], 3)
    progress.val_pass, progress.is_replaced = progress.data_pass, True
    progress.begin(LOADERS, WORKFLOW)
    assert progress.data_pass is progress.val_pass is progress.epoch_start is None
    assert not progress.is_replaced
    assert progress.rng_to_resume_with() == {}


def test_the_progress_of_a_runner_cannot_be_replaced_by_mistake(make_runner: Any) -> None:
    with pytest.raises(AttributeError, match="progress"):
        make_runner().progress = "a bar"
