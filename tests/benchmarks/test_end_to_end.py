"""The trainings of the end-to-end benchmark: their clock, and that all sides do the same work."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark, on one thread: others would only wait for it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_end_to_end

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield bench_end_to_end
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "iterations"), [("MLP", 20), ("deep MLP", 2), ("GPT", 2)])
def test_both_runners_train_as_the_loop_by_hand(
    bench: Any, tmp_path: Path, name: str, iterations: int
) -> None:
    def folder() -> str:
        return tempfile.mkdtemp(dir=tmp_path)

    bench.check_equal(bench.systems({}), name, folder, iterations)


def test_a_training_that_does_less_is_found_out(bench: Any, tmp_path: Path) -> None:
    def still(work: Any, loader: Any, work_dir: str) -> Any:
        training = bench.by_hand(work, loader, work_dir)
        return replace(training, averages=lambda: list(work.model().parameters()))

    with pytest.raises(AssertionError, match="still: averages are off"):
        bench.check_equal({"still": still}, "MLP", lambda: str(tmp_path), 20)
    with pytest.raises(AssertionError, match="idle: weights are off"):
        bench.check_equal({"idle": bench.forward_and_backward}, "MLP", lambda: str(tmp_path), 2)


def test_the_loop_by_hand_logs_the_mean_loss(bench: Any, tmp_path: Path) -> None:
    work = replace(bench.WORKS["MLP"], log_interval=4)
    bench.trained(bench.by_hand, work, 8, str(tmp_path))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["4", "loss"], ["8", "loss"]]
    assert 1.5 < float(lines[0].split()[2]) < 3.5


@pytest.mark.parametrize(
    ("name", "tensors"), [("MLP", 6), ("deep MLP", 162), ("CNN", 62), ("GPT", 53)]
)
def test_the_models_have_so_many_tensors(bench: Any, name: str, tensors: int) -> None:
    work = bench.WORKS[name]
    first, second = work.model(), work.model()
    assert len(list(first.parameters())) == tensors
    assert not bench.differences(list(first.parameters()), list(second.parameters())).any()
    inputs, labels = work.batches(1)[0]
    assert first(inputs).shape[0] == labels.shape[0]


def test_only_what_lies_between_two_batches_is_timed(bench: Any) -> None:
    now = 0.0
    loader = bench.TimedBatches(list(range(10)), 2, 7, lambda: now)
    assert len(loader) == 10
    seen = []
    for batch in loader:
        seen.append(batch)
        now += 1.0
    assert seen == list(range(10))
    assert loader.seconds == 5.0


class Benchmark:
    """In place of pytest-benchmark's fixture."""

    def pedantic(self, target: Any, setup: Any, rounds: int) -> None:
        for _ in range(rounds):
            target(*setup()[0])


def test_a_turn_can_have_its_own_clock(bench: Any) -> None:
    import timing

    cases = {
        "subject": timing.Case(lambda n: lambda: 2.0 * n, 5, own_clock=True),
        "rival": timing.Case(lambda n: lambda: 3.0 * n, 4, own_clock=True),
    }
    samples = timing.race(Benchmark(), cases, 3)
    assert samples == {"subject": [2.0] * 3, "rival": [3.0] * 3}


def test_a_race_that_takes_long_has_fewer_rounds(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timing

    monkeypatch.setattr(timing, "SECONDS", 0.0)
    cases = {"subject": timing.Case(lambda n: lambda: 1.0, 1, own_clock=True)}
    assert len(timing.race(Benchmark(), cases, 25)["subject"]) == timing.FEWEST
    assert len(timing.race(Benchmark(), cases, 3)["subject"]) == 3


def test_ratios_are_those_of_the_rounds(bench: Any) -> None:
    samples = {"hookrun": [1.0, 2.0, 4.0], "hand": [2.0, 4.0, 4.4], "floor": [0.5, 1.0, 2.0]}
    samples["other"] = [2.0, 2.0, 2.0]
    cases = dict.fromkeys(samples, bench.Case(lambda n: lambda: None, 1))
    comparison = bench.Comparison(
        title="Work",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor="floor",
        floor_is="less",
        subject="hookrun",
        targets=(
            bench.Target("hand", at_least=1.5),
            bench.Target("hand", at_least=2.0, than="other"),
        ),
        counts_calls=False,
        by_round=True,
    )
    figure = comparison.figure(samples, cases, {})
    assert figure["systems"]["hand"]["times_hookrun"] == 2.0
    assert [(t["measured"], t["met"]) for t in figure["targets"]] == [(2.0, True), (2.0, True)]
