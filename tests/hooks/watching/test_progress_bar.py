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

from hookrun import ClosureHook, EpochBasedRunner, EvalHook, IterBasedRunner, ProgressBarHook
from hookrun.runners.logger import _TerminalHandler
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
    written = re.sub(r"\s+", " ", terminal.written())  # it is too narrow for the line
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
