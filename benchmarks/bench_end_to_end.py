"""Whole training iterations: forward, backward and all that follows, under every system.

Claims: an iteration of torch's best practice, written by hand, takes at least 1.25 times as long
as hookrun's on an MLP of 6 tensors, at least 1.5 times on one of 162 small tensors, and never less
than hookrun's, on a ResNet-18-like CNN and a small GPT either; under both runners.

Work: AdamW, clipping by norm, averages of the weights after each update, a cosine learning rate by
iteration and the loss in a log every 50 iterations (10 with the CNN and the GPT); the same batches,
in a list; no checkpoint, no evaluation. Averages are each system's own: `EMAHook` in hookrun, MMCV
and MMEngine, `EMAHandler` in Ignite, `WeightAveraging` in Lightning. The Trainer has none: a
callback around torch's `AveragedModel`. All end with the same weights, which is checked first, and
with the same averages but for those that begin as the weights after the first update (MMEngine's
and Lightning's). Peers get the fused AdamW.

By hand: fused AdamW, foreach clipping, `_foreach_lerp_` for the averages, gradients set to None,
the learning rate written into the group, and a loss that is read where a line is written.

Floor. Forward and backward pass alone, over gradients that are set to None.

What is timed lies between two batches of a run, so that starts and ends of runs do not count. The
MLPs, which the host limits, run on one thread and are timed in processor time of the process; the
others on two, by the wall clock. `BENCH_THREADS=1` times all on one thread in processor time: for a
busy machine.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from comparison import Comparison, Target
from hookrun import BaseRunner, EMAHook, EpochBasedRunner, IterBasedRunner, TrainStep
from ours import LOGGER
from timing import Case, race
from training import (
    EMA_MOMENTUM,
    LEARNING_RATE,
    MAX_NORM,
    WORKS,
    TimedBatches,
    Training,
    Work,
)

BY_EPOCH, BY_ITER = "hookrun", "hookrun, by iteration"
BY_HAND, FLOOR = "torch, by hand", "forward and backward"
BEGIN_AFTER_FIRST = ("MMEngine", "Lightning")  # their averages
# Iterations until all are compared. Two ways to round a norm are soon far apart behind batch norms.
CHECKED = {"MLP": 20, "deep MLP": 5, "CNN": 2, "GPT": 2}
Train = Callable[[Work, TimedBatches, str], Training]

# How many times hookrun's time the loop by hand was promised to take.
PROMISED = {"MLP": 1.25, "deep MLP": 1.5, "CNN": 1.0, "GPT": 1.0}
TITLES = {
    "MLP": "an MLP, 6 tensors",
    "deep MLP": "a deep MLP, 162 small tensors",
    "CNN": "a ResNet-18-like CNN, 62 tensors",
    "GPT": "a small GPT, 53 tensors",
}


def by_runner(kind: type[BaseRunner]) -> Train:
    """hookrun's, with the hooks that a user registers."""

    def train(work: Work, loader: TimedBatches, work_dir: str) -> Training:
        model = TrainStep(work.model(), cross_entropy)
        limit: dict[str, Any] = (
            {"max_epochs": 1} if kind is EpochBasedRunner else {"max_iters": len(loader)}
        )
        runner = kind(
            model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE),
            work_dir=work_dir,
            logger=LOGGER,
            **limit,
        )
        runner.register_training_hooks(
            lr_config={"policy": "CosineAnnealing", "min_lr": 0.0, "by_epoch": False},
            optimizer_config={"grad_clip": {"max_norm": MAX_NORM}},
            log_config={"interval": work.log_interval, "hooks": [{"type": "TextLoggerHook"}]},
        )
        runner.register_hook(ema := EMAHook(momentum=EMA_MOMENTUM, warm_up=0))

        def weights() -> list[torch.Tensor]:  # swapped with the averages at the end of the run
            buffers = dict(model.named_buffers())
            return [buffers[name] for name in ema.param_ema_buffer.values()]

        return Training(
            run=lambda: runner.run([loader], [("train", 1)]),
            weights=weights,
            averages=lambda: list(model.parameters()),
        )

    return train


def by_hand(work: Work, loader: TimedBatches, work_dir: str) -> Training:
    """What one writes who knows torch well."""
    model = work.model()
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(params, lr=LEARNING_RATE, fused=True)
    group = optimizer.param_groups[0]
    detached: Any = [param.detach() for param in params]  # the same memory, without autograd
    averages: Any = [param.clone() for param in detached]
    log = Path(work_dir, "log.txt")

    def run() -> None:
        total = torch.zeros(())
        with log.open("w") as lines:
            for i, (inputs, labels) in enumerate(loader):
                group["lr"] = 0.5 * LEARNING_RATE * (1 + math.cos(math.pi * i / len(loader)))
                loss = cross_entropy(model(inputs), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
                optimizer.step()
                torch._foreach_lerp_(averages, detached, EMA_MOMENTUM)
                total += loss.detach()
                if (i + 1) % work.log_interval == 0:
                    mean = total.item() / work.log_interval
                    lines.write(f"{i + 1} loss {mean:.4f} lr {group['lr']:.3e}\n")
                    total.zero_()

    return Training(run, weights=lambda: params, averages=lambda: averages)


def forward_and_backward(work: Work, loader: TimedBatches, work_dir: str) -> Training:
    """The floor."""
    model = work.model()
    params = list(model.parameters())

    def run() -> None:
        for inputs, labels in loader:
            for param in params:
                param.grad = None
            cross_entropy(model(inputs), labels).backward()

    return Training(run, weights=lambda: params, averages=lambda: params)


def systems(peers: dict[str, Any]) -> dict[str, Train]:
    """Those that train, in the order of the table."""
    own: dict[str, Train] = {
        BY_EPOCH: by_runner(EpochBasedRunner),
        BY_HAND: by_hand,
        BY_ITER: by_runner(IterBasedRunner),
    }
    return own | {name: peer.whole_training for name, peer in peers.items()}


def differences(one: list[torch.Tensor], other: list[torch.Tensor]) -> torch.Tensor:
    """Between two lists of tensors, element by element."""
    pairs = zip(one, other, strict=True)
    return torch.cat([(a.detach() - b.detach()).flatten() for a, b in pairs])


def trained(train: Train, work: Work, iterations: int, work_dir: str) -> Training:
    """A training of so many iterations that is done."""
    batches = TimedBatches(work.batches(iterations), 0, iterations, time.perf_counter)
    training = train(work, batches, work_dir)
    training.run()
    return training


def check_equal(
    contestants: Mapping[str, Train], name: str, folder: Callable[[], str], iterations: int
) -> None:
    """All that train a model end with the same weights and averages, but for rounding.

    An element whose gradient is next to nothing may go either way, so weights are compared by
    their distance, as a share of how far training has moved them.
    """
    work = WORKS[name]
    expected = trained(by_hand, work, iterations, folder())
    moved = differences(expected.weights(), list(work.model().parameters())).norm()
    for system, train in contestants.items():
        found = trained(train, work, iterations, folder())
        share = differences(found.weights(), expected.weights()).norm() / moved
        assert share < 1e-3, f"{system}: weights are off by {share} of the way"
        if system not in BEGIN_AFTER_FIRST:
            apart = differences(found.averages(), expected.averages()).abs().max()
            assert apart < 1e-5, f"{system}: averages are off by {apart}"


@pytest.mark.filterwarnings("ignore")  # of the peers
@pytest.mark.parametrize("name", WORKS)
def bench_training(benchmark, rounds, record, all_peers, tmp_path_factory, name):
    found, missing = all_peers
    work = WORKS[name]
    threads = int(os.environ.get("BENCH_THREADS", work.threads))
    clock = time.process_time if threads == 1 else time.perf_counter

    def folder() -> str:
        return str(tmp_path_factory.mktemp("run"))

    def case(train: Train) -> Case:
        def make(iterations: int) -> Callable[[], float]:
            first = work.log_interval // 2
            batches = work.batches(first + iterations + 1)
            loader = TimedBatches(batches, first, first + iterations, clock)
            training = train(work, loader, folder())

            def run() -> float:
                torch.set_num_threads(threads)
                training.run()
                return loader.seconds

            return run

        return Case(make, work.iterations, own_clock=True)

    contestants = systems(found)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_equal(contestants, name, folder, CHECKED[name])
        cases = {system: case(train) for system, train in contestants.items()}
        cases[FLOOR] = case(forward_and_backward)
        samples = race(benchmark, cases, rounds)
    finally:
        torch.set_num_threads(before)
    least = PROMISED[name]
    comparison = Comparison(
        title=f"A whole training iteration of {TITLES[name]}",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor=FLOOR,
        floor_is="both passes alone, without optimizer, clipping, averages, schedule and log",
        subject=BY_EPOCH,
        targets=(
            Target(BY_HAND, at_least=least),
            Target(BY_HAND, at_least=least, than=BY_ITER),
        ),
        counts_calls=False,
        by_round=True,
    )
    record.add(f"end to end/{name}", comparison.figure(samples, cases, missing))
