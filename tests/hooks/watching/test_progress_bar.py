"""ProgressBarHook: a bar under the log on a terminal, and lines of text where there is none."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, IterBasedRunner, ProgressBarHook
from hookrun.hooks.watching.progress_display import Painter, as_text
from hookrun.hooks.watching.progress_reading import Progress, ProgressReader
from hookrun.runners.default_logger import _TerminalHandler
from tests.support import TinyModel, make_loader

pty = pytest.importorskip("pty", reason="needs pseudo terminals")
termios = pytest.importorskip("termios", reason="needs pseudo terminals")

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Terminal:
    """A pseudo terminal of 60 columns, and what was written to it."""

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 60))
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self._written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        # Read as it comes: a terminal whose buffer is full would make the writer wait.
        while True:
            try:
                chunk = os.read(self._master, 4096)
            except OSError:  # closed at the other end
                return
            if not chunk:
                return
            self._written += chunk

    def written(self) -> str:
        """Everything written; the terminal is closed."""
        self.file.close()
        self._reader.join()
        os.close(self._master)
        return self._written.decode()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal that can do what most can."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    yield terminal
    if not terminal.file.closed:
        terminal.written()


def train(runner: Any, terminal: Terminal, loader: Any = None) -> None:
    """Run with the terminal as standard error."""
    with contextlib.redirect_stderr(terminal.file):
        runner.run([make_loader(4) if loader is None else loader], TRAIN)
        assert sys.stderr is terminal.file


def last_drawn(written: str) -> str:
    """The bar as it was drawn last, without control sequences."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    return [line for line in re.split(r"[\r\n]+", text) if " eta " in line][-1]


def test_the_bar_ends_full_and_the_cursor_is_shown_again(
    make_runner: MakeRunner, terminal: Terminal
) -> None:
    runner = make_runner(EpochBasedRunner, max_epochs=3)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal)
    written = terminal.written()
    assert re.match(r"epoch 3/3 ━{10,} 12/12 0:00:0\d eta 0:00:00", last_drawn(written))
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_by_iteration_it_counts_iterations(make_runner: MakeRunner, terminal: Terminal) -> None:
    runner = make_runner(IterBasedRunner, max_iters=5)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal)
    assert re.match(r"training ━+ 5/5 ", last_drawn(terminal.written()))


def test_a_loader_without_length_has_no_total(make_runner: MakeRunner, terminal: Terminal) -> None:
    class Endless:
        def __iter__(self) -> Any:
            return iter(make_loader(4))

    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal, Endless())
    assert "4/? 0:00:0" in last_drawn(terminal.written())


def test_log_lines_stand_whole_above_the_bar(make_runner: MakeRunner, terminal: Terminal) -> None:
    line = "a log line of more than sixty columns [1][2/4], " + "with words " * 5 + "to its end"
    runner = make_runner(max_epochs=1)
    handler = _TerminalHandler()
    runner.logger.addHandler(handler)
    runner.register_hook(ClosureHook("after_train_iter", lambda runner: runner.logger.info(line)))
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    try:
        train(runner, terminal)
    finally:
        runner.logger.removeHandler(handler)
    written = terminal.written()
    assert written.count(line) == 4
    assert written.rindex(" eta ") > written.rindex(line)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_terminal_is_restored_when_the_run_dies(
    make_runner: MakeRunner, terminal: Terminal, error: type[BaseException]
) -> None:
    def fail(runner: Any) -> None:
        if runner.iter == 2:
            raise error

    runner = make_runner(max_epochs=1)
    runner.register_hook(ClosureHook("after_train_iter", fail))
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    before = set(threading.enumerate())
    with contextlib.redirect_stderr(terminal.file):
        with pytest.raises(error):
            runner.run([make_loader(4)], TRAIN)
        assert sys.stderr is terminal.file
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)  # it was asked to stop, and ends when it wakes up
        assert not thread.is_alive()
    written = terminal.written()
    assert " 2/4 " in last_drawn(written)
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_a_second_run_has_a_bar_of_its_own(make_runner: MakeRunner, terminal: Terminal) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal)
    runner._max_epochs = 2
    train(runner, terminal)
    assert " 8/8 " in last_drawn(terminal.written())


def test_without_rich_the_run_goes_on_and_says_so(
    make_runner: MakeRunner,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = builtins.__import__

    def without_rich(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("rich"):
            raise ModuleNotFoundError("No module named 'rich'")
        return original(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal)
    assert "rich is not installed: pip install 'hookrun[loggers]'" in caplog.text
    assert terminal.written() == ""


def test_lines_are_written_where_there_is_no_terminal(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    runner = make_runner(max_epochs=1)
    drawn = threading.Event()

    def wait_for_a_line(runner: Any) -> None:
        while not drawn.is_set() and not stderr.getvalue():
            drawn.wait(0.001)

    runner.register_hook(ProgressBarHook(line_seconds=0.001), "VERY_LOW")
    runner.register_hook(ClosureHook("before_train_iter", wait_for_a_line))
    runner.run([make_loader(3)], TRAIN)
    *first, last = stderr.getvalue().splitlines()
    assert re.match(r"epoch 1/1  0/3  0:00:\d\d eta \?  lr 0.1", first[0])
    assert re.match(r"epoch 1/1  3/3  0:00:\d\d eta 0:00:00  loss [\d.e-]+  lr 0.1", last)
    assert "\x1b" not in stderr.getvalue()


def test_only_one_line_is_written_in_a_short_run(
    make_runner: MakeRunner, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    runner.run([make_loader(1)], TRAIN)
    assert capsys.readouterr().err.count("\n") == 1


def test_without_standard_error_nothing_is_shown(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    runner.run([make_loader(1)], TRAIN)


def test_a_validation_and_an_evaluation_have_a_bar_below(
    make_runner: MakeRunner, terminal: Terminal
) -> None:
    """And it is gone in the end. The test draws itself: a thread would draw when it likes."""
    hook = ProgressBarHook(refresh_per_second=1e-3)

    def draw(runner: Any) -> None:
        hook._display.draw(hook._reader.read())

    class Drawing(TinyModel):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            draw(None)
            return super().forward(*args, **kwargs)

    runner = make_runner(max_epochs=1, model=Drawing())
    runner.register_hook(hook, "VERY_LOW")
    runner.register_hook(EvalHook(make_loader(3)))
    runner.register_hook(EvalHook(make_loader(3), test_fn=lambda *_: draw(None) or []))
    runner.register_hook(ClosureHook("after_val_iter", draw))
    with contextlib.redirect_stderr(terminal.file):
        runner.run([make_loader(4), make_loader(2)], [("train", 1), ("val", 1)])
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.written()))
    nested = [re.sub(r"[━╸╺ ]+", " ", line) for line in lines if re.match("  (eval|valid)", line)]
    evaluated = [f" evaluating {done}/3 " for done in range(3)]
    assert [*dict.fromkeys(nested)] == [
        *evaluated,
        " evaluating ",
        " validating 1/2 ",
        " validating 2/2 ",
    ]
    end = "".join(lines[-4:])
    assert "evaluating" not in end
    assert "validating" not in end


def test_nothing_is_drawn_by_other_processes_than_the_master(
    make_runner: MakeRunner, terminal: Terminal
) -> None:
    runner = make_runner(max_epochs=1)
    runner._rank = 1
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    train(runner, terminal)
    assert terminal.written() == ""


def test_it_listens_to_nothing_while_the_run_goes() -> None:
    """The custom events of an evaluation are no points of a run."""
    assert ProgressBarHook().get_triggered_stages() == ["before_run"]


class Other:
    """A model that is no module and says nothing of its mode."""

    def __init__(self) -> None:
        self._model = TinyModel()
        self.train, self.eval = self._model.train, self._model.eval
        self.train_step, self.val_step = self._model.train_step, self._model.val_step

    def state_dict(self) -> dict[str, Any]:
        return self._model.state_dict()


@pytest.mark.parametrize("phase", ["train", "val"])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_a_model_may_say_nothing_of_its_mode(
    make_runner: MakeRunner, terminal: Terminal, kind: type, phase: str
) -> None:
    runner = make_runner(kind, model=Other(), optimizer=None)
    runner.register_hook(ProgressBarHook(), "VERY_LOW")
    workflow = [("train", 1), ("val", 1)] if phase == "val" else TRAIN
    with contextlib.redirect_stderr(terminal.file):
        runner.run([make_loader(4)] * len(workflow), workflow)
    assert " eta " in last_drawn(terminal.written())


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_bad_rates(rate: float) -> None:
    with pytest.raises(ValueError, match="refresh_per_second must be positive"):
        ProgressBarHook(rate)
    with pytest.raises(ValueError, match="line_seconds must be positive"):
        ProgressBarHook(line_seconds=rate)


# What is read, and how it is drawn


def progress(**changed: Any) -> Progress:
    given: dict[str, Any] = {
        "phase": "training",
        "epoch": 3,
        "max_epochs": 12,
        "done": 2811,
        "total": 11244,
        "inner": None,
        "elapsed": 82.5,
        "left": 247.5,
        "loss": 0.123456,
        "lr": 0.00125,
        "samples_per_second": 812.4,
        "memory": 1203.2,
    }
    return Progress(**{**given, **changed})


def test_how_it_looks_at_80_columns() -> None:
    assert as_text(progress(), 80).splitlines() == [
        "epoch 3/12 ━━━━━━━━╸                           2811/11244 0:01:22 eta 0:04:07",
        "loss 0.1235  lr 0.00125  812 samples/s  memory 1203 MiB",
    ]
    nested = progress(phase="validating", inner=(30, 40), loss=None, samples_per_second=None)
    assert as_text(nested, 80).splitlines() == [
        "epoch 3/12   ━━━━━━━━                          2811/11244 0:01:22 eta 0:04:07",
        "  validating ━━━━━━━━━━━━━━━━━━━━━━━━╸         30/40",
        "lr 0.00125  memory 1203 MiB",
    ]
    line = "epoch 3/12  2811/11244  0:01:22 eta 0:04:07  loss 0.1235  lr 0.00125  812 samples/s"
    assert progress(memory=None).line == line
    assert "  evaluating 1/?  " in progress(phase="evaluating", inner=(1, None)).line


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("inner", [None, (3, 40), (123456, None)])
def test_no_line_is_wider_than_the_terminal(width: int, inner: Any) -> None:
    for changed in ({}, {"total": None, "left": None, "max_epochs": None}, {"loss": 1e-300}):
        drawn = as_text(progress(inner=inner, phase="evaluating", **changed), width)
        assert max(map(len, drawn.splitlines())) <= width
        assert len(drawn.splitlines()) == 3


def test_a_loss_on_a_device_is_shown_once_it_was_read(make_runner: MakeRunner) -> None:
    """Meta tensors stand for those of a device here: nothing can be read of them."""
    runner = make_runner()
    runner.outputs = {"loss": torch.empty((), device="meta"), "num_samples": 2}
    runner.optimizer.param_groups[0]["lr"] = torch.empty((), device="meta")
    reader = ProgressReader(runner)
    assert reader.read().loss is None
    assert reader.read().lr is None
    runner.log_buffer.update({"loss": torch.tensor(3.0)}, 2)
    assert reader.read().loss is None  # not read yet
    runner.log_buffer.average()
    assert reader.read().loss == 3.0
    runner.log_buffer.clear()
    assert reader.read().loss == 3.0
    runner.log_buffer.update({"loss": 5.0}, 1)
    assert reader.read().loss == 5.0


def test_speed_and_time_left(make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    runner = make_runner(IterBasedRunner, max_iters=100)
    runner.mode, runner.outputs = "train", {"num_samples": 8}
    reader = ProgressReader(runner)
    first = reader.read()
    assert (first.samples_per_second, first.left) == (None, None)
    now[0], runner._iter = 110.0, 20
    reading = reader.read()
    assert (reading.samples_per_second, reading.left) == (16.0, 40.0)
    reader.is_evaluating = True
    now[0] = 150.0  # an evaluation does not count as slow training
    assert reader.read().samples_per_second == 16.0
    reader.is_evaluating = False
    now[0], runner._iter = 152.0, 22
    assert reader.read().samples_per_second == 8.0
    now[0], runner._iter = 200.0, 100
    assert reader.read().left == 0.0


def test_drawing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drawing that takes 10 ms is repeated after 2.5 s at the earliest."""
    spent, pauses = [0.0], []

    def draw() -> None:
        spent[0] += 0.010
        if len(pauses) == 3:
            raise RuntimeError("enough")

    class Waiting(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread().name == "hookrun-progress":
                pauses.append(timeout)
                return False
            return super().wait(timeout)

    monkeypatch.setattr("time.thread_time", lambda: spent[0])
    monkeypatch.setattr("hookrun.hooks.watching.progress_display.threading.Event", Waiting)
    painter = Painter(draw, 0.25)
    painter.stop()
    assert pauses == [0.25, pytest.approx(2.5), pytest.approx(2.5)]
    assert str(painter.error) == "enough"
