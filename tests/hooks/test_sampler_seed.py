"""DistSamplerSeedHook: each epoch has an order of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from hookrun import ClosureHook, DistSamplerSeedHook, Hook, IterBasedRunner
from tests.support import Points

MakeRunner = Callable[..., Any]


def loader_of(data: Points, batched: bool = False) -> DataLoader[Any]:
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=True)
    if batched:
        return DataLoader(data, batch_sampler=BatchSampler(sampler, 2, drop_last=False))
    return DataLoader(data, batch_size=2, sampler=sampler)


def orders(make_runner: MakeRunner, loader: Any, *hooks: Hook, **arguments: Any) -> Any:
    """The data of the three epochs of a run, in the order in which they came."""
    runner = make_runner(**(arguments or {"max_epochs": 3}))
    seen: list[float] = []
    note = ClosureHook("before_train_iter", lambda r: seen.extend(r.data_batch["x"][:, 0].tolist()))
    for hook in (*hooks, note):
        runner.register_hook(hook)
    runner.run([loader], [("train", 1)])
    return [seen[start : start + 16] for start in range(0, 48, 16)]


def test_orders_are_those_of_the_epochs(make_runner: MakeRunner) -> None:
    data = Points(32)
    expected = []
    for epoch in range(3):
        loader = loader_of(data)
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        expected.append(torch.cat([batch["x"][:, 0] for batch in loader]).tolist())
    for batched in (False, True):
        got = orders(make_runner, loader_of(data, batched), DistSamplerSeedHook())
        assert got == expected
        arguments = {"runner_type": IterBasedRunner, "max_iters": 24}
        got = orders(make_runner, loader_of(data, batched), DistSamplerSeedHook(), **arguments)
        assert got == expected
    first, second, _ = orders(make_runner, loader_of(data))
    assert first == second  # without the hook


def test_loaders_without_samplers(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(DistSamplerSeedHook())
    batches = [{"x": torch.ones(2, 2), "y": torch.ones(2, 1)}]
    runner.run([batches, batches], [("train", 1), ("val", 1)])
    assert runner.epoch == 1
