"""get_logger: the terminal and a text file."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from hookrun import get_logger


@pytest.fixture
def name() -> Iterator[str]:
    name = "tests_of_get_logger"
    yield name
    for each in (name, f"{name}.part"):
        logger = logging.getLogger(each)
        for handler in list(logger.handlers):
            handler.close()
            logger.removeHandler(handler)
        logger.propagate = True


def test_it_writes_both(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "run.log"
    logger = get_logger(name, file)
    logger.info("loss %s", 0.5)
    logger.debug("not this")
    for text in (file.read_text(), capsys.readouterr().err):
        assert text.endswith(f" - {name} - INFO - loss 0.5\n")


def test_it_is_set_up_once(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for the loggers below it; a file is added if it is another one."""
    get_logger(name, tmp_path / "a.log")
    assert get_logger(name, tmp_path / "a.log") is get_logger(name)
    get_logger(f"{name}.part", tmp_path / "b.log").warning("here")
    assert capsys.readouterr().err.count("here") == 1
    assert (tmp_path / "a.log").read_text().count("here") == 1
    assert (tmp_path / "b.log").read_text().count("here") == 1


@pytest.mark.parametrize(("mode", "expected"), [("w", ["new"]), ("a", ["old", "new"])])
def test_file_mode(name: str, mode: str, expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    file.write_text("old\n")
    get_logger(name, file, logging.DEBUG, mode).debug("new")
    assert [line.split(" - ")[-1] for line in file.read_text().splitlines()] == expected


def test_a_wrong_mode(name: str) -> None:
    with pytest.raises(ValueError, match="file_mode is 'w' or 'a', not 'x'"):
        get_logger(name, file_mode="x")


def test_a_narrow_terminal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are broken between words, in the terminal only; tables stay as they are."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    text = "Epoch [1][10/100]\tlr: 1.000e-01, eta: 0:00:10, time: 0.010, loss: 0.6931, acc: 0.5000"
    table = "a | " + "b " * 40 + "\n1 | 2"
    with os.fdopen(its_end, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        logger = get_logger(name, tmp_path / "run.log")
        for each in (text, table, "x" * 100, "short"):
            logger.info("%s", each)
        stream.flush()
        written = ""
        while "short" not in written:  # a terminal gives what there is
            written += os.read(terminal, 4096).decode().replace("\r", "")
    os.close(terminal)
    first = written[: written.index("\n20", 1)]
    assert max(len(line) for line in first.splitlines()) <= 60
    assert first.split()[-len(text.split()) :] == text.split()
    assert not any(line.endswith(":") for line in first.splitlines())
    assert table in written
    assert "x" * 100 in written
    assert text in (tmp_path / "run.log").read_text()
