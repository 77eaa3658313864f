"""The phases (a), (b) and (c) on a GPU, beside MMCV's way and the best of torch.

    python benchmarks/bench_gpu.py [--rounds 30] [--models ResNet-50 ViT-L] [--results FOLDER]

`gpu.sh` runs it. All sides work on the same parameters and take turns in each round; a figure is
the median over the rounds. Per side:

- device: between two CUDA events, with the device kept busy beforehand so that the host is ahead; a
  side that makes the host wait in between cannot be ahead, and its waiting counts.
- busy: the sum of its kernels' and copies' times, by torch's profiler.
- wall: from an idle device until the device is idle again, by the host's clock.
- host: until the call returns, by the host's clock.
- wall, changed; host, changed: the same when each step has another learning rate and gradients at
  other addresses, as in training; the others repeat a step in which nothing has changed.
- launches: kernels, copies and fills, counted by the profiler.

Then whole iterations of ResNet-50 with forward and backward, by the host's clock, since there the
host often runs ahead of the device and hides what a phase costs it.

The floor is two Triton kernels that move the same bytes, and the same mix of reads and writes,
through flat arrays, each with the best of several sizes of block (`traffic.py`); beside it stands
the bandwidth of the device's own copy. Every model's arrays are larger than the caches of any GPU.

The results file is written after each part: a run that is cut off leaves what it had.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from iterations import Training
from phases import MODELS, PHASES, Data, Phase, Shapes, Side
from record import RESULTS, Record
from resnet import resnet50

OURS, MMCV, FUSED, FOREACH = "hookrun", "MMCV", "torch, fused", "torch, foreach"
BEST = "best of torch"
SLEEP = 30_000_000  # cycles, some 15 ms: longer than any side's host takes

# How many times hookrun's time the others take at least; hookrun's own limits.
RATIOS: dict[tuple[str, str, str], dict[str, float]] = {
    ("a", "ViT-L", "device"): {BEST: 1.7, MMCV: 3.0},
    ("b", "ViT-L", "device"): {BEST: 1.3, MMCV: 2.2},
    ("c", "ViT-L", "device"): {BEST: 1.25, MMCV: 2.2},
    **{(phase, "ResNet-50", "wall"): {BEST: 3.0, MMCV: 5.0} for phase in "abc"},
}
HOST_MS, LAUNCHES, SHARE = 0.060, 4, 0.90

Times = dict[str, list[float]]
Clock = Callable[[Side], float]


def sides_of(phase: Phase, data: Data) -> dict[str, Side]:
    return {
        OURS: phase.ours(data),
        FUSED: phase.torch(data, fused=True),
        FOREACH: phase.torch(data, foreach=True),
        MMCV: phase.mmcv(data),
    }


def on_gpu(data: Data) -> bool:
    return data.params[0].is_cuda


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def wall_ms(side: Side) -> float:
    wait()
    start = time.perf_counter()
    side()
    wait()
    return 1e3 * (time.perf_counter() - start)


def host_ms(side: Side) -> float:
    wait()
    start = time.perf_counter()
    side()
    taken = 1e3 * (time.perf_counter() - start)
    wait()
    return taken


def device_ms(side: Side) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    wait()
    torch.cuda._sleep(SLEEP)
    begin.record()
    side()
    end.record()
    wait()
    return begin.elapsed_time(end)


def changed(clock: Clock, data: Data) -> Clock:
    """The clock, when the learning rate and the gradients' addresses change before each call."""

    def take(side: Side) -> float:
        data.change()
        return clock(side)

    return take


def kernels_of(side: Side) -> list[tuple[str, float]]:
    """Name and milliseconds of all that one call runs on the device; annotations do not run."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    wait()
    with torch.profiler.profile(activities=activities) as profile:
        side()
        wait()
    return [
        (event.name, event.time_range.elapsed_us() / 1e3)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]


def measure(sides: dict[str, Side], rounds: int, clocks: dict[str, Clock]) -> Any:
    """Samples of each clock for each side: ``samples[clock][side]``."""
    samples: dict[str, Times] = {clock: {name: [] for name in sides} for clock in clocks}
    for number in range(rounds + 2):  # two to warm up
        for name, side in sides.items():
            for clock, take in clocks.items():
                taken = take(side)
                if number >= 2:
                    samples[clock][name].append(taken)
    return samples


def summed(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 5), "min": round(min(values), 5)}


def figure_of(
    name: str,
    model: str,
    shapes: Shapes,
    rounds: int,
    device: str,
    keep: Callable[[dict[str, Any]], None] = lambda figure: None,
) -> dict[str, Any]:
    """Measure one phase on one model's shapes; `keep` gets the figure after each of its parts."""
    phase = PHASES[name]
    data = phase.data(shapes, device)
    sides = sides_of(phase, data)
    clocks: dict[str, Clock] = {"wall": wall_ms, "host": host_ms}
    if on_gpu(data):
        clocks = {"device": device_ms, **clocks}
    clocks |= {f"{clock}, changed": changed(clocks[clock], data) for clock in ("wall", "host")}
    samples = measure(sides, rounds, clocks)
    systems: dict[str, dict[str, Any]] = {
        side: {clock: summed(samples[clock][side]) for clock in clocks} for side in sides
    }
    for clock in clocks:
        ours = systems[OURS][clock]["median"]
        for system in systems.values():
            system[clock][f"times_{OURS}"] = round(system[clock]["median"] / ours, 4)
    figure = {
        "title": f"{phase.title}, {model}",
        "unit": "ms",
        "rounds": rounds,
        "elements": data.numel,
        "bytes_per_element": phase.bytes,
        "subject": OURS,
        "systems": systems,
    }
    figure["targets"] = judged(name, model, figure)
    keep(figure)
    if on_gpu(data):
        add_counts(figure, sides)
        figure["targets"] = judged(name, model, figure)
        keep(figure)
    del sides, data, clocks
    add_floor(figure, phase, rounds, device)
    figure["targets"] = judged(name, model, figure)
    keep(figure)
    return figure


def iteration_of(name: str, training: Training, rounds: int, iterations: int = 5) -> dict[str, Any]:
    """Measure whole iterations, and forward and backward alone, in turns."""
    phase = PHASES[name]
    sides = {"forward and backward alone": lambda: None, **sides_of(phase, training.data)}
    runs = {side: training.iterations(run, iterations) for side, run in sides.items()}
    samples = measure(runs, rounds, {"wall": wall_ms})["wall"]
    systems: dict[str, dict[str, Any]] = {
        side: {"wall": summed([ms / iterations for ms in taken])} for side, taken in samples.items()
    }
    ours = systems[OURS]["wall"]["median"]
    for system in systems.values():
        system["wall"][f"times_{OURS}"] = round(system["wall"]["median"] / ours, 4)
    return {
        "title": f"A whole iteration with {phase.title}, ResNet-50",
        "unit": "ms per iteration",
        "rounds": rounds,
        "subject": OURS,
        "systems": systems,
        "targets": [],
    }


def add_counts(figure: dict[str, Any], sides: dict[str, Side]) -> None:
    """What ran on the device, by the profiler: medians of five calls."""
    for name, side in sides.items():
        calls = [kernels_of(side) for _ in range(5)]
        system = figure["systems"][name]
        system["launches"] = max(map(len, calls))
        system["busy"] = summed([sum(ms for _, ms in call) for call in calls])
        if name == OURS:
            names = {
                "_norm": "pass 1",
                "_finalise": "decision",
                "_adam": "pass 2",
                "_sgd": "pass 2",
            }
            parts: Times = {}
            for call in calls:
                for kernel, ms in call:
                    parts.setdefault(names.get(kernel, kernel), []).append(ms)
            figure["parts"] = {part: summed(values) for part, values in parts.items()}


def add_floor(figure: dict[str, Any], phase: Phase, rounds: int, device: str) -> None:
    """The same bytes moved by two kernels, the device's own copy, and what hookrun reaches."""
    from traffic import copying, passes

    arrays = 4 if phase.optimizer is torch.optim.AdamW else 3
    grad = torch.float16 if phase.half else torch.float32
    elements = figure["elements"] // 16 * 16
    clock = "device" if device == "cuda" else "wall"
    take = device_ms if device == "cuda" else wall_ms
    floor: dict[str, Any] = {
        "is": "the same reads and writes by two plain kernels over flat arrays, the best of several"
        " sizes of block each"
    }
    total = 0.0
    for part, moves in zip(
        ("pass 1", "pass 2"), passes(elements, arrays, grad, device), strict=True
    ):
        found = {
            blocks: summed(taken)
            for blocks, taken in measure(moves, rounds, {clock: take})[clock].items()
        }
        best = min(found, key=lambda blocks: found[blocks]["median"])
        floor[part] = {**found[best], "blocks": best, "of": sorted(moves)}
        if device == "cuda":  # as hookrun's own parts are timed
            calls = [kernels_of(moves[best]) for _ in range(5)]
            floor[part]["busy"] = summed([sum(ms for _, ms in call) for call in calls])
        total += found[best]["median"]
    copied = measure({"copy": copying(elements, device)}, rounds, {clock: take})[clock]["copy"]
    copy_rate = 8 * elements / statistics.median(copied) / 1e6
    moved = phase.bytes * figure["elements"]
    figure["floor"] = {
        **floor,
        "median": round(total, 5),
        "gb_per_s": round(moved / total / 1e6, 1),
        "share_of_copy": round(moved / total / 1e6 / copy_rate, 4),
    }
    ours = figure["systems"][OURS][clock]["median"]
    figure["copy_gb_per_s"] = round(copy_rate, 1)
    figure["gb_per_s"] = round(moved / ours / 1e6, 1)
    figure["share_of_copy"] = round(moved / ours / 1e6 / copy_rate, 4)
    figure["share_of_floor"] = round(total / ours, 4)
    if "parts" in figure:
        figure["share_of_floor_per_pass"] = {
            part: round(floor[part]["busy"]["median"] / figure["parts"][part]["median"], 4)
            for part in ("pass 1", "pass 2")
            if part in figure["parts"] and "busy" in floor[part]
        }


def judged(name: str, model: str, figure: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised of this figure, and whether it was met."""
    systems = figure["systems"]
    promises = []
    for (phase, of, clock), ratios in RATIOS.items():
        if (phase, of) != (name, model) or clock not in systems[OURS]:
            continue
        for peer, at_least in ratios.items():
            names = (FUSED, FOREACH) if peer == BEST else (peer,)
            measured = min(systems[n][clock][f"times_{OURS}"] for n in names)
            promises.append(promise(f"{peer}, {clock}", measured, at_least=at_least))
    if "launches" in systems[OURS]:
        promises.append(promise("launches", systems[OURS]["launches"], at_most=LAUNCHES))
        for clock in ("host", "host, changed"):
            promises.append(promise(clock, systems[OURS][clock]["median"], at_most=HOST_MS))
    if model == "ViT-L":
        for part, share in figure.get("share_of_floor_per_pass", {}).items():
            promises.append(promise(f"share of the floor, {part}", share, at_least=SHARE))
    return promises


def promise(what: str, measured: float, **bound: float) -> dict[str, Any]:
    met = measured >= bound["at_least"] if "at_least" in bound else measured <= bound["at_most"]
    return {"of": what, **bound, "measured": measured, "met": met}


def gpu() -> dict[str, Any]:
    """What the figures are measured on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def _driver() -> str | None:
    import subprocess

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.split("\n")[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", nargs="+", default=["ResNet-50", "ViT-L"], choices=MODELS)
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES)
    parser.add_argument("--batch", type=int, default=32, help="images of a whole iteration")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_gpu.py measures on a CUDA device, and torch finds none")
    record = Record(arguments.results, gpu())
    for model in arguments.models:
        for name in arguments.phases:
            keep = partial(record.add, f"gpu/phase {name}/{model}")
            figure = figure_of(name, model, MODELS[model](), arguments.rounds, "cuda", keep)
            torch.cuda.empty_cache()
            print(figure["title"], figure["systems"], figure["targets"], sep="\n  ", flush=True)
    for name in arguments.phases:
        training = Training(PHASES[name], resnet50(), arguments.batch, 224, "cuda")
        figure = iteration_of(name, training, min(arguments.rounds, 10))
        del training
        record.add(f"gpu/iteration {name}/ResNet-50", figure)
        torch.cuda.empty_cache()
        print(figure["title"], figure["systems"], sep="\n  ", flush=True)
    print(f"written to {record.path}")


if __name__ == "__main__":
    main()
