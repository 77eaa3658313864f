"""A run resumed from any step ends as one that was never interrupted, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .resume_matrix import CASES, STEPS, Case, differences, end_of, run

SAMPLE = 20


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other would take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sampled() -> list[tuple[Case, list[int]]]:
    """20 pairs of a case and a step, seeded.

    Half of the cases are among them, with every combination of any four of the five choices.
    """
    choose = random.Random(6)
    steps: dict[Case, list[int]] = {case: [] for case in CASES if parity(case)}
    for number in range(SAMPLE):
        steps[list(steps)[number % len(steps)]].append(choose.randint(1, STEPS))
    return list(steps.items())


def parity(case: Case) -> bool:
    choices = (case.kind == "epoch", case.accumulation > 1, case.fp16, case.ema, case.workers > 0)
    return sum(choices) % 2 == 0


def check(case: Case, folder: Path, steps: list[int]) -> None:
    whole = run(case, folder, save=steps)
    expected = end_of(whole)
    assert len(whole.model.seen) == STEPS
    for step in steps:
        resumed = run(case, folder, resume=step)
        assert resumed.model.seen == whole.model.seen[step:], f"samples after step {step}"
        assert differences(expected, end_of(resumed)) == [], f"resumed from step {step}"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("case", "steps"), [pytest.param(*each, id=str(each[0])) for each in sampled()]
)
def test_a_sample_of_the_matrix(case: Case, steps: list[int], tmp_path: Path) -> None:
    check(case, tmp_path, steps)
    print(f"{case}: bit-exact from steps {steps}")


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_matrix(case: Case, tmp_path: Path) -> None:
    steps = list(range(1, STEPS + 1))
    check(case, tmp_path, steps)
    print(f"{case}: bit-exact from all {STEPS} steps")
