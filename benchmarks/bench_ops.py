"""The fused operations beside MMCV's way and the best of torch, on the CPU.

    python benchmarks/bench_ops.py [--rounds 31] [--threads 2] [--cold] [--results FOLDER]

All sides work on the same tensors and take turns in each round; a figure is the median over the
rounds. With --cold a large array is written before each turn, so that it begins with cold caches,
as after a backward pass. Backward and zero_grad belong to no side. MMCV's way is the loop of torch
calls that its hooks make; torch's are its fused and its foreach optimizers, each with its clipping
and a foreach average.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from hookrun._native import cpu
from hookrun.ops import FusedStep, ema_update_, grad_norm, swap_

MOMENTUM = 2e-4  # of the averages
MAX_NORM = 1.0

Side = Callable[[], Any]


def resnet50() -> list[tuple[int, ...]]:
    """The 161 parameters of torchvision's ResNet-50, 25.6 million elements."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, inputs, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, inputs, 1, 1), (4 * width,), (4 * width,)]
            inputs = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


MODELS = {"resnet50": resnet50, "2000 x 512": lambda: [(512,)] * 2000}


class Data:
    """Parameters with gradients, averages, and something that empties the caches."""

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        torch.manual_seed(0)
        self.params = [Parameter(torch.randn(shape) * 0.01) for shape in shapes]
        for param in self.params:
            param.grad = torch.randn_like(param) * 0.01
        self.grads: list[Tensor] = [p.grad for p in self.params if p.grad is not None]
        self.ema = [p.detach().clone() for p in self.params]
        self.numel = sum(p.numel() for p in self.params)
        self.cold = torch.zeros(16_000_000)


def mmcv_ema(data: Data) -> None:
    for average, param in zip(data.ema, data.params, strict=True):
        average.mul_(1 - MOMENTUM).add_(param.data, alpha=MOMENTUM)


def mmcv_swap(data: Data) -> None:
    for average, param in zip(data.ema, data.params, strict=True):
        kept = param.data.clone()
        param.data.copy_(average)
        average.copy_(kept)


def norm_sides(data: Data) -> dict[str, Side]:
    return {
        "ours": lambda: grad_norm(data.grads),
        "torch get_total_norm": lambda: torch.nn.utils.get_total_norm(data.grads),
    }


def ema_sides(data: Data) -> dict[str, Side]:
    return {
        "ours": lambda: ema_update_(data.ema, data.params, MOMENTUM),
        "torch foreach": lambda: torch._foreach_lerp_(data.ema, data.params, MOMENTUM),
        "mmcv": lambda: mmcv_ema(data),
    }


def swap_sides(data: Data) -> dict[str, Side]:
    return {"ours": lambda: swap_(data.ema, data.params), "mmcv": lambda: mmcv_swap(data)}


def phase_sides(data: Data, kind: type, **options: Any) -> dict[str, Side]:
    """Clip, step, average; each side has an optimizer of its own."""
    fused = FusedStep(
        kind(data.params, **options),
        grad_clip={"max_norm": MAX_NORM},
        ema=data.ema,
        ema_momentum=MOMENTUM,
    )

    def mmcv() -> Side:
        optimizer = kind(data.params, **options)

        def run() -> None:
            clip_grad_norm_(data.params, MAX_NORM)
            optimizer.step()
            mmcv_ema(data)

        return run

    def torchs(**how: bool) -> Side:
        optimizer = kind(data.params, **options, **how)

        def run() -> None:
            clip_grad_norm_(data.params, MAX_NORM)
            optimizer.step()
            torch._foreach_lerp_(data.ema, data.params, MOMENTUM)

        return run

    return {
        "ours": fused.step,
        "mmcv": mmcv(),
        "torch fused": torchs(fused=True),
        "torch foreach": torchs(foreach=True),
    }


# Bytes that ours moves per element, and the figures of each operation.
OPS: dict[str, tuple[int, Callable[[Data], dict[str, Side]]]] = {
    "norm": (4, norm_sides),
    "ema": (12, ema_sides),
    "swap": (16, swap_sides),
    "sgd phase": (
        32,
        lambda d: phase_sides(d, torch.optim.SGD, lr=1e-5, momentum=0.9, weight_decay=1e-4),
    ),
    "adamw phase": (40, lambda d: phase_sides(d, torch.optim.AdamW, lr=1e-6)),
}


@torch.no_grad()
def measure(data: Data, sides: dict[str, Side], rounds: int, cold: bool) -> dict[str, float]:
    """Median milliseconds of each side."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):  # two to warm up
        for name, run in sides.items():
            if cold:
                data.cold.add_(1)
            start = time.perf_counter()
            run()
            if number >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def copy_bandwidth(rounds: int) -> float:
    """GB/s that a plain torch copy of 200 MB reads and writes."""
    source = torch.ones(50_000_000)
    target = torch.empty_like(source)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - start)
    return 2 * source.numel() * 4 / statistics.median(times) / 1e9


def norm_error(data: Data) -> dict[str, float]:
    """Relative error of the norm before its last rounding, and of torch's."""
    exact = math.sqrt(math.fsum(float(g.double().square().sum()) for g in data.grads))
    found = cpu.norm(data.grads, torch.get_num_threads())
    assert not isinstance(found, str)
    ours, _ = found
    torchs = float(torch.nn.utils.get_total_norm(data.grads))
    return {"ours": abs(ours / exact - 1), "torch": abs(torchs / exact - 1)}


def run(rounds: int, cold: bool) -> dict[str, Any]:
    bandwidth = copy_bandwidth(rounds)
    report: dict[str, Any] = {"copy_gb_per_s": bandwidth, "ops": {}}
    print(f"a torch copy moves {bandwidth:.1f} GB/s")
    for model, shapes in MODELS.items():
        for op, (bytes_per_element, make_sides) in OPS.items():
            data = Data(shapes())
            found = measure(data, make_sides(data), rounds, cold)
            rate = data.numel * bytes_per_element / found["ours"] / 1e6
            ratios = {k: v / found["ours"] for k, v in found.items() if k != "ours"}
            report["ops"][f"{op}, {model}"] = {
                "median_ms": found,
                "ratio": ratios,
                "ours_gb_per_s": rate,
                "share_of_copy": rate / bandwidth,
            }
            told = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios.items())
            print(f"{op}, {model}: {found['ours']:.2f} ms, {rate:.1f} GB/s; {told}", flush=True)
        report["ops"][f"norm, {model}"]["relative_error"] = norm_error(Data(shapes()))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cold", action="store_true", help="empty the caches before each turn")
    parser.add_argument("--results", type=Path, help="folder to write a JSON file into")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    date = datetime.date.today().isoformat()
    report = {
        "machine": {"platform": platform.platform(), "isa": cpu.isa()},
        "torch": torch.__version__,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "cold_caches": arguments.cold,
        "date": date,
        **run(arguments.rounds, arguments.cold),
    }
    if arguments.results:
        arguments.results.mkdir(parents=True, exist_ok=True)
        path = arguments.results / f"ops-cpu-{date}.json"
        path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
