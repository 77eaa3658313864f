"""What a schedule costs per training iteration: a run with its hook minus the same run without.

    python benchmarks/bench_schedules.py [--mmcv SITE_PACKAGES]

The step does nothing, the optimizer has two parameter groups. Runs with and without the hook take
turns, and each figure is the median of the differences between neighbours. MMCV runs in the same
process where it can be imported; ``--mmcv`` names a site-packages folder to search for it too. The
figures go to benchmarks/results/schedules-DATE.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import logging
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import hookrun

ROOT = Path(__file__).parents[1]
WARM_UP = {"warmup": "linear", "warmup_iters": 500, "warmup_ratio": 0.01}
COSINE = {"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False, **WARM_UP}
BY_EPOCH = {"policy": "step", "step": [8, 11]}
TARGET_NS = 120


class OverriddenLrUpdaterHook(hookrun.CosineAnnealingLrUpdaterHook):
    """Takes the Python way, as every subclass with a formula of its own."""

    def get_lr(self, runner: Any, base_lr: float) -> float:
        return super().get_lr(runner, base_lr)


hookrun.HOOKS.register_module(module=OverriddenLrUpdaterHook)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.outputs = {"loss": 0.0}

    def train_step(self, data_batch: Any, optimizer: Any, **kwargs: Any) -> dict[str, Any]:
        return self.outputs

    val_step = train_step


def quiet_logger() -> logging.Logger:
    logger = logging.getLogger("bench_schedules")
    logger.setLevel(logging.CRITICAL)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def seconds_of_run(
    runner_type: Any, iterations: int, configs: dict[str, Any], work_dir: str
) -> float:
    model = Model()
    groups = [
        {"params": model.first.parameters()},
        {"params": model.second.parameters(), "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    runner = runner_type(
        model, optimizer=optimizer, work_dir=work_dir, logger=quiet_logger(), max_epochs=1
    )
    if "lr" in configs:
        runner.register_lr_hook(dict(configs["lr"]))
    if "momentum" in configs:
        runner.register_momentum_hook(dict(configs["momentum"]))
    loader = range(iterations)
    start = time.perf_counter()
    runner.run([loader], [("train", 1)])
    return time.perf_counter() - start


def cost_ns(
    run: Callable[[dict[str, Any]], float], iterations: int, configs: dict[str, Any], repeats: int
) -> dict[str, float]:
    """Median and quartiles of the difference per iteration, in nanoseconds."""
    run({}), run(configs)
    differences = [run(configs) - run({}) for _ in range(repeats)]
    quartiles = statistics.quantiles([each / iterations * 1e9 for each in differences], n=4)
    return dict(zip(("lower_quartile", "median", "upper_quartile"), quartiles, strict=True))


def import_mmcv(site_packages: str | None) -> Any:
    """MMCV's runner module, or None."""
    if site_packages is not None:
        sys.path.append(site_packages)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("mmcv.runner")
    except ImportError:
        return None


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names) or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hookrun": hookrun.__version__,
        "commit": commit.stdout.strip() or None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mmcv", metavar="SITE_PACKAGES", help="where MMCV 1.7.2 is installed")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()

    def ours(iterations: int) -> Callable[[dict[str, Any]], float]:
        return lambda configs: seconds_of_run(
            hookrun.EpochBasedRunner, iterations, configs, "/tmp/bench_schedules"
        )

    cases = {
        "cosine by iteration, warm-up, two groups": {"lr": COSINE},
        "the same for the momentum": {
            "momentum": {"policy": "CosineAnnealing", "min_momentum": 0.5, "by_epoch": False}
        },
        "step by epoch, no warm-up": {"lr": BY_EPOCH},
        "the cosine, get_lr overridden in Python": {"lr": {**COSINE, "policy": "Overridden"}},
    }
    figures: dict[str, Any] = {}
    for name, configs in cases.items():
        figures[name] = cost_ns(
            ours(options.iterations), options.iterations, configs, options.repeats
        )
    mmcv = import_mmcv(options.mmcv)
    if mmcv is not None:
        time.sleep = lambda seconds: None  # MMCV sleeps two seconds per epoch
        iterations = options.iterations // 10
        figures["MMCV: cosine by iteration, warm-up, two groups"] = cost_ns(
            lambda configs: seconds_of_run(
                mmcv.EpochBasedRunner, iterations, configs, "/tmp/bench_schedules"
            ),
            iterations,
            {"lr": COSINE},
            options.repeats,
        )
    first = figures["cosine by iteration, warm-up, two groups"]["median"]
    for name, figure in figures.items():
        spread = f"({figure['lower_quartile']:.0f} to {figure['upper_quartile']:.0f})"
        print(f"{name:<50} {figure['median']:8.1f} ns {spread}")
    print(f"target for the first: {TARGET_NS} ns: {'met' if first <= TARGET_NS else 'MISSED'}")
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "unit": "ns per iteration above the run without the hook",
        "iterations": options.iterations,
        "repeats": options.repeats,
        "target_ns": TARGET_NS,
        "figures": figures,
    }
    if mmcv is not None:
        peer = figures["MMCV: cosine by iteration, warm-up, two groups"]["median"]
        result["mmcv_version"] = importlib.import_module("mmcv").__version__
        result["mmcv_over_hookrun"] = peer / first
        print(f"MMCV takes {peer / first:.0f} times as long")
    if not options.no_save:
        path = ROOT / "benchmarks" / "results" / f"schedules-{result['date']}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(path.relative_to(ROOT))
    return 0 if first <= TARGET_NS else 1


if __name__ == "__main__":
    sys.exit(main())
