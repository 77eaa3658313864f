"""TextLoggerHook: the lines for people, as MMCV writes them, and the JSON lines for programs."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, Hook, IterBasedRunner, TextLoggerHook
from hookrun.loggers import text
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
DATA = Path(__file__).parent.parent / "data"


class Seconds(Hook):
    """A timer whose iterations take a quarter of a second each."""

    def after_train_iter(self, runner: Any) -> None:
        runner.log_buffer.update({"data_time": 0.125, "time": 0.25})


class Steady(TinyModel):
    """Whose loss is 0.5 and accuracy 75."""

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return {"log_vars": {"loss": 0.5, "acc": 75}, "num_samples": 2}


def train(runner: Any, *, timer: bool = True, batches: int = 4, **config: Any) -> None:
    if timer:
        runner.register_timer_hook(Seconds())
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook", **config}]})
    runner.run([make_loader(batches)], TRAIN)


def printed(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith(("Epoch", "Iter"))]


def written(runner: Any) -> list[dict[str, Any]]:
    (path,) = Path(runner.work_dir).glob("*.log.json")
    assert path.name == f"{runner.timestamp}.log.json"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines have no memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_lines_are_those_of_mmcv(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, by_epoch: bool
) -> None:
    expected = json.loads((DATA / "mmcv_text_log.json").read_text())
    expected = expected["by_epoch" if by_epoch else "by_iter"]
    kind, limit = (EpochBasedRunner, "max_epochs") if by_epoch else (IterBasedRunner, "max_iters")
    runner = make_runner(
        kind,
        model=Steady(),
        meta={"exp_name": "try", "seed": 3},
        **{limit: 2 if by_epoch else 8},
    )
    loader = make_loader(3, scores=[{"acc": 0.25, "note": "fine"}] * 2)
    interval = 1 if by_epoch else 4
    runner.register_hook(EvalHook(loader, interval=interval, by_epoch=by_epoch))
    train(runner, by_epoch=by_epoch, interval_exp_name=6)
    lines = [record.getMessage() for record in caplog.records]
    lines = [line for line in lines if line.startswith(("Epoch", "Iter", "Exp"))]
    if by_epoch:
        assert lines == expected["printed"]
        assert written(runner) == expected["written"]
    else:  # MMCV mixes training's times into an evaluation, and takes it for training then
        assert [line for line in lines if "note" not in line] == [
            line for line in expected["printed"] if "note" not in line
        ]
        assert [line for line in lines if "note" in line] == [
            "Iter(val) [3]\tacc: 0.2500, note: fine"
        ] * 2
        assert [line for line in written(runner) if "note" not in line] == [
            line for line in expected["written"] if "note" not in line
        ]


def test_the_json_lines_hold_the_same_values(make_runner: MakeRunner) -> None:
    runner = make_runner(model=Steady(), max_epochs=1, meta={"seed": 3, "exp_name": "try"})
    train(runner)
    values = {"lr": 0.1, "data_time": 0.125, "time": 0.25, "loss": 0.5, "acc": 75.0}
    assert written(runner) == [
        {"seed": 3, "exp_name": "try"},
        {"mode": "train", "epoch": 1, "iter": 2, **values},
        {"mode": "train", "epoch": 1, "iter": 4, **values},
    ]


def test_floats_are_rounded_and_other_values_are_kept(make_runner: MakeRunner) -> None:
    def put(runner: Any) -> None:
        runner.log_buffer.output.update(
            third=1 / 3,
            thirds=[1 / 3, (2 / 3, "x")],
            single=np.float32(0.5),
            tensor=torch.tensor([1.0, 2.0]),
            path=Path("a"),
            name="x",
        )
        runner.log_buffer.ready = True

    runner = make_runner(max_epochs=1)
    runner.register_hook(ClosureHook("after_train_epoch", put))
    train(runner, interval=99)
    ((*_, line),) = [written(runner)]
    assert line["third"] == 0.33333
    assert line["thirds"] == [0.33333, [0.66667, "x"]]
    assert (line["single"], line["tensor"], line["path"]) == (0.5, [1.0, 2.0], "a")


def test_lines_of_an_evaluation(make_runner: MakeRunner, caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(EvalHook(make_loader(3, scores=[{"acc": 0.25, "note": "fine"}])))
    train(runner)
    assert printed(caplog)[-1] == "Epoch(val) [1][3]\tacc: 0.2500, note: fine"
    assert written(runner)[-1] == {
        "mode": "val",
        "epoch": 1,
        "iter": 3,
        "lr": 0.1,
        "acc": 0.25,
        "note": "fine",
    }


def test_lines_of_an_evaluation_by_iteration(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(IterBasedRunner, max_iters=2)
    runner.register_hook(EvalHook(make_loader(3), interval=2, by_epoch=False))
    train(runner, by_epoch=False)
    assert [line.split("\t")[0] for line in printed(caplog)] == ["Iter [2/2]", "Iter(val) [3]"]


def test_the_first_iteration_is_training_though_it_is_evaluated(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(IterBasedRunner, max_iters=1)
    runner.register_timer_hook({"type": "IterTimerHook"})
    runner.register_hook(EvalHook(make_loader(3), interval=1, by_epoch=False))
    train(runner, timer=False, by_epoch=False, interval=1)
    assert [line["mode"] for line in written(runner)] == ["train", "val"]


def test_lines_of_a_val_epoch(make_runner: MakeRunner, caplog: pytest.LogCaptureFixture) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_timer_hook(Seconds())
    runner.register_logger_hooks({"hooks": [{"type": "TextLoggerHook"}]})
    runner.run([make_loader(4), make_loader(3)], [("train", 1), ("val", 1)])
    (line,) = printed(caplog)
    assert re.fullmatch(r"Epoch\(val\) \[1\]\[3\]\tloss: \d+\.\d{4}", line)


def test_the_last_iterations_are_logged_on_request(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    train(runner, batches=3, ignore_last=False)
    assert [line["iter"] for line in written(runner)] == [2, 3]


def test_eta_goes_by_the_iterations_of_this_run(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(model=Steady(), max_epochs=1000)
    runner._epoch, runner._iter = 998, 3992
    train(runner)
    assert [re.search(r"eta: ([\d:]+)", line)[1] for line in printed(caplog)] == [
        "0:00:01",
        "0:00:01",
        "0:00:00",
        "0:00:00",
    ]


def test_without_a_length_there_is_no_eta_and_no_total(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter(make_loader(2))

    runner = make_runner(model=Steady(), max_epochs=1)
    runner.register_timer_hook(Seconds())
    runner.register_logger_hooks({"interval": 2, "hooks": [{"type": "TextLoggerHook"}]})
    runner.run([Endless()], TRAIN)
    (line,) = printed(caplog)
    assert line.startswith("Epoch [1][2/?]\tlr: 1.000e-01, time: 0.250, data_time: 0.125, loss")


def test_memory_is_written_where_there_is_a_gpu(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7 * 2**20)
    runner = make_runner(max_epochs=1)
    train(runner)
    assert "memory: 7, loss" in printed(caplog)[0]
    assert written(runner)[0]["memory"] == 7


def test_several_optimizers_and_none(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyModel()
    optimizers = {n: torch.optim.SGD(model.parameters(), lr=lr) for n, lr in (("g", 1), ("d", 2))}
    runner = make_runner(model=model, optimizer=optimizers, max_epochs=1)
    train(runner)
    assert "\tlr_g: 1.000e+00 lr_d: 2.000e+00, eta" in printed(caplog)[0]
    assert written(runner)[0]["lr"] == {"g": 1.0, "d": 2.0}
    caplog.clear()
    train(make_runner(optimizer=None, max_epochs=1, work_dir=None))
    assert printed(caplog)[0].startswith("Epoch [1][2/4]\teta: ")


def test_the_name_of_the_experiment_is_repeated(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(max_epochs=2, meta={"exp_name": "try"})
    train(runner, batches=6, interval_exp_name=4)
    lines = [record.getMessage() for record in caplog.records]
    heads = [line.split("\t")[0] for line in lines if line.startswith(("Epoch", "Exp"))]
    assert heads == [
        "Epoch [1][2/6]",
        "Exp name: try",  # iteration 4
        "Epoch [1][4/6]",
        "Exp name: try",  # the end of the epoch
        "Epoch [1][6/6]",
        "Exp name: try",  # iteration 8
        "Epoch [2][2/6]",
        "Epoch [2][4/6]",
        "Exp name: try",  # iteration 12
        "Epoch [2][6/6]",
    ]


def test_without_a_work_dir_only_the_terminal_is_written(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    train(make_runner(work_dir=None, max_epochs=1), out_dir=str(tmp_path / "out"))
    assert len(printed(caplog)) == 2
    assert os.listdir(tmp_path) == []


def test_logs_are_copied_after_the_run(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1)
    for name in ("config.py", "notes.txt", "sub/train.log"):
        path = Path(runner.work_dir) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    train(runner, out_dir=str(tmp_path / "out"))
    copies = sorted(p for p in (tmp_path / "out").rglob("*") if p.is_file())
    names = [str(path.relative_to(tmp_path / "out" / "run")) for path in copies]
    assert names == [f"{runner.timestamp}.log.json", "config.py", "sub/train.log"]
    for path in copies:
        kept = Path(runner.work_dir) / path.relative_to(tmp_path / "out" / "run")
        assert kept.read_bytes() == path.read_bytes()


def test_copied_logs_can_be_moved_and_chosen(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1)
    (Path(runner.work_dir) / "config.py").write_text("x = 1")
    train(runner, out_dir=str(tmp_path / "out"), out_suffix=".log.json", keep_local=False)
    assert os.listdir(tmp_path / "out" / "run") == [f"{runner.timestamp}.log.json"]
    assert os.listdir(runner.work_dir) == ["config.py"]


@pytest.mark.parametrize("out_dir", ["", "run/logs"])
def test_copying_into_itself_does_no_harm(
    make_runner: MakeRunner, tmp_path: Path, out_dir: str
) -> None:
    runner = make_runner(max_epochs=1)
    train(runner, out_dir=str(tmp_path / out_dir), keep_local=False)
    runner._max_epochs = 2
    runner.run([make_loader(4)], TRAIN)
    files = [path for path in tmp_path.rglob("*.json") if path.stat().st_size > 0]
    assert len(files) == 1


def test_a_second_run_goes_on_in_the_same_file(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    train(runner)
    runner._max_epochs = 2
    runner.run([make_loader(4)], TRAIN)
    assert [(line["epoch"], line["iter"]) for line in written(runner)] == [
        (1, 2),
        (1, 4),
        (2, 2),
        (2, 4),
    ]


def test_every_line_is_on_the_disk_when_the_run_dies(make_runner: MakeRunner) -> None:
    def look(runner: Any) -> None:
        if runner.iter == 2:
            assert [line["iter"] for line in written(runner)] == [2]
            raise KeyboardInterrupt

    runner = make_runner()
    runner.register_hook(ClosureHook("after_train_iter", look))
    with pytest.raises(KeyboardInterrupt):
        train(runner)
    (hook,) = [each for each in runner.hooks if isinstance(each, TextLoggerHook)]
    assert hook._file is None  # closed


@pytest.mark.parametrize("when", ["before_run", "log", "after_run"])
def test_a_full_disk_does_not_end_the_run(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    when: str,
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError("no space left on device")

    runner = make_runner(max_epochs=1, meta={"seed": 1} if when == "before_run" else None)
    if when == "after_run":
        monkeypatch.setattr(text.FileClient, "put", fail)
    else:
        monkeypatch.setattr(text.json, "dumps", fail)
    train(runner, out_dir=str(tmp_path / "out"))
    assert runner.iter == 4
    reports = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(reports) == 1
    assert "TextLoggerHook failed and is disabled" in reports[0].getMessage()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"interval": 0}, ValueError, "interval must be a positive int"),
        ({"out_dir": 3}, TypeError, "out_dir must be a path or None"),
        ({"out_suffix": 3}, TypeError, "out_suffix must be strings"),
        ({"out_suffix": (".log", 3)}, TypeError, "out_suffix must be strings"),
        ({"file_client_args": {"backend": "disk"}}, ValueError, "needs out_dir"),
        (
            {"file_client_args": {"backend": "petrel"}, "out_dir": "x"},
            ValueError,
            "no storage .petrel.",
        ),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TextLoggerHook(**keywords)


def test_overrides_of_log_and_its_parts_are_used(make_runner: MakeRunner) -> None:
    calls = []

    class Mine(TextLoggerHook):
        def log(self, runner: Any) -> dict[str, Any]:
            calls.append("log")
            return super().log(runner)

        def _log_info(self, entry: Any, runner: Any) -> None:
            calls.append("info")

        def _dump_log(self, entry: Any, runner: Any) -> None:
            calls.append(f"dump {entry['iter']}")

        def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
            return 77

    runner = make_runner(max_epochs=1)
    runner.register_hook(Mine(interval=4), "VERY_LOW")
    runner.run([make_loader(4)], TRAIN)
    assert calls == ["log", "info", "dump 77"]


def test_log_can_be_called_on_a_mock_that_never_saw_before_run() -> None:
    runner = MagicMock(
        mode="train", epoch=0, iter=9, inner_iter=9, max_iters=100, rank=0, meta=None
    )
    runner.current_lr.return_value = [0.1]
    runner.log_buffer.output = {"time": 1.0, "data_time": 0.5, "loss": 2.0}
    entry = TextLoggerHook().log(runner)
    assert entry == {
        "mode": "train",
        "epoch": 1,
        "iter": 10,
        "lr": 0.1,
        "time": 1.0,
        "data_time": 0.5,
        "loss": 2.0,
    }
    (_, line), _ = runner.logger.info.call_args
    assert line == (
        "Epoch [1][10/0]\tlr: 1.000e-01, eta: 0:01:30, time: 1.000, data_time: 0.500, loss: 2.0000"
    )
