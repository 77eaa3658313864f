"""Logs are of one run each, and nothing that was planted is written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hookrun.storage import open_own


class Owner:
    pass


def test_each_owner_has_its_own_file_and_gets_it_again(tmp_path: Path) -> None:
    one, other = Owner(), Owner()
    for owner, text in ((one, "a"), (other, "b"), (one, "c"), (other, "d")):
        with open_own(owner, tmp_path / "x.log.json") as file:
            file.write(text)
            name = file.name
        with open_own(owner, name) as file:  # by the name it got, too
            file.write(text)
    assert sorted(os.listdir(tmp_path)) == ["x.log.json", "x_2.log.json"]
    assert (tmp_path / "x.log.json").read_text() == "aacc"
    assert (tmp_path / "x_2.log.json").read_text() == "bbdd"


@pytest.mark.parametrize("writers", [2, 3])
def test_who_opens_a_file_twice_at_a_time_overwrites_nothing(tmp_path: Path, writers: int) -> None:
    owner = Owner()
    files = [open_own(owner, tmp_path / "x.log") for _ in range(writers)]
    lines = [f"{turn}: {'x' * number}\n" for turn in range(4) for number in range(writers)]
    for line, file in zip(lines, files * 4, strict=True):
        file.write(line)
        file.flush()
    for file in files:
        file.close()
    assert (tmp_path / "x.log").read_text() == "".join(lines)


@pytest.mark.parametrize("plant", ["file", "link", "loop", "dangling", "pipe", "folder"])
def test_what_is_there_is_left_alone(tmp_path: Path, plant: str) -> None:
    path, victim = tmp_path / "x.log", tmp_path / "victim"
    victim.write_text("precious")
    if plant == "file":
        path.write_text("precious")
    elif plant == "pipe":
        os.mkfifo(path)
    elif plant == "folder":
        path.mkdir()
    else:
        os.symlink({"link": "victim", "loop": "x.log", "dangling": "gone"}[plant], path)
    with open_own(Owner(), path) as file:
        file.write("new")
    assert (tmp_path / "x_2.log").read_text() == "new"
    assert victim.read_text() == "precious"
    assert not (tmp_path / "gone").exists()
    assert plant != "file" or path.read_text() == "precious"


def test_what_was_put_in_the_place_of_an_own_file_is_not_written_to(tmp_path: Path) -> None:
    owner = Owner()
    open_own(owner, tmp_path / "x.log").close()
    (tmp_path / "victim").write_text("precious")
    for plant in (lambda path: os.symlink("victim", path), os.mkfifo):
        (tmp_path / "x.log").unlink()
        plant(tmp_path / "x.log")
        with pytest.raises(OSError, match="log"):
            open_own(owner, tmp_path / "x.log")
    assert (tmp_path / "victim").read_text() == "precious"
