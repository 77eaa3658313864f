"""What another program writes, replaces or deletes is seen at once, in whatever storage."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hookrun import FileClient
from hookrun.checkpoint import read_checkpoint, write_checkpoint

NAMES = ["a.pth", "b.pth", "sub/a.pth", "sub/deep/c.txt", "other/d.txt"]
FOLDERS = ["sub", "sub/deep", "other"]


class Remembers(MemoryFileSystem):
    """Keeps listings as S3's file system of fsspec does, and answers all it can from them."""

    protocol = "remembers"
    cachable = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("remembers://", "memory://"))

    def ls(self, path: str, detail: bool = True, **keywords: Any) -> Any:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True)
        return self.dircache[path] if detail else [each["name"] for each in self.dircache[path]]

    def info(self, path: str, **keywords: Any) -> Any:
        path = self._strip_protocol(path)
        parent = self._parent(path)
        if parent in self.dircache:
            for each in self.dircache[parent]:
                if each["name"] == path:
                    return each
            raise FileNotFoundError(path)
        return super().info(path)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **keywords: Any) -> bytes:
        self.info(path)
        return bytes(super().cat_file(path))

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


class Writer:
    """The other program: what it has written, and how it does so."""

    def __init__(self, root: str, put: Callable[..., None], delete: Callable[[str], None]) -> None:
        self.root, self._put, self._delete = root, put, delete
        self.files: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self._put(name, data)
        self.files[name] = data

    def delete(self, name: str) -> None:
        self._delete(name)
        del self.files[name]


@pytest.fixture(params=["s3", "memory", "remembers", "disk"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Callable[[], FileClient], Writer]]:
    """How to make a client, and another writer of the same empty folder."""
    backend = request.param
    if backend == "s3":
        s3 = request.getfixturevalue("s3")
        writer = Writer(
            f"s3://{s3.bucket}/run",
            lambda name, data: s3.put(f"run/{name}", data),
            lambda name: s3.delete(f"run/{name}"),
        )
        yield lambda: FileClient(**s3.arguments), writer
        return
    if backend == "disk":
        yield lambda: FileClient("disk"), _disk_writer(tmp_path)
        return
    fsspec.register_implementation("remembers", Remembers, clobber=True)
    folder = f"/{uuid.uuid4().hex}"
    memory = MemoryFileSystem()
    writer = Writer(
        f"{backend}:/{folder}",
        lambda name, data: memory.pipe_file(f"{folder}/{name}", data),
        lambda name: memory.rm_file(f"{folder}/{name}"),
    )
    yield lambda: FileClient(backend), writer
    Remembers.clear_instance_cache()


def _disk_writer(folder: Path) -> Writer:
    def put(name: str, data: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    def delete(name: str) -> None:
        (folder / name).unlink()
        for parent in (folder / name).parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()

    return Writer(str(folder), put, delete)


def check(client: FileClient, writer: Writer) -> None:
    """Every way of reading gives what is there."""
    files = writer.files
    folders = [each for each in FOLDERS if any(name.startswith(each + "/") for name in files)]

    def at(name: str) -> str:
        return client.join_path(writer.root, name)

    for name in NAMES:
        assert client.exists(at(name)) == client.isfile(at(name)) == (name in files), name
        assert not client.isdir(at(name))
        if name in files:
            assert client.get(at(name)) == files[name]
            with client.get_local_path(at(name)) as path:
                assert Path(path).read_bytes() == files[name]
        else:
            with pytest.raises(FileNotFoundError):
                client.get(at(name))
    for name in FOLDERS:
        assert client.exists(at(name)) == client.isdir(at(name)) == (name in folders), name
        assert not client.isfile(at(name))
    if files:
        listed = list(client.list_dir_or_file(writer.root, recursive=True))
        assert sorted(listed) == sorted([*files, *folders])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
def test_every_change_is_seen_by_every_client(
    place: tuple[Callable[[], FileClient], Writer], request: pytest.FixtureRequest, seed: int
) -> None:
    make, writer = place
    draw = random.Random(seed)
    clients = [make(), make()]
    slow = clients[0].name == "s3" and seed < 2  # each step is a hundred requests
    few = 3 if seed == 0 or request.config.getoption("--long") else 2
    for step in range(few if slow else 12):
        name = draw.choice(NAMES)
        if name in writer.files and draw.random() < 0.5:
            writer.delete(name)
        else:
            writer.put(name, b"%2d" % step)  # of one length, so that only the bytes differ
        for client in clients[:: draw.choice([1, -1])]:
            check(client, writer)


def test_what_clients_write_and_delete_is_seen_by_the_others(
    place: tuple[Callable[[], FileClient], Writer],
) -> None:
    make, writer = place
    for number, (one, other) in enumerate(itertools.permutations([make(), make()], 2)):
        name = NAMES[number % len(NAMES)]
        one.put(b"%d" % number, one.join_path(writer.root, name))
        writer.files[name] = b"%d" % number
        check(other, writer)
        if "/" not in name:
            one.remove(one.join_path(writer.root, name))
            del writer.files[name]
            check(other, writer)


def test_a_checkpoint_that_another_program_replaced_is_read_anew(
    place: tuple[Callable[[], FileClient], Writer], tmp_path: Path
) -> None:
    make, writer = place
    client = make()
    for epoch in range(3):
        write_checkpoint({"meta": {"epoch": epoch}}, tmp_path / "made.pth")
        writer.put("a.pth", (tmp_path / "made.pth").read_bytes())
        path = client.join_path(writer.root, "a.pth")
        list(client.list_dir_or_file(writer.root))
        assert read_checkpoint(path, client=client)["meta"]["epoch"] == epoch
