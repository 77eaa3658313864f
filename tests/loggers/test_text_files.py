"""TextLoggerHook's files: where they are, that they are whole, and what becomes of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from hookrun import ClosureHook, FileClient, Hook, TextLoggerHook
from hookrun.loggers import message_file, text
from tests.support import make_loader

from .text_support import TRAIN, MakeRunner, printed, train, written


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
    stamp = runner.timestamp
    assert names == [f"{stamp}.log", f"{stamp}.log.json", "config.py", "sub/train.log"]
    for path in copies:
        kept = Path(runner.work_dir) / path.relative_to(tmp_path / "out" / "run")
        assert kept.read_bytes() == path.read_bytes()


def test_copied_logs_can_be_moved_and_chosen(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1)
    (Path(runner.work_dir) / "config.py").write_text("x = 1")
    train(runner, out_dir=str(tmp_path / "out"), out_suffix=".log.json", keep_local=False)
    assert os.listdir(tmp_path / "out" / "run") == [f"{runner.timestamp}.log.json"]
    assert sorted(os.listdir(runner.work_dir)) == [f"{runner.timestamp}.log", "config.py"]


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


def test_all_that_the_logger_says_in_a_run_is_in_a_file(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(
        ClosureHook("before_train_epoch", lambda runner: runner.logger.warning("of mine"))
    )
    train(runner)
    text = (Path(runner.work_dir) / f"{runner.timestamp}.log").read_text()
    lines = [line.split(" - ", 3) for line in text.splitlines() if line.count(" - ") >= 3]
    assert lines[0][2:] == ["INFO", "start running, host: " + lines[0][3].split("host: ")[1]]
    assert ["WARNING", "of mine"] in [line[2:] for line in lines]
    assert [line[3] for line in lines if line[3].startswith("Epoch")] == printed(caplog)
    runner.logger.info("after the run")
    assert "after the run" not in (Path(runner.work_dir) / f"{runner.timestamp}.log").read_text()


def test_a_file_that_the_logger_writes_already_is_left_to_it(
    make_runner: MakeRunner, logger: logging.Logger
) -> None:
    runner = make_runner(max_epochs=1)
    path = Path(runner.work_dir) / f"{runner.timestamp}.log"
    handler = logging.FileHandler(path)
    logger.addHandler(handler)
    try:
        train(runner)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert sorted(os.listdir(runner.work_dir)) == [path.name, f"{path.name}.json"]
    assert path.read_text().count("start running") == 1


def test_a_file_of_messages_on_a_full_disk_is_reported_once(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closed by the logger)
    monkeypatch.setattr(message_file, "open_own", lambda *given: full)
    runner = make_runner(max_epochs=1)
    train(runner)
    assert runner.iter == 4
    reports = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in reports] == [
        "TextLoggerHook failed and is disabled; the run goes on. OSError: [Errno 28] No space left "
        "on device"
    ]
    full = Path("/dev/full").open("w")  # noqa: SIM115 (closed by the logger)
    with pytest.raises(OSError, match="No space left"):
        train(make_runner(max_epochs=1), on_error="raise")


def test_logs_are_copied_to_another_storage(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    train(runner, out_dir="memory://logs", file_client_args={"backend": "memory"})
    client = FileClient("memory")
    for suffix in (".log", ".log.json"):
        name = f"{runner.timestamp}{suffix}"
        copy = client.get(f"memory://logs/run/{name}")
        assert copy == (Path(runner.work_dir) / name).read_bytes()


def test_a_time_below_a_millisecond_shows(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Microseconds(Hook):
        def after_train_iter(self, runner: Any) -> None:
            runner.log_buffer.update({"data_time": 0.0000041234, "time": 0.00042})

    runner = make_runner(max_epochs=1)
    runner.register_timer_hook(Microseconds())
    train(runner, timer=False)
    assert "time: 0.00042, data_time: 4.1e-06, " in printed(caplog)[0]
    assert written(runner)[0]["time"] == 0.00042
    assert written(runner)[0]["data_time"] == 4.1234e-06
