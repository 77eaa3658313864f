"""Log lines with the means of all ranks: AverageOverRanksHook and NamedMeans."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hookrun import AverageOverRanksHook
from hookrun.distributed import NamedMeans
from tests.distributed.workers import run_workers

BEGIN = """
from hookrun import EpochBasedRunner, HOOKS, Hook, IterBasedRunner, LoggerHook
from tests.support import TinyModel

class Lines(LoggerHook):
    def __init__(self, interval=10, ignore_last=True, by_epoch=True, fail=False):
        super().__init__(interval, ignore_last, by_epoch=by_epoch)
        self.lines, self.fail = [], fail

    def log(self, runner):
        if self.fail:
            raise OSError("the disk is full")
        output = dict(runner.log_buffer.output)
        self.lines.append([self.get_mode(runner), runner.iter, sorted(output.items())])

HOOKS.register_module(module=Lines)
count = 0
original = dist.all_reduce
def counting(tensor, *arguments, **more):
    global count
    count += tensor.dtype == torch.float64
    return original(tensor, *arguments, **more)
dist.all_reduce = counting

class Model(TinyModel):
    def __init__(self, report):
        super().__init__()
        self.report, self.steps = report, 0

    def train_step(self, batch, optimizer=None, **kwargs):
        self.steps += 1
        return {"loss": torch.zeros(()), "log_vars": self.report(self.steps), "num_samples": 2}

    val_step = train_step

def run(report, log_config, runner_type=EpochBasedRunner, batches=6, workflow=1, **options):
    global count
    count = 0
    by_epoch = runner_type is EpochBasedRunner
    limit = {"max_epochs": 1} if by_epoch else {"max_iters": batches}
    runner = runner_type(Model(report), **limit, **options)
    runner.logger.setLevel("ERROR")
    runner.register_logger_hooks({"average_over_ranks": True, **log_config})
    phases = [("train", 1 if by_epoch else batches), ("val", 1)][:workflow]
    runner.run([[0] * batches, [0] * (rank + 1)][:workflow], phases)
    lines = [hook.lines for hook in runner.hooks if isinstance(hook, Lines)]
    return [lines, count]
"""
RUNS = """
own = lambda step: {"loss": torch.tensor(step + 10.0 * rank), "float": float(rank)}
two = {"interval": 3, "hooks": [{"type": "Lines"}, {"type": "Lines"}]}
found["two loggers"] = run(own, two)
found["by iteration"] = run(own, two, IterBasedRunner)
found["validation"] = run(own, two, workflow=2)
intervals = {"interval": 3, "hooks": [{"type": "Lines"}, {"type": "Lines", "interval": 2}]}
found["intervals"] = run(own, intervals)
rest = {"interval": 4, "hooks": [{"type": "Lines", "ignore_last": False}]}
found["the rest"] = run(own, rest)

def different(step):
    return {} if rank == 0 else {"loss": 4.0, **({"late": 8.0} if step > 3 else {})}

one = {"interval": 3, "hooks": [{"type": "Lines"}]}
found["different"] = run(different, one)
found["none"] = run(lambda step: {}, one)
failing = {"interval": 3, "hooks": [{"type": "Lines", "fail": rank == 0}, {"type": "Lines"}]}
found["failing"] = run(own, failing)
found["alone"] = run(own, one, handle_signals=False)
found["nan"] = run(lambda step: {"loss": float("nan") if rank else 1.0, "x": 1.0}, one)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_workers(BEGIN + RUNS, tmp_path_factory.mktemp("ranks"))


# The mean of rank 0's values and rank 1's, in steps 1 to 3 and 4 to 6.
LINES = [
    ["train", 2, [["float", 0.5], ["loss", 7.0]]],
    ["train", 5, [["float", 0.5], ["loss", 10.0]]],
]


@pytest.mark.parametrize("case", ["two loggers", "by iteration", "failing"])
def test_each_line_takes_one_all_reduce(runs: list[dict[str, Any]], case: str) -> None:
    """However many loggers write it, and also where one has failed."""
    for rank, found in enumerate(runs):
        lines, count = found[case]
        assert lines == [[] if case == "failing" and rank == 0 else LINES, LINES]
        assert count == 2


def test_loggers_of_other_intervals(runs: list[dict[str, Any]]) -> None:
    for found in runs:
        (third, second), count = found["intervals"]
        assert third == LINES
        assert [line[2][1][1] for line in second] == [6.5, 8.5, 10.5]
        assert count == 5
        (lines,), count = found["the rest"]
        assert [line[1] for line in lines] == [3, 5]
        assert [line[2][1][1] for line in lines] == [7.5, 9.5]
        assert count == 2


def test_validations_are_averaged(runs: list[dict[str, Any]]) -> None:
    """Rank 0 has one batch to validate, rank 1 two: each rank's mean counts once."""
    for found in runs:
        lines, _ = found["validation"]
        *_, (mode, _, values) = lines[0]
        assert (mode, values) == ("val", [["float", 0.5], ["loss", (7 + 17.5) / 2]])


def test_what_some_ranks_do_not_report(runs: list[dict[str, Any]]) -> None:
    """The mean of those that do; a new name takes one all-reduce more."""
    for found in runs:
        (lines,), count = found["different"]
        assert [line[2] for line in lines] == [[["loss", 4.0]], [["late", 8.0], ["loss", 4.0]]]
        assert count == 3
        assert [line[2] for line in found["none"][0][0]] == [[], []]
        (lines,), _ = found["nan"]
        assert all(math.isnan(line[2][0][1]) and line[2][1] == ["x", 1.0] for line in lines)


def test_without_handle_signals_nothing_is_averaged(runs: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(runs):
        (lines,), count = found["alone"]
        assert [line[2][1][1] for line in lines] == [2.0 + 10 * rank, 5.0 + 10 * rank]
        assert count == 0


def test_one_process_logs_its_own(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_logger_hooks(
        {"average_over_ranks": True, "hooks": [{"type": "TextLoggerHook"}]}
    )
    assert [type(hook).__name__ for hook in runner.hooks] == [
        "AverageOverRanksHook",
        "TextLoggerHook",
    ]
    assert NamedMeans().average({"a": 1.0}) == {"a": 1.0}


@pytest.mark.parametrize(
    ("log_config", "message"),
    [
        ({"average_over_ranks": 1, "hooks": []}, r"\['average_over_ranks'\] must be a bool, not 1"),
        ({"average_over_rank": True, "hooks": []}, "Did you mean 'average_over_ranks'"),
    ],
)
def test_bad_configs(make_runner: Any, log_config: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_runner(max_epochs=1).register_logger_hooks(log_config)


def test_loggers_before_it_in_priority(make_runner: Any) -> None:
    """It fires before the first of the loggers that it averages for."""
    runner = make_runner(max_epochs=1)
    loggers = [{"type": "TextLoggerHook"}, {"type": "CsvLoggerHook", "priority": "LOW"}]
    runner.register_logger_hooks({"average_over_ranks": True, "hooks": loggers})
    assert isinstance(runner.hooks[0], AverageOverRanksHook)
