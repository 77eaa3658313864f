"""Train a small convolutional network on scikit-learn's handwritten digits.

1,797 real images of 8 x 8 pixels come with scikit-learn, so nothing is downloaded:

    python examples/digits.py                 # 20 epochs, on the GPU if there is one
    python examples/digits.py --resume auto   # go on from the last checkpoint
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hookrun import EMAHook, EpochBasedRunner, EvalHook, ProgressBarHook, TrainStep

SEED = 0
TEST_IMAGES = 360


def make_datasets() -> tuple[TensorDataset, TensorDataset]:
    """The training and the held-out images, split the same way every time."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    train, test = order[TEST_IMAGES:], order[:TEST_IMAGES]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def make_network() -> nn.Module:
    """Two convolutions and a linear layer: about 20,000 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy and mean loss over the whole test set."""
    return {
        "accuracy": (outputs.argmax(1) == targets).float().mean().item(),
        "test_loss": F.cross_entropy(outputs, targets).item(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work-dir", default="work_dirs/digits")
    parser.add_argument("--resume", metavar="FILE", help="a checkpoint, or 'auto' for the newest")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(SEED)
    train_set, test_set = make_datasets()
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=256)

    model = TrainStep(make_network().to(arguments.device), F.cross_entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    runner = EpochBasedRunner(
        model,
        optimizer=optimizer,
        work_dir=arguments.work_dir,
        meta={"exp_name": "digits", "seed": SEED},
        max_epochs=arguments.epochs,
    )
    runner.register_training_hooks(
        lr_config={
            "policy": "CosineAnnealing",
            "min_lr": 0.0,
            "by_epoch": False,
            "warmup": "linear",
            "warmup_iters": 50,
        },
        optimizer_config={"grad_clip": {"max_norm": 5.0}},
        checkpoint_config={"interval": 1, "max_keep_ckpts": 2},
        log_config={"interval": 10, "hooks": [{"type": "TextLoggerHook"}]},
    )
    # Between the optimizer, which it averages, and the checkpoints, which hold its averages.
    runner.register_hook(EMAHook(momentum=0.02, warm_up=10), priority=45)
    runner.register_hook(EvalHook(test_loader, save_best="accuracy", metrics=scores))
    runner.register_hook(ProgressBarHook(), priority="VERY_LOW")
    if arguments.resume:
        runner.resume(arguments.resume)

    start = time.perf_counter()
    runner.run([train_loader], [("train", 1)])
    seconds = time.perf_counter() - start

    best = runner.meta["hook_msgs"]
    summary = {
        "accuracy": round(best["best_score"], 4),  # of the best checkpoint
        "epochs": runner.epoch,
        "iterations": runner.iter,
        "seconds": round(seconds, 2),
        "device": arguments.device,
        "best_checkpoint": best["best_ckpt"],
    }
    path = Path(arguments.work_dir) / "summary.json"
    path.write_text(json.dumps(summary, indent=2) + "\n")

    table = Table(title="digits", show_header=False)
    for name, value in {**summary, "summary": path}.items():
        table.add_row(name, f"{value:.4f}" if name == "accuracy" else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
