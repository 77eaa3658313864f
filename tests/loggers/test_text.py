"""TextLoggerHook: the lines for people, as MMCV writes them, and the JSON lines for programs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, IterBasedRunner, TextLoggerHook
from tests.support import TinyModel, make_loader

from .text_support import TRAIN, MakeRunner, Seconds, printed, train, written

DATA = Path(__file__).parents[1] / "fixtures"


class Steady(TinyModel):
    """Whose loss is 0.5 and accuracy 75."""

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return {"log_vars": {"loss": 0.5, "acc": 75}, "num_samples": 2}


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
    _, line = printed(caplog)
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
