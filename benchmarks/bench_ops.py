"""The fused operations beside MMCV's way and the best of torch, on the CPU.

Claims, with torch's default threads, at the size of ResNet-50 and ViT-L, where memory is the
limit: see SHARES. Ratios to MMCV and torch are reported, not promised: all wait for the same
memory.

Floor. Memory: every byte is read or written once, as fast as a plain torch operation over one flat
tensor moves as many bytes: ``lerp_`` where some are written, ``sum`` where all are read. So what a
side is above the floor is instructions, calls and bytes that it moves twice. The figures hold the
bandwidth (GB/s, of the bytes that hookrun needs) and the relative error of the norm.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from comparison import Comparison, Target
from hookrun._native import cpu
from hookrun.ops import convert_, ema_update_, grad_norm, swap_
from phases import MODELS, MOMENTUM, PHASES, Data, Side, mmcv_ema, mmcv_swap, torch_ema
from timing import Case, race

OURS, MMCV, FUSED, FOREACH = "hookrun", "MMCV", "torch, fused", "torch, foreach"
FLOOR = "as many bytes in one flat tensor"

# How much of hookrun's time is the floor at least, where memory is the limit.
SHARES = {"norm": 0.85, "ema": 0.9, "swap": 0.9, "convert": 0.9, "a": 0.9, "b": 0.9, "c": 0.9}
LIMITED_BY_MEMORY = ("ResNet-50", "ViT-L")


def norm_sides(data: Data) -> dict[str, Side]:
    return {
        OURS: lambda: grad_norm(data.grads),
        FOREACH: lambda: torch.nn.utils.get_total_norm(data.grads),
    }


def ema_sides(data: Data) -> dict[str, Side]:
    return {
        OURS: lambda: ema_update_(data.ema, data.params, MOMENTUM),
        FOREACH: lambda: torch_ema(data),
        MMCV: lambda: mmcv_ema(data),
    }


def swap_sides(data: Data) -> dict[str, Side]:
    return {OURS: lambda: swap_(data.ema, data.params), MMCV: lambda: mmcv_swap(data)}


def convert_sides(data: Data) -> dict[str, Side]:
    copies = [param.detach().half() for param in data.params]
    masters = [param.detach() for param in data.params]

    def one_by_one() -> None:
        for copy, master in zip(copies, masters, strict=True):
            copy.data.copy_(master.data)

    return {
        OURS: lambda: convert_(copies, masters),
        FOREACH: lambda: torch._foreach_copy_(copies, masters),
        MMCV: one_by_one,
    }


# Title, bytes per element that hookrun moves, and the sides.
OPS: dict[str, tuple[str, int, Callable[[Data], dict[str, Side]]]] = {
    "norm": ("Norm", 4, norm_sides),
    "ema": ("EMA update", 12, ema_sides),
    "swap": ("EMA swap", 16, swap_sides),
    "convert": ("fp32 masters into an fp16 model", 6, convert_sides),
}


def phase_sides(name: str, data: Data, model: str) -> dict[str, Side]:
    phase = PHASES[name]
    sides = {OURS: phase.ours(data), MMCV: phase.mmcv(data), FUSED: phase.torch(data, fused=True)}
    if model != "ViT-L":  # its temporaries do not fit beside the others' states
        sides[FOREACH] = phase.torch(data, foreach=True)
    return sides


@torch.no_grad()
def flat(total: int, written: bool) -> Side:
    """One operation after the other over flat tensors, until so many bytes are moved."""
    per_element = 12 if written else 4
    elements = total // per_element
    block = min(elements, 50_000_000)
    a, b = torch.zeros(block), torch.ones(block if written else 1)

    def run() -> None:
        for begin in range(0, elements, block):
            size = min(block, elements - begin)
            if written:
                a[:size].lerp_(b[:size], 0.5)
            else:
                a[:size].sum()

    return run


def once(side: Side) -> Case:
    return Case(lambda calls: lambda: [side() for _ in range(calls)], 1)


def compare(
    benchmark: Any,
    rounds: int,
    op: str,
    model: str,
    title: str,
    sides: dict[str, Side],
    total: int,
) -> dict[str, Any]:
    cases = {name: once(side) for name, side in sides.items()}
    cases[FLOOR] = once(flat(total, written=op != "norm"))
    samples = race(benchmark, cases, rounds, time.perf_counter)
    targets = (Target(OURS, round(1 / SHARES[op], 3)),) if model in LIMITED_BY_MEMORY else ()
    figure = Comparison(
        title=f"{title}, {model}",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor=FLOOR,
        floor_is="the bytes that hookrun needs, moved by one plain torch operation",
        subject=OURS,
        targets=targets,
        counts_calls=False,
    ).figure(samples, cases, {})
    figure["threads"] = torch.get_num_threads()
    figure["isa"] = cpu.isa()
    figure["gb_per_s"] = round(total / figure["systems"][OURS]["median"] / 1e6, 2)
    return figure


def skip_if_too_large(model: str) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if model == "ViT-L" and memory < 22e9:
        pytest.skip("needs 22 GB of memory")


def norm_error(data: Data) -> dict[str, float]:
    """Relative error of the norm before its last rounding, and of torch's."""
    exact = math.sqrt(math.fsum(float(g.double().square().sum()) for g in data.grads))
    found = cpu.norm(data.grads, torch.get_num_threads())
    assert not isinstance(found, str)
    torchs = float(torch.nn.utils.get_total_norm(data.grads))
    return {"hookrun": abs(found[0] / exact - 1), "torch": abs(torchs / exact - 1)}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("op", OPS)
def bench_op(benchmark, rounds, record, op, model):
    title, bytes_per_element, make_sides = OPS[op]
    skip_if_too_large(model)
    data = Data(MODELS[model]())
    total = bytes_per_element * data.numel
    figure = compare(benchmark, rounds, op, model, title, make_sides(data), total)
    if op == "norm":
        figure["relative_error"] = norm_error(data)
    record.add(f"ops/{op}/{model}", figure)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("phase", PHASES)
def bench_phase(benchmark, rounds, record, phase, model):
    skip_if_too_large(model)
    data = PHASES[phase].data(MODELS[model]())
    sides = phase_sides(phase, data, model)
    total = PHASES[phase].bytes * data.numel
    figure = compare(benchmark, rounds, phase, model, PHASES[phase].title, sides, total)
    record.add(f"ops/phase {phase}/{model}", figure)
