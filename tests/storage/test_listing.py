"""``list_dir_or_file`` ends, whatever links there are, and names what is there once."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from hookrun import FileClient


def listed(folder: Path, **keywords: bool) -> list[str]:
    return list(FileClient("disk").list_dir_or_file(folder, recursive=True, **keywords))


def make(folder: Path, *names: str) -> None:
    """Files; folders, which end with a slash; and links, written as ``name -> target``."""
    for name in names:
        link, arrow, target = name.partition(" -> ")
        path = folder / link
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrow:
            os.symlink(target, path)
        elif name.endswith("/"):
            path.mkdir()
        else:
            path.touch()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "link -> ."], ["a", "link"]),
        (["d/a", "d/up -> .."], ["d", "d/a", "d/up"]),
        (["d/a", "d/e/up -> ../.."], ["d", "d/a", "d/e", "d/e/up"]),
        (["d/a", "link -> d"], ["d", "d/a", "link", "link/a"]),
        (["d/a", "one -> d", "two -> d"], ["d", "d/a", "one", "one/a", "two", "two/a"]),
        (["x -> y", "y -> x"], []),
        (["x -> x", "a"], ["a"]),
        (["x -> gone", "a"], ["a"]),
        (
            ["d/to_e -> ../e", "e/to_d -> ../d"],
            ["d", "d/to_e", "d/to_e/to_d", "e", "e/to_d", "e/to_d/to_e"],
        ),
        (
            ["in/link -> ../out", "out/back -> ../in", "out/f"],
            [
                *("in", "in/link", "in/link/back", "in/link/f"),
                *("out", "out/back", "out/back/link", "out/f"),
            ],
        ),
    ],
)
def test_links(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    make(tmp_path / "here", *names)
    assert listed(tmp_path / "here") == expected
    os.symlink(tmp_path / "here", tmp_path / "other name")
    assert listed(tmp_path / "other name") == expected


def test_many_folders_that_all_link_to_each_other(tmp_path: Path) -> None:
    count = 14  # in all their orders these would take years
    for one in range(count):
        make(
            tmp_path, f"{one}/file", *(f"{one}/to_{other} -> ../{other}" for other in range(count))
        )
    found = listed(tmp_path, list_dir=False)
    assert {f"{number}/file" for number in range(count)} <= set(found)


def test_folders_deeper_than_python_recurses(tmp_path: Path) -> None:
    depth = 1500
    with contextlib.chdir(tmp_path):
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    try:
        assert len(listed(tmp_path)) == depth
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil.rmtree recurses


def test_a_filesystem_of_fsspec_with_links_ends_too(tmp_path: Path) -> None:
    make(tmp_path, "a", "link -> .", "d/up -> ..")
    client = FileClient("dir", path=str(tmp_path), target_protocol="file")
    assert list(client.list_dir_or_file("", recursive=True)) == ["a", "d", "d/up", "link"]
