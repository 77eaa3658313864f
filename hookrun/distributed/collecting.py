"""The results of all ranks for one test set, in its order."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .collectives import broadcast_object
from .environment import get_dist_info
from .failures import fail_together

_WHAT = "collecting results"


def collect_results_cpu(
    result_part: Sequence[Any], size: int, tmpdir: str | os.PathLike[str] | None = None
) -> list[Any] | None:
    """Collect the results of all ranks through files; must be called on all ranks.

    Args:
        result_part: this rank's results, one per sample, in the order of a ``DistributedSampler``
            without shuffling: rank r has the samples r, r + world size, ... of the set. Tensors on
            a GPU become tensors on the CPU.
        size: the number of samples in the set; results beyond it, of samples that the sampler
            repeated, are dropped.
        tmpdir: a folder that all ranks share, made if missing; by default ``.dist_test`` in the
            current one. The files lie in a folder of their own in it, which is removed at the end.

    Returns:
        On rank 0, a list with one result per sample, in the order of the set; else None.

    Raises:
        ValueError: the numbers of results are not those of a ``DistributedSampler``.
        RuntimeError: it failed on another rank.
        OSError: a file could not be written or read.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return join_parts([result_part], size)
    folder = Path()
    with fail_together(_WHAT):
        top = Path(".dist_test" if tmpdir is None else tmpdir).absolute()
        is_new = not top.exists()
        if rank == 0:
            top.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=top))
    folder = Path(broadcast_object(str(folder)))
    try:
        with fail_together(_WHAT):
            _write(list(result_part), folder / f"part_{rank}.pt")
        results = None
        with fail_together(_WHAT):
            if rank == 0:
                files = [folder / f"part_{each}.pt" for each in range(world_size)]
                results = join_parts([_load(file) for file in files], size)
        return results
    finally:
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            if is_new:
                with contextlib.suppress(OSError):  # another one uses it by now
                    top.rmdir()


def collect_results_gpu(result_part: Sequence[Any], size: int) -> list[Any] | None:
    """Collect the results of all ranks through the process group; must be called on all ranks.

    With NCCL they are sent from GPU to GPU; with gloo this needs no GPU. No files are written.

    Args:
        result_part: as for `collect_results_cpu`.
        size: the same.

    Returns:
        On rank 0, a list with one result per sample, in the order of the set; else None.

    Raises:
        ValueError: the numbers of results are not those of a ``DistributedSampler``.
        RuntimeError: it failed on another rank.
    """
    if get_dist_info()[1] == 1:
        return join_parts([result_part], size)
    parts = gather_parts(list(result_part))
    results = None
    with fail_together(_WHAT):
        if parts is not None:
            results = join_parts(parts, size)
    return results


def gather_parts(part: Any) -> list[Any] | None:
    """What all ranks give, by rank, on rank 0; None on the others. Tensors come to the CPU.

    Raises:
        RuntimeError: a part cannot be pickled on another rank; its own error on that rank.
    """
    rank, world_size = get_dist_info()
    file = io.BytesIO()
    with fail_together(_WHAT):
        torch.save(part, file)
    received: list[Any] | None = [None] * world_size if rank == 0 else None
    dist.gather_object(file.getvalue(), received)
    return None if received is None else [_load(io.BytesIO(each)) for each in received]


def join_parts(parts: Sequence[Sequence[Any]], size: int) -> list[Any]:
    """The results of all ranks in the order of the set, without those of repeated samples.

    Args:
        parts: the results of each rank, in the order of a ``DistributedSampler``.
        size: the number of samples in the set.

    Raises:
        ValueError: see `check_lengths`.
    """
    check_lengths([len(part) for part in parts], size)
    return [parts[place % len(parts)][place // len(parts)] for place in range(size)]


def samples_of_rank(rank: int, world_size: int, size: int) -> int:
    """How many of ``size`` samples a ``DistributedSampler`` gives a rank, without repeated ones."""
    return max(0, -(-(size - rank) // world_size))


def check_lengths(lengths: Sequence[int], size: int) -> None:
    """Check that the ranks have the samples that a ``DistributedSampler`` gives them.

    They may be padded, so that all ranks have equally many, or not.

    Args:
        lengths: the number of results of each rank.
        size: the number of samples in the set.

    Raises:
        ValueError: they have other numbers of samples, so that the order is unknown.
    """
    ranks = len(lengths)
    unpadded = [samples_of_rank(rank, ranks, size) for rank in range(ranks)]
    padded = len(set(lengths)) == 1 and lengths[0] >= unpadded[0]
    if ranks > 1 and size > 1 and padded and lengths[0] >= size:
        raise ValueError(
            f"each of {ranks} ranks has results for all {size} samples, or more: let the ranks "
            "share them, with DataLoader(..., sampler=DistributedSampler(dataset, shuffle=False))"
        )
    if not padded and list(lengths) != unpadded:
        raise ValueError(
            f"the ranks have {list(lengths)} results for {size} samples, where {unpadded} are "
            f"expected, or {unpadded[0]} each: the model must give one result per sample, and the "
            "loader have a DistributedSampler(dataset, shuffle=False) and no drop_last"
        )


def _write(part: list[Any], path: Path) -> None:
    try:
        # Not plain pickle: a tensor that is a part of a batch would take the batch with it.
        torch.save(part, path)
    except (OSError, RuntimeError) as error:
        if not path.parent.is_dir():
            error.add_note(
                f"{path.parent} of rank 0 is not there: tmpdir must be a folder that all ranks "
                "share; collecting with gpu_collect=True needs none"
            )
        raise


def _load(file: Any) -> Any:
    # The ranks of one job trust each other: what they collect may be any objects.
    return torch.load(file, map_location="cpu", weights_only=False)
