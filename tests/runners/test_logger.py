"""get_logger: the terminal and a text file."""

from __future__ import annotations

import logging
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
