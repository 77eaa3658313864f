"""The progress bar of a test set: on a terminal that is free for it, and nothing anywhere else."""

from __future__ import annotations

import builtins
import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import EvalHook, ProgressBarHook, single_gpu_test
from hookrun.hooks.evaluation.progress import progress_over
from tests.distributed.workers import run_workers
from tests.support import make_loader


class Terminal(io.StringIO):
    """A text in memory that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Identity(nn.Module):
    def predict_step(self, batch: Any) -> list[Any]:
        return list(batch)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


@contextlib.contextmanager
def standard_error(terminal: Terminal) -> Iterator[None]:
    """A context, within a test, in which it is standard error, and stays so."""
    with contextlib.redirect_stderr(terminal):
        yield
        assert sys.stderr is terminal


BATCHES = [torch.ones(2), torch.zeros(2), torch.ones(1)]


def test_a_terminal_sees_how_far_it_is_and_gets_its_stream_back(terminal: Terminal) -> None:
    pytest.importorskip("rich")
    with standard_error(terminal):
        assert len(single_gpu_test(Identity(), BATCHES)) == 5
    written = terminal.getvalue()
    assert "evaluating" in written
    assert "3/3" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor is back


def test_a_loader_without_length(terminal: Terminal) -> None:
    pytest.importorskip("rich")

    class Endless:
        def __iter__(self) -> Iterator[Any]:
            yield from BATCHES

    with standard_error(terminal):
        assert len(single_gpu_test(Identity(), Endless())) == 5
    assert "3/?" in terminal.getvalue()


def test_an_error_leaves_no_bar(terminal: Terminal) -> None:
    class Failing(nn.Module):
        def predict_step(self, batch: Any) -> list[Any]:
            raise ArithmeticError

    with standard_error(terminal), pytest.raises(ArithmeticError):
        single_gpu_test(Failing(), BATCHES)
    assert terminal.getvalue().count("\x1b[?25h") == 1


def test_nothing_is_written_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    single_gpu_test(Identity(), BATCHES)
    assert capfd.readouterr() == ("", "")
    with monkeypatch.context() as context:
        context.setattr(sys, "stderr", None)
        assert len(single_gpu_test(Identity(), BATCHES)) == 5


def test_without_rich_there_is_no_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with standard_error(terminal), progress_over(BATCHES) as batches:
        assert batches is BATCHES
    assert terminal.getvalue() == ""


def test_a_bar_of_the_run_stays_the_only_one(terminal: Terminal, make_runner: Any) -> None:
    pytest.importorskip("rich")
    runner = make_runner(max_epochs=1)
    runner.register_hook(ProgressBarHook())
    runner.register_hook(EvalHook(make_loader()))
    with standard_error(terminal):
        runner.run([make_loader(1)], [("train", 1)])
    assert "batches, left" not in terminal.getvalue()
    assert "epoch 1/1" in terminal.getvalue()


PROGRAM = """
import sys
from tests.hooks.evaluation.test_progress import Identity, Terminal
from hookrun import multi_gpu_test

class Half:
    dataset = range(4)

    def __iter__(self):
        return iter([torch.ones(1), torch.ones(1)])

    def __len__(self):
        return 2

sys.stderr = Terminal()
results = multi_gpu_test(Identity(), Half(), gpu_collect=True)
found = {"written": sys.stderr.getvalue(), "results": results and len(results)}
"""


def test_only_rank_0_has_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    first, second = run_workers(PROGRAM, tmp_path)
    assert "2/2" in first["written"]
    assert second["written"] == ""
    assert (first["results"], second["results"]) == (4, None)
