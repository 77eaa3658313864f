"""Memory stays flat however long a run is, and is free when a runner is dropped."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EMAHook, EpochBasedRunner, EvalHook, Hook, IterBasedRunner
from tests.support import TinyModel, make_loader

# An object lost in each of the fewer ones would take three times the mebibyte.
ITERATIONS = [200_000, pytest.param(1_000_000, marks=pytest.mark.long)]
WARM_UP = 10_000


class Idle(torch.nn.Module):
    """Takes no time and reports two values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def train_step(self, data_batch: Any, optimizer: Any) -> dict[str, Any]:
        return {"loss": 0.0, "log_vars": {"loss": data_batch * 1.0, "acc": 0.5}, "num_samples": 2}


class Batches:
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.length))


class MemoryHook(Hook):
    """Resident memory once warm and at the end, in KiB."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self.readings: list[int] = []

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter + 1 in (WARM_UP, self.iterations):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.readings.append(pages * os.sysconf("SC_PAGE_SIZE") // 1024)


@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("iterations", ITERATIONS)
def test_many_iterations_stay_within_a_mebibyte(
    make_runner: Any, runner_type: type, iterations: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="hookrun.tests")
    limit = {"max_epochs": 1} if runner_type is EpochBasedRunner else {"max_iters": iterations}
    runner = make_runner(runner_type, model=Idle(), **limit)
    runner.register_training_hooks(
        {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False},
        checkpoint_config={"interval": -1, "save_last": False},
        log_config={"interval": 5000, "hooks": [{"type": "TextLoggerHook"}]},
    )
    memory = MemoryHook(iterations)
    runner.register_hook(memory)
    runner.run([Batches(iterations)], [("train", iterations)])
    warm, end = memory.readings
    assert end - warm <= 1024


class Batch(dict[str, torch.Tensor]):
    """A batch that can be watched."""


class FreshBatches:
    """Makes each batch when it is asked for, and watches what becomes of it."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[Batch]] = []

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(3):
            batch = Batch(x=torch.ones(2, 2), y=torch.ones(2, 1))
            self.given.append(weakref.ref(batch))
            yield batch
            del batch


class Breaks(Hook):
    def after_train_iter(self, runner: Any) -> None:
        if runner.iter == 1:
            raise RuntimeError("broken")


FULL: dict[str, Any] = {
    "lr_config": {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False},
    "momentum_config": {"policy": "CosineAnnealing", "min_momentum": 0.1},
    "checkpoint_config": {"interval": 1},
    "log_config": {"interval": 1, "hooks": [{"type": "TextLoggerHook"}]},
}
RUNS: dict[str, dict[str, Any]] = {
    "no hooks": {"lr_config": None, "timer_config": None},
    "all the usual hooks": {**FULL, "optimizer_config": {"grad_clip": {"max_norm": 1.0}}},
    "fp16": {**FULL, "optimizer_config": {"type": "Fp16OptimizerHook", "loss_scale": "dynamic"}},
    "EMA": {"lr_config": None, "optimizer_config": {}, "custom_hooks_config": EMAHook},
    "the best file": {
        **FULL,
        "optimizer_config": {},
        "custom_hooks_config": lambda: EvalHook(
            make_loader(), save_best="acc", test_fn=lambda model, loader: []
        ),
    },
    "an invalid loss": {
        **FULL,
        "optimizer_config": {},
        "custom_hooks_config": {"type": "CheckInvalidLossHook"},
    },
    "an error": {**FULL, "optimizer_config": {}, "custom_hooks_config": Breaks},
}


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("name", RUNS)
def test_a_dropped_runner_frees_model_optimizer_and_batches_without_the_collector(
    make_runner: Any,
    runner_type: type,
    name: str,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if backend == "reference":
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    configs = dict(RUNS[name])
    make_hook = configs.get("custom_hooks_config")
    if callable(make_hook):
        configs["custom_hooks_config"] = make_hook()
    batches = FreshBatches()
    # Made beforehand: the first optimizer of a process lets torch import things, and their frames
    # stay until the collector comes.
    torch.optim.SGD(TinyModel().parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        runner = make_runner(runner_type)
        runner.register_training_hooks(**configs)
        watched = [weakref.ref(each) for each in (runner, runner.model, runner.optimizer)]
        try:
            runner.run([batches], [("train", 1)])
        except RuntimeError as error:
            assert name == "an error" and "broken" in str(error)  # noqa: PT017, PT018
        assert len(batches.given) >= 2
        if name != "an error":  # there the runner shows the batch that it stopped at
            assert not any(batch() is not None for batch in batches.given)
        assert all(each() is not None for each in watched)
        del runner, configs, make_hook
        assert not any(each() is not None for each in [*watched, *batches.given])
    finally:
        gc.enable()


def test_a_dispatcher_whose_runner_is_gone_says_so(make_runner: Any) -> None:
    runner = make_runner()
    dispatcher = runner._dispatcher
    del runner
    with pytest.raises(ReferenceError, match="the runner of this dispatcher is gone"):
        dispatcher("before_run")
