"""Two runs in one work_dir at once: a warning, logs of their own, and whole files."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hookrun import CheckpointHook, ClosureHook, IterBasedRunner, TextLoggerHook
from hookrun.checkpoint import read_checkpoint
from tests.programs import Program
from tests.support import make_loader

ANOTHER = """
import sys, torch
import hookrun
from tests.support import TinyModel, make_loader
model = TinyModel()
runner = hookrun.EpochBasedRunner(
    model, optimizer=torch.optim.SGD(model.parameters(), 0.1), work_dir=sys.argv[1], max_epochs=1)
class Waits(hookrun.Hook):
    def after_train_iter(self, runner):
        print("training", flush=True)
        sys.stdin.readline()
runner.register_hook(Waits())
runner.run([make_loader(1)], [("train", 1)])
"""


def warned(caplog: pytest.LogCaptureFixture) -> int:
    return caplog.text.count("another run is using")


def train(runner: Any) -> None:
    runner.run([make_loader(1)], [("train", 1)])


def test_a_run_of_another_process_is_warned_of_as_long_as_it_goes_on(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(max_epochs=1)
    with Program("-c", ANOTHER, runner.work_dir) as other:
        assert other.stdout.readline() == "training\n"
        train(runner)
        assert warned(caplog) == 1
        other.communicate("\n")
        assert other.returncode == 0
    train(make_runner(max_epochs=1))
    assert warned(caplog) == 1


@pytest.mark.parametrize("runner_type", [None, IterBasedRunner])
def test_a_run_within_a_run_is_warned_of(
    make_runner: Any, caplog: pytest.LogCaptureFixture, runner_type: Any
) -> None:
    types = () if runner_type is None else (runner_type,)
    outer, inner = make_runner(*types), make_runner(*types)
    outer.register_hook(ClosureHook("after_train_iter", lambda runner: inner.iter or train(inner)))
    train(outer)
    assert inner.iter
    assert warned(caplog) == 1


def test_runs_one_after_the_other_are_not_warned_of(
    make_runner: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for _ in range(2):
        train(make_runner())
    same = make_runner()
    train(same)
    failing = make_runner()
    failing.register_hook(ClosureHook("after_train_iter", raise_error))
    with pytest.raises(RuntimeError, match="no"):
        train(failing)
    train(make_runner())
    train(make_runner(work_dir=None))
    outer, inner = make_runner(), make_runner(work_dir=str(tmp_path / "other"))
    outer.register_hook(ClosureHook("after_train_iter", lambda runner: inner.iter or train(inner)))
    train(outer)
    assert warned(caplog) == 0


def raise_error(runner: Any) -> None:
    raise RuntimeError("no")


def test_other_ranks_are_no_other_runs(
    make_runner: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    master, other = make_runner(), make_runner()
    other._rank = 1
    master.register_hook(ClosureHook("after_train_iter", lambda runner: other.iter or train(other)))
    train(master)
    assert warned(caplog) == 0


def test_a_workers_life_is_not_a_runs(make_runner: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Persistent workers are forked within the run and live on behind it."""
    from torch.utils.data import DataLoader

    from tests.support import Points

    loader = DataLoader(Points(4), batch_size=2, num_workers=1, persistent_workers=True)
    make_runner(max_epochs=1).run([loader], [("train", 1)])
    train(make_runner(max_epochs=1))
    assert warned(caplog) == 0


def test_two_runs_of_one_second_have_logs_of_their_own_and_whole_files(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runners = [make_runner(max_epochs=3, meta={"exp_name": f"run {number}"}) for number in (1, 2)]
    runners[1].timestamp = runners[0].timestamp
    both = threading.Barrier(2)
    for runner in runners:
        runner.handle_signals = False
        runner.register_hook(
            ClosureHook("before_train_iter", lambda runner: both.wait(30) and None)
        )
        runner.register_hook(CheckpointHook(interval=1, max_keep_ckpts=1))
        runner.register_hook(TextLoggerHook(interval=1))
    threads = [threading.Thread(target=train, args=(runner,)) for runner in runners]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    folder = Path(runners[0].work_dir)
    stamp = runners[0].timestamp
    logs = [folder / f"{stamp}.log.json", folder / f"{stamp}_2.log.json"]
    names = set()
    for log in logs:
        meta, *lines = [json.loads(line) for line in log.read_text().splitlines()]
        names.add(meta["exp_name"])
        assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert names == {"run 1", "run 2"}
    assert warned(caplog) == 1
    texts = [f"{stamp}.log", f"{stamp}_2.log"]
    assert sorted(os.listdir(folder)) == sorted(
        [logs[0].name, logs[1].name, *texts, "epoch_3.pth", "latest.pth"]
    )
    assert read_checkpoint(folder / "latest.pth")["meta"]["epoch"] == 3


def test_loggers_of_one_runner_share_a_file_also_in_a_second_run(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    for _ in range(2):
        runner.register_hook(TextLoggerHook(interval=1))
    train(runner)
    runner._max_epochs = 2
    train(runner)
    (log,) = Path(runner.work_dir).glob("*.log.json")
    assert [json.loads(line)["epoch"] for line in log.read_text().splitlines()] == [1, 1, 2, 2]


def test_a_pipe_under_a_logs_name_stops_nothing(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    os.mkfifo(Path(runner.work_dir) / f"{runner.timestamp}.log.json")
    runner.register_hook(TextLoggerHook(interval=1))
    train(runner)
    log = Path(runner.work_dir) / f"{runner.timestamp}_2.log.json"
    assert json.loads(log.read_text())["mode"] == "train"
