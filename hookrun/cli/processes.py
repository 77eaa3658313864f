"""``hookrun train`` in several processes, which torchrun has started."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from hookrun.distributed import (
    DistributedTrainStep,
    averages_gradients,
    get_dist_info,
    init_dist,
)


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """A context with a process group, if torchrun has started this process as one of several."""
    if not _is_one_of_several() or dist.is_initialized():
        yield
        return
    init_dist("pytorch")
    try:
        yield
    finally:
        dist.destroy_process_group()


def refuse_several() -> None:
    """Raise where torchrun has started several processes of a command that runs in one.

    Raises:
        ValueError: it has.
    """
    if _is_one_of_several():
        raise ValueError("this command runs in one process: start it without torchrun")


def over_ranks(model: nn.Module) -> nn.Module:
    """The model with gradients that are averaged over ranks, if there are several."""
    if get_dist_info()[1] == 1 or averages_gradients(model):
        return model
    return DistributedTrainStep(model)


def check_shares(loaders: Mapping[str, Any]) -> None:
    """Warn where all ranks would go through the same samples of a training set."""
    rank, world_size = get_dist_info()
    if world_size == 1 or rank != 0:
        return
    loader = loaders["train"]
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    samplers = [loader.sampler, loader.batch_sampler]
    samplers += [getattr(each, "sampler", None) for each in samplers]
    if not any(hasattr(each, "num_replicas") for each in samplers):
        warnings.warn(
            "data['train'] gives every rank all samples: give its DataLoader "
            "sampler=hookrun.ResumableDistributedSampler(dataset) for a share each",
            stacklevel=2,
        )


def _is_one_of_several() -> bool:
    """Whether torchrun has started this process beside others; what it says may be wrong."""
    return os.environ.get("WORLD_SIZE", "1") != "1"
