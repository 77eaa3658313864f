"""A fault of one rank ends the run on all, with an error that names the rank and the cause."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from tests import programs

from .faulty_ranks import FAULTS

WRAPPERS, RUNNERS = ["ddp", "fsdp", "none"], ["epoch", "iter"]
ALL = [list(each) for each in itertools.product(FAULTS, WRAPPERS, RUNNERS)]
# Each fault once, and each wrapper with each runner at least once.
SOME = [
    ["raises", "ddp", "epoch"],
    ["dies", "fsdp", "iter"],
    ["alone", "none", "epoch"],
    ["dies before", "ddp", "iter"],
    ["hooks", "fsdp", "epoch"],
    ["data", "ddp", "epoch"],
    ["data without len", "ddp", "epoch"],
    ["file", "none", "iter"],
    ["evaluates", "fsdp", "epoch"],
    ["strays", "fsdp", "iter"],
]
# What the ranks say: rank 0, and rank 1 if it lives.
DIFFER = r"ValueError: the training loaders of the ranks have other numbers of batches.*"
POSITIONS = (
    r"ValueError: the ranks would start at other positions: .*\(rank 0: epoch 0, iteration [23], "
    r"resumed .*work0.*\.pth; rank 1: epoch 0, iteration 0, nothing resumed\)"
)
HOOKS = r"ValueError: CheckpointHook must be the same on all ranks.* it is missing on rank 1\."
NOT_BEGUN = r"RankError: waited 8 s in vain for rank 1: it has not begun its run\."
EXPECTED = {
    "raises": (r"RankError: rank 1 has failed: ValueError: bad luck", r"ValueError: bad luck"),
    "dies": (r"RankError: rank 1 has died \(process \d+\): it was killed", None),
    "alone": (NOT_BEGUN, ""),
    "dies before": (NOT_BEGUN, None),
    "hooks": (HOOKS, HOOKS),
    "data": (DIFFER + r"rank 0: \[4\], rank 1: \[3\]",) * 2,
    "file": (POSITIONS, POSITIONS),
    "strays": (r"RankError: (all ranks have waited in vain for each other|waited .*for rank \d)",)
    * 2,
    "evaluates": (
        r"(RankError: rank 1 has|RuntimeError: \w+) failed( on rank 1)?: OSError: disk gone",
        r"OSError: disk gone",
    ),
}
# Found where all ranks come to the end of the epoch, or else where one waits in training.
AT_THE_END = r"ValueError: the loaders of the ranks had other numbers.*: rank 0: 4, rank 1: 3"
OF_UNKNOWN_LENGTH = {
    "epoch": (
        rf"{AT_THE_END}|rank 1: it had come to the end of epoch 1, of 3 batches",
        rf"{AT_THE_END}|RankError: .*rank 0",
    ),
    "iter": ("", ""),  # passes end at other iterations, and no rank waits for another
}


def run_cases(folder: Path, cases: list[list[str]], at_once: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = ["-m", "tests.distributed.faulty_ranks", str(folder), json.dumps(cases), str(at_once)]
    done = programs.run(*command, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    for number, (fault, wrapper, runner) in enumerate(cases):
        expected = EXPECTED.get(fault) or OF_UNKNOWN_LENGTH[runner]
        for rank, pattern in enumerate(expected):
            if pattern is None:
                continue
            file = folder / str(number) / f"{rank}.txt"
            case = f"{fault}/{wrapper}/{runner}, rank {rank}"
            log = (folder / str(number) / f"{rank}.log").read_text()
            assert file.exists(), f"{case}: it hangs, or has died\n{log}"
            error = file.read_text()
            assert bool(error) == bool(pattern), f"{case}: {error!r}\n{log}"
            assert re.search(pattern, error, re.DOTALL), f"{case}: {error!r}\n{log}"


def test_each_fault_ends_all_ranks_with_its_cause(tmp_path: Path) -> None:
    run_cases(tmp_path, SOME, len(SOME))


@pytest.mark.long
def test_each_fault_with_each_wrapper_and_runner(tmp_path: Path) -> None:
    run_cases(tmp_path, ALL, 12)
