"""Results of several ranks: their order, padded samples, and numbers that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from torch.utils.data import DistributedSampler

from hookrun import collect_results_cpu, collect_results_gpu
from hookrun.distributed.collecting import check_lengths, join_parts, samples_of_rank

from .workers import run_workers

sizes = strategies.integers(1, 40)
ranks = strategies.integers(1, 6)


@given(sizes, ranks)
def test_samplers_parts_are_joined_in_order(size: int, world_size: int) -> None:
    dataset: Any = range(size)
    padded = [list(DistributedSampler(dataset, world_size, r, False)) for r in range(world_size)]
    assert join_parts(padded, size) == list(dataset)
    unpadded = [list(range(rank, size, world_size)) for rank in range(world_size)]
    assert join_parts(unpadded, size) == list(dataset)
    assert [len(part) for part in unpadded] == [
        samples_of_rank(rank, world_size, size) for rank in range(world_size)
    ]


@pytest.mark.parametrize(
    ("lengths", "size", "message"),
    [
        ([2, 1], 4, r"have \[2, 1\] results for 4 samples, where \[2, 2\] are expected"),
        ([1, 1], 4, r"have \[1, 1\] results"),
        ([3, 1], 4, r"have \[3, 1\] results"),
        ([1, 2], 3, r"have \[1, 2\] results for 3 samples, where \[2, 1\] are expected, or 2 each"),
        ([0, 0], 1, r"have \[0, 0\] results"),
        ([3], 4, r"have \[3\] results"),
        ([4, 4], 4, "each of 2 ranks has results for all 4 samples, or more: let the ranks share"),
        ([9, 9, 9], 8, "each of 3 ranks has results for all 8 samples"),
    ],
)
def test_other_numbers_of_results_are_refused(lengths: list[int], size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_lengths(lengths, size)


@pytest.mark.parametrize("collect", [collect_results_cpu, collect_results_gpu])
def test_one_process_needs_no_group(collect: Any) -> None:
    assert collect(["a", "b", "a"], 2) == ["a", "b"]


PROGRAM = """
import os
from hookrun import collect_results_cpu, collect_results_gpu, multi_gpu_test

class Odd:
    def __init__(self, place):
        self.place = place

def collect(own, **arguments):
    if own == "gpu":
        return collect_results_gpu(**arguments)
    return collect_results_cpu(tmpdir=own, **arguments)

os.chdir(folder)
shared = folder / "shared"
shared.mkdir(exist_ok=True)
(shared / "kept.txt").write_text("x")
dist.barrier()
part = [{"place": n, "box": torch.full((2,), float(n))} for n in range(rank, 6, world_size)]
ways = {"given": str(shared), "new": str(folder / "a" / "b"), "default": None, "gpu": "gpu"}
for name, own in ways.items():
    results = collect(own, result_part=part, size=5)
    if rank:
        assert results is None
    else:
        found[name] = [[each["place"], each["box"].tolist()] for each in results]
objects = collect_results_gpu([Odd(rank)], 3)
found["objects"] = objects and [each.place for each in objects]
found["left"] = sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))
try:
    collect_results_cpu(part, 5, "/proc/1/none" if rank == 0 else str(shared))
except (OSError, RuntimeError) as error:
    found["error"] = f"{type(error).__name__}: {error}"
"""


def test_three_ranks(tmp_path: Path) -> None:
    found = run_workers(PROGRAM, tmp_path, 3)
    expected = [[place, [float(place)] * 2] for place in range(5)]
    for name in ("given", "new", "default", "gpu"):
        assert found[0][name] == expected
    assert found[0]["objects"] == [0, 1, 2]
    left = set(found[0]["left"]) - {"store", *(f"{rank}.txt" for rank in range(3))}
    assert left == {"a", "shared", "shared/kept.txt"}  # what is others' stays
    assert "Error" in found[0]["error"]
    for each in found[1:]:
        assert each["error"].startswith("RuntimeError: collecting results failed on rank 0: ")
