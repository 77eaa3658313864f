"""What many tests use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hookrun import Hook
from hookrun.core import EVENTS


class TinyModel(nn.Module):
    """A linear model with MMCV's three methods; batches are dicts with ``x`` and ``y``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.fc = nn.Linear(2, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor, y: Tensor | None = None, return_loss: bool = False) -> Tensor:
        return self.fc(x)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        loss = (self.fc(data_batch["x"]) - data_batch["y"]).square().mean()
        return {"loss": loss, "log_vars": {"loss": loss}, "num_samples": len(data_batch["x"])}

    def val_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        return self.train_step(data_batch)


class Points(Dataset[dict[str, Tensor]]):
    """Points of a plane with MMCV's ``evaluate``, whose scores are given in advance."""

    def __init__(self, size: int = 8, scores: list[dict[str, Any]] | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(size, 2, generator=generator)
        self.y = self.x.sum(1, keepdim=True)
        self.scores = list(scores or [])
        self.evaluated: list[list[Any]] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}

    def evaluate(self, results: list[Any], logger: Any = None, **kwargs: Any) -> dict[str, Any]:
        self.evaluated.append(results)
        return self.scores[len(self.evaluated) - 1] if self.scores else {"acc": 0.5}


def make_loader(batches: int = 4, **arguments: Any) -> DataLoader[Any]:
    """A loader of so many batches of two points."""
    return DataLoader(Points(2 * batches, **arguments), batch_size=2)


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """A context with a process group of this process alone, for what needs one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Recorder(Hook):
    """Notes every event with the counters at that moment."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, int]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.events]

    def note(self, event: str, runner: Any) -> None:
        self.events.append((event, runner.epoch, runner.iter, runner.inner_iter))


def _make_note(event: str) -> Any:
    return lambda self, runner: self.note(event, runner)


for _event in EVENTS:
    setattr(Recorder, _event, _make_note(_event))
