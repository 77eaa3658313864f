"""Makes the files beside it with MMCV 1.7.2: run it with a Python that has mmcv==1.7.2 and torch.

events.json: the events that MMCV's runners fire, with (epoch, iter, inner_iter) at each.
hook_info.txt: what its get_hook_info() says of the usual hooks.
*.pth: checkpoints that its runners save.
"""

import json
import logging
import sys
import time
from pathlib import Path

time.sleep = lambda seconds: None

import torch  # noqa: E402
from mmcv.runner import EpochBasedRunner, Hook, IterBasedRunner, OptimizerHook  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from workflows import BY_EPOCH, BY_ITER, Model  # noqa: E402

LOGGER = logging.getLogger("mmcv-oracle")
LOGGER.setLevel(logging.ERROR)


class Recorder(Hook):
    def __init__(self):
        self.events = []


def add_event(name):
    def note(self, runner):
        self.events.append([name, runner.epoch, runner.iter, runner.inner_iter])

    setattr(Recorder, name, note)


for event in (*Hook.stages, "before_epoch", "after_epoch", "before_iter", "after_iter"):
    add_event(event)


def make_runner(kind, folder=None, **limits):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return kind(model, optimizer=optimizer, work_dir=folder, logger=LOGGER, **limits)


def loader(batches):
    return DataLoader(torch.arange(2.0 * batches)[:, None], batch_size=2)


def record(kind, workflow, batches, limits):
    runner = make_runner(kind, **limits)
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.run([loader(each) for each in batches], [tuple(phase) for phase in workflow])
    return recorder.events


def checkpoints():
    by_epoch = make_runner(EpochBasedRunner, str(HERE), max_epochs=2)
    by_epoch.meta = {"exp_name": "mmcv", "hook_msgs": {"best_score": 0.5}}
    by_epoch.register_hook(OptimizerHook(), priority=40)
    by_epoch.register_checkpoint_hook({"interval": 1})
    by_epoch.run([loader(4)], [("train", 1)])
    by_iter = make_runner(IterBasedRunner, str(HERE), max_iters=6)
    by_iter.register_hook(OptimizerHook(), priority=40)
    by_iter.register_checkpoint_hook({"interval": 5, "by_epoch": False})
    by_iter.run([loader(4)], [("train", 1)])
    (HERE / "latest.pth").unlink()


def hook_info(folder):
    runner = make_runner(EpochBasedRunner, folder, max_epochs=1)
    runner.register_training_hooks(
        {"policy": "step", "step": [2]},
        {"grad_clip": None},
        {"interval": 1},
        {"interval": 10, "hooks": [{"type": "TextLoggerHook"}]},
        custom_hooks_config=[
            {"type": "EMAHook", "priority": 49},
        ],
    )
    return runner.get_hook_info()


if __name__ == "__main__":
    events = {
        "epoch": [record(EpochBasedRunner, *case) for case in BY_EPOCH],
        "iter": [record(IterBasedRunner, *case) for case in BY_ITER],
    }
    lines = json.dumps(events).replace("]], [[", "]],\n[[").replace("], [", "],[")
    (HERE / "events.json").write_text(lines + "\n")
    checkpoints()
    (HERE / "hook_info.txt").write_text(hook_info(str(HERE)) + "\n")
