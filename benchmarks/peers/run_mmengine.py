"""The work on MMEngine, with its default hooks."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from timing import Statement
from work import EVENT, HOOKS, NEVER, Loader, Model, make_optimizer

# MMEngine keeps its runners by name, and none works without a folder.
_names = (f"benchmark-{number}" for number in itertools.count())
_work_dir = tempfile.TemporaryDirectory()


class LogVarsModel(Model):
    """MMEngine's models return the values to log, and nothing else."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, float]:
        return self.log_vars


class FastDataLoader(DataLoader):
    """A loader that MMEngine accepts and that costs what the others' does."""

    def __init__(self, length: int) -> None:
        super().__init__(range(length))
        self.batches = Loader(length)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[None]:
        return iter(self.batches)


class Silent(Hook):
    """Overrides nothing."""


class NotDue(Hook):
    """Listens, and has nothing to do yet: MMEngine's hooks ask on entry."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not self.every_n_train_iters(runner, NEVER):
            return


class Listening(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pass


SCENARIOS = {"silent": Silent, "not_due": NotDue, "listening": Listening}


def make_runner(iterations: int, schedule: bool, work_dir: str) -> Runner:
    model = LogVarsModel()
    cosine = {
        "type": "CosineAnnealingLR",
        "T_max": iterations,
        "eta_min": 0.0,
        "by_epoch": False,
    }
    return Runner(
        model,
        work_dir,
        train_dataloader=FastDataLoader(iterations),
        train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper=OptimWrapper(make_optimizer(model)),
        param_scheduler=cosine if schedule else None,
        default_hooks={
            "checkpoint": {
                "type": "CheckpointHook",
                "interval": NEVER,
                "by_epoch": False,
                "save_last": False,
            },
            "logger": {"type": "LoggerHook", "interval": NEVER},
            **({} if schedule else {"param_scheduler": None}),
        },
        log_level="ERROR",
        experiment_name=next(_names),
    )


def event(scenario: str) -> Statement:
    """One event on ten hooks, with the arguments that MMEngine's loop passes."""
    runner = make_runner(1, False, _work_dir.name)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner._hooks = []
    for _ in range(HOOKS):
        runner.register_hook(SCENARIOS[scenario]())
    arguments = "batch_idx=0, data_batch=None, outputs=outputs"
    names = {"runner": runner, "outputs": runner.model.log_vars}
    return f"runner.call_hook({EVENT!r}, {arguments})", names


def training_run(iterations: int, schedule: bool, work_dir: str) -> Callable[[], object]:
    """One epoch with the default hooks, none due; no optimizer step."""
    return make_runner(iterations, schedule, work_dir).train
