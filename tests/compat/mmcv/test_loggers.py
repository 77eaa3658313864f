"""Loggers of tools: subclasses use the client where MMCV's have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.mmcv_runs import ROOT, run_python
from tests.loggers.client_support import needs

RUN = """
import logging
from hookrun.compat.mmcv import install
install()
import torch
from mmcv.runner import HOOKS, EpochBasedRunner, master_only
from mmcv.runner.hooks import *
from tests.support import TinyModel, make_loader

def train(hook):
    logger = logging.getLogger("run")
    logger.addHandler(logging.StreamHandler())
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = EpochBasedRunner(model, optimizer=optimizer, work_dir=".", logger=logger, max_epochs=2)
    runner.register_training_hooks(dict(policy="fixed"), dict(), None, None)
    runner.register_hook(hook, "VERY_LOW")
    runner.run([make_loader(4)], [("train", 1)])
    assert hook.enabled
"""

CASES = {
    "tensorboard": """
class Own(HOOKS.get("TensorboardLoggerHook")):
    @master_only
    def log(self, runner):
        super().log(runner)
        self.writer.add_scalar("own", runner.iter, self.get_iter(runner))

    @master_only
    def after_run(self, runner):
        self.writer.add_text("end", "of the run")
        self.writer.close()

train(Own(interval=2))
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("tf_logs").Reload()
print([event.step for event in events.Scalars("own")], len(events.Scalars("train/loss")))
""",
    "wandb": """


class Own(HOOKS.get("WandbLoggerHook")):  # as MMDetWandbHook and its kin
    imported = 0

    def import_wandb(self):
        import wandb
        self.wandb = wandb
        self.imported += 1

    @master_only
    def before_run(self, runner):
        super().before_run(runner)
        self.wandb.config.update(dict(seed=3))
        self.table = self.wandb.Table(columns=["name"])

    @master_only
    def after_train_epoch(self, runner):
        super().after_train_epoch(runner)
        self.wandb.log({"own": runner.epoch}, commit=False)
        # Whatever was logged before is there already.
        steps.append(self.wandb.run.step)

    @master_only
    def after_run(self, runner):
        assert self.wandb.run.config["seed"] == 3
        self.wandb.finish()

steps = []
hook = Own(interval=2, init_kwargs=dict(mode="offline"))
train(hook)
print(steps, hook.imported)
""",
    "mlflow": """
class Own(HOOKS.get("MlflowLoggerHook")):
    @master_only
    def log(self, runner):
        super().log(runner)
        self.mlflow.log_metric("own", runner.iter, step=self.get_iter(runner))

    @master_only
    def after_run(self, runner):
        super().after_run(runner)
        self.mlflow.set_tag("end", "seen")
        assert self.mlflow_pytorch.log_model

train(Own(interval=2, log_model=False, tracking_uri="sqlite:///runs.db"))
import mlflow
[found] = mlflow.search_runs(output_format="list")
metrics = mlflow.MlflowClient().get_metric_history(found.info.run_id, "own")
print([each.step for each in metrics], found.data.tags["end"], found.info.status)
""",
    "dvclive": """
class Own(HOOKS.get("DvcliveLoggerHook")):
    @master_only
    def log(self, runner):
        super().log(runner)
        self.dvclive.log_param(f"at {runner.iter}", runner.epoch)

train(Own(interval=2, save_dvc_exp=False))
import yaml
print(yaml.safe_load(open("dvclive/params.yaml")))
""",
    "neptune": """
class Own(HOOKS.get("NeptuneLoggerHook")):
    @master_only
    def before_run(self, runner):
        self.run = self.neptune.init_run(mode="offline")

    @master_only
    def log(self, runner):
        super().log(runner)
        steps.append(self.get_iter(runner))
        self.run["own"].append(runner.iter)

    @master_only
    def after_run(self, runner):
        self.run.stop()

steps = []
train(Own(interval=2))
print(steps)
""",
}
EXPECTED = {
    "tensorboard": "[2, 4, 6, 8] 4",
    "wandb": "[4, 8] 1",
    "mlflow": "[2, 4, 6, 8] seen FINISHED",
    "dvclive": "{'at 1': 0, 'at 3': 0, 'at 5': 1, 'at 7': 1}",
    "neptune": "[2, 4, 6, 8]",
}
LONG = ("mlflow", "dvclive", "neptune")


@pytest.mark.parametrize(
    "client",
    [
        pytest.param(name, marks=[needs(name), *([pytest.mark.long] if name in LONG else [])])
        for name in CASES
    ],
)
def test_subclasses_use_the_client(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "NEPTUNE_MODE"):
        monkeypatch.setenv(name, "offline")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{RUN}{CASES[client]}"
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == EXPECTED[client], done.stderr
    assert "failed and is disabled" not in done.stderr
