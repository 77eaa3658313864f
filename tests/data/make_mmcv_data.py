"""Makes the files beside it with MMCV 1.7.2, which does not run beside a recent torch:

    MMCV_PYTHON tests/data/make_mmcv_data.py

* ``mmcv_ema.json``: weights, EMA buffers and the batches of 30 steps of EpochBasedRunner;
* ``mmcv_epoch_2.pth``: the checkpoint of the second epoch of the same run;
* ``mmcv_text_log.json``: what TextLoggerHook prints and writes in a run of each runner.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.runner import EpochBasedRunner, IterBasedRunner
from mmcv.runner.hooks import EMAHook, EvalHook, Hook
from torch import nn

HERE = Path(__file__).parent
EPOCHS, BATCHES = 3, 10
MOMENTUM, WARM_UP, LR = 0.05, 7, 0.1


class Model(nn.Module):
    """The linear model of tests/support.py, without its helpers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def train_step(self, data_batch: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        loss = (self.fc(data_batch["x"]) - data_batch["y"]).square().mean()
        return {"loss": loss, "log_vars": {"loss": loss.item()}, "num_samples": 2}


class Loader:
    """Ten batches of two points."""

    def __init__(self, xs: torch.Tensor) -> None:
        self.xs = xs
        self.sampler = None

    def __len__(self) -> int:
        return len(self.xs)

    def __iter__(self) -> Any:
        return iter({"x": x, "y": x.sum(1, keepdim=True)} for x in self.xs)


class Watch(EMAHook):
    """MMCV's EMAHook that notes weights and averages after each of its updates."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.steps: list[dict[str, list[float]]] = []

    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)
        state = runner.model.state_dict()
        self.steps.append({name: value.flatten().tolist() for name, value in state.items()})


class Steady(Model):
    """Whose loss is 0.5 and accuracy 75."""

    def train_step(self, data_batch: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        return {"log_vars": {"loss": 0.5, "acc": 75}, "num_samples": 2}

    val_step = train_step

    def forward(self, x: torch.Tensor, return_loss: bool = True) -> torch.Tensor:
        return self.fc(x)


class Scored(torch.utils.data.Dataset):
    """Six points whose evaluation gives a number and a text."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(2)}

    def evaluate(self, results: Any, logger: Any = None) -> dict[str, Any]:
        return {"acc": 0.25, "note": "fine"}


class Seconds(Hook):
    """A timer whose iterations take a quarter of a second each."""

    def after_train_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": 0.125, "time": 0.25})


class Keep(logging.Handler):
    """Keeps messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def text_log(by_epoch: bool) -> dict[str, Any]:
    """The lines for people and for programs of eight iterations with two evaluations."""
    model = Steady()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    logger, keep = logging.getLogger(f"text{by_epoch}"), Keep()
    logger.setLevel(logging.INFO)
    logger.addHandler(keep)
    loader = torch.utils.data.DataLoader(Scored(), batch_size=2)
    with tempfile.TemporaryDirectory() as work_dir:
        kind, limit = (
            (EpochBasedRunner, "max_epochs") if by_epoch else (IterBasedRunner, "max_iters")
        )
        runner = kind(
            model,
            optimizer=optimizer,
            work_dir=work_dir,
            logger=logger,
            meta={"exp_name": "try", "seed": 3},
            **{limit: 2 if by_epoch else 8},
        )
        runner.register_timer_hook(Seconds())
        runner.register_hook(EvalHook(loader, interval=1 if by_epoch else 4, by_epoch=by_epoch))
        config = {"type": "TextLoggerHook", "interval_exp_name": 6, "by_epoch": by_epoch}
        runner.register_logger_hooks({"interval": 2, "hooks": [config]})
        runner.run([Loader(torch.zeros(4, 2, 2))], [("train", 1)])
        (path,) = Path(work_dir).glob("*.log.json")
        written = [json.loads(line) for line in path.read_text().splitlines()]
    heads = ("Epoch", "Iter", "Exp")
    return {"printed": [m for m in keep.messages if m.startswith(heads)], "written": written}


def main() -> None:
    torch.cuda.is_available = lambda: False  # the lines have no memory
    logs = {"by_epoch": text_log(True), "by_iter": text_log(False)}
    (HERE / "mmcv_text_log.json").write_text(json.dumps(logs, indent=1) + "\n")

    torch.manual_seed(0)
    model = Model()
    start = {name: value.flatten().tolist() for name, value in model.state_dict().items()}
    xs = torch.randn(BATCHES, 2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    logger = logging.getLogger("quiet")
    logger.setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as work_dir:
        runner = EpochBasedRunner(
            model,
            optimizer=optimizer,
            work_dir=work_dir,
            logger=logger,
            max_epochs=EPOCHS,
            meta={"seed": np.int64(3), "hook_msgs": {"best_score": np.float32(0.5)}},
        )
        ema = Watch(momentum=MOMENTUM, warm_up=WARM_UP)
        runner.register_optimizer_hook({"grad_clip": None})
        runner.register_hook(ema)
        runner.register_checkpoint_hook({"interval": 1})
        runner.run([Loader(xs)], [("train", 1)])
        shutil.copy(Path(work_dir) / "epoch_2.pth", HERE / "mmcv_epoch_2.pth")
    data = {
        "start": start,
        "xs": xs.tolist(),
        "momentum": MOMENTUM,
        "warm_up": WARM_UP,
        "lr": LR,
        "epochs": EPOCHS,
        "steps": ema.steps,
    }
    (HERE / "mmcv_ema.json").write_text(json.dumps(data) + "\n")


if __name__ == "__main__":
    sys.exit(main())
