"""The exact events of runs, with the counters at each: every loop against MMCV's record."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from tests.fixtures.mmcv_runs.workflows import BY_EPOCH, BY_ITER
from tests.support import Recorder, make_loader

from .variants import EPOCH_VARIANTS, ITER_VARIANTS

RECORDED = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "mmcv_runs" / "events.json").read_text()
)


@pytest.fixture
def record(make_runner: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a workflow and gives the runner and its events."""

    def run(variant: tuple[type, bool], workflow: Any, batches: Any, limits: Any) -> Any:
        runner_type, reference = variant
        if reference:
            monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
        runner = make_runner(runner_type, **limits)
        recorder = Recorder()
        runner.register_hook(recorder)
        runner.run([make_loader(each) for each in batches], workflow)
        return runner, recorder.events

    return run


@pytest.mark.parametrize("variant", EPOCH_VARIANTS.values(), ids=EPOCH_VARIANTS)
@pytest.mark.parametrize("case", range(len(BY_EPOCH)))
def test_a_run_by_epochs_fires_what_mmcv_fires(record: Any, variant: Any, case: int) -> None:
    _, events = record(variant, *BY_EPOCH[case])
    assert events == [tuple(event) for event in RECORDED["epoch"][case]]


@pytest.mark.parametrize("variant", ITER_VARIANTS.values(), ids=ITER_VARIANTS)
@pytest.mark.parametrize("case", range(len(BY_ITER)))
def test_a_run_by_iterations_fires_what_mmcv_fires(record: Any, variant: Any, case: int) -> None:
    workflow, batches, limits = BY_ITER[case]
    _, events = record(variant, workflow, batches, limits)
    expected = [tuple(event) for event in RECORDED["iter"][case]]
    assert [(name, *counters) for name, _, *counters in events] == [
        (name, *counters) for name, _, *counters in expected
    ]
    # MMCV counts a finished pass one iteration late: it looks before it fetches the batch.
    length = batches[[mode for mode, _ in workflow].index("train")]
    for name, epoch, iteration, _ in events:
        if name.endswith("train_iter"):
            assert epoch == iteration // length


@pytest.mark.parametrize("variant", list(EPOCH_VARIANTS.values())[2:], ids=list(EPOCH_VARIANTS)[2:])
def test_what_a_subclass_overrides_is_called_every_time(record: Any, variant: Any) -> None:
    runner, events = record(variant, [("train", 1), ("val", 1)], [3, 2], {"max_epochs": 2})
    expected = {
        "call_hook": {"call_hook": len(events)},
        "run_iter": {"run_iter": 2 * 3 + 2 * 2},
        "train": {"train": 2, "val": 2},
    }
    assert Counter(runner.calls) == expected[runner.calls[0]]


@pytest.mark.parametrize("variant", list(ITER_VARIANTS.values())[2:], ids=list(ITER_VARIANTS)[2:])
def test_what_a_subclass_by_iterations_overrides_is_called_every_time(
    record: Any, variant: Any
) -> None:
    runner, events = record(variant, [("train", 2), ("val", 1)], [3, 2], {"max_iters": 5})
    expected = {"call_hook": {"call_hook": len(events)}, "train": {"train": 5, "val": 3}}
    assert Counter(runner.calls) == expected[runner.calls[0]]


@pytest.mark.parametrize("name", ["call_hook", "run_iter"])
def test_a_method_set_on_the_runner_itself_is_called(make_runner: Any, name: str) -> None:
    runner = make_runner(max_epochs=1)
    original, calls = getattr(runner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return original(*args, **kwargs)

    setattr(runner, name, counted)
    runner.run([make_loader(3)], [("train", 1)])
    assert len(calls) == {"call_hook": 1 + 1 + 3 * 2 + 1 + 1, "run_iter": 3}[name]


def test_generic_points_serve_training_and_validation(make_runner: Any) -> None:
    class Generic(Hook):
        def __init__(self) -> None:
            self.seen: Counter[str] = Counter()

        def before_epoch(self, runner: Any) -> None:
            self.seen[f"before epoch {runner.mode}"] += 1

        def after_epoch(self, runner: Any) -> None:
            self.seen[f"after epoch {runner.mode}"] += 1

        def before_iter(self, runner: Any) -> None:
            self.seen[f"before iter {runner.mode}"] += 1

        def after_iter(self, runner: Any) -> None:
            self.seen[f"after iter {runner.mode}"] += 1

    by_epoch, by_iter = Generic(), Generic()
    for runner_type, hook, limit in (
        (EpochBasedRunner, by_epoch, {"max_epochs": 2}),
        (IterBasedRunner, by_iter, {"max_iters": 6}),
    ):
        runner = make_runner(runner_type, **limit)
        runner.register_hook(hook)
        counts = (1, 1) if runner_type is EpochBasedRunner else (3, 1)
        workflow = list(zip(("train", "val"), counts, strict=True))
        runner.run([make_loader(3), make_loader(1)], workflow)
    assert by_epoch.seen == {
        **{f"{when} epoch {mode}": 2 for when in ("before", "after") for mode in ("train", "val")},
        **{f"{when} iter train": 6 for when in ("before", "after")},
        **{f"{when} iter val": 2 for when in ("before", "after")},
    }
    assert by_iter.seen == {
        "before epoch None": 1,
        "after epoch val": 1,  # the mode of the last phase
        **{f"{when} iter train": 6 for when in ("before", "after")},
        **{f"{when} iter val": 2 for when in ("before", "after")},
    }


@pytest.mark.parametrize("base", [EpochBasedRunner, IterBasedRunner])
def test_a_workflow_may_name_other_methods_and_they_may_fire_other_events(
    make_runner: Any, base: type
) -> None:
    class Runner(base):
        def adapt(self, data_loader: Any, **kwargs: Any) -> None:
            self.mode = "adapt"
            self.call_hook("before_adapt")
            self.train(data_loader, **kwargs)

    class Listener(Recorder):
        def before_adapt(self, runner: Any) -> None:
            self.note("before_adapt", runner)

    limit = {"max_epochs": 3} if base is EpochBasedRunner else {"max_iters": 3}
    runner, listener = make_runner(Runner, **limit), Listener()
    runner.register_hook(listener)
    runner.run([make_loader(2)], [("adapt", 1)])
    assert listener.names.count("before_adapt") == 3
    assert listener.names.count("after_train_iter") == (6 if base is EpochBasedRunner else 3)


def test_the_attributes_that_hooks_read_are_there_at_each_point(make_runner: Any) -> None:
    loader, val_loader = make_loader(2), make_loader(1)
    seen = []

    class Reader(Hook):
        def before_train_iter(self, runner: Any) -> None:
            assert runner.mode == "train"
            assert runner.data_loader is loader
            assert runner.data_batch["x"].shape == (2, 2)
            assert runner.model.training
            assert runner.max_epochs == 1
            assert runner.max_iters == 2
            assert (runner.rank, runner.world_size) == (0, 1)
            seen.append("train")

        def after_train_iter(self, runner: Any) -> None:
            assert runner.outputs["num_samples"] == 2

        def before_val_iter(self, runner: Any) -> None:
            assert runner.mode == "val"
            assert runner.data_loader is val_loader
            assert not runner.model.training

        def after_val_iter(self, runner: Any) -> None:
            assert not runner.outputs["loss"].requires_grad
            seen.append("val")

        def after_train_epoch(self, runner: Any) -> None:
            assert not hasattr(runner, "data_batch")
            assert runner.hooks == [self]
            assert runner.model_name == "TinyModel"

    runner = make_runner(max_epochs=1)
    runner.register_hook(Reader())
    runner.run([loader, val_loader], [("train", 1), ("val", 1)])
    assert seen == ["train", "train", "val"]
