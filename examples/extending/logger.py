"""A logger of your own: one line of a CSV file for each line of the log.

python examples/extending/logger.py
"""

from __future__ import annotations

import csv
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from hookrun import HOOKS, EpochBasedRunner, LoggerHook, TrainStep


@HOOKS.register_module()
class ColumnsLoggerHook(LoggerHook):
    """Writes mode, epoch, iteration and all that is logged to ``work_dir/log.csv``.

    When it is due, what there is to write and that its errors don't end the run is LoggerHook's.

    Args:
        columns: the names to write, such as ``train/loss``; the others are left out.
        kwargs: see `LoggerHook`.
    """

    def __init__(self, columns: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.columns = ("mode", "epoch", "iter", *columns)

    def log(self, runner: Any) -> None:
        path = Path(runner.work_dir) / "log.csv"
        line = {
            **self.get_loggable_tags(runner),
            "mode": self.get_mode(runner),
            "epoch": self.get_epoch(runner),
            "iter": self.get_iter(runner),
        }
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow(line)


def main(work_dir: str) -> Path:
    """Train a line on noise for two epochs; gives the file."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    data = torch.utils.data.TensorDataset(torch.randn(80, 8), torch.randn(80, 1))
    runner = EpochBasedRunner(
        TrainStep(model, torch.nn.functional.mse_loss),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=work_dir,
        logger=logging.getLogger("extending"),
        max_epochs=2,
    )
    runner.register_training_hooks(
        lr_config={"policy": "step", "step": [1]},
        optimizer_config={"grad_clip": None},
        log_config={
            "interval": 5,
            "hooks": [{"type": "ColumnsLoggerHook", "columns": ("learning_rate", "train/loss")}],
        },
    )
    runner.run([torch.utils.data.DataLoader(data, 8)], [("train", 1)])
    return Path(work_dir) / "log.csv"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(main(folder).read_text())
