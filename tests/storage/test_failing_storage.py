"""A storage that breaks at any moment: a name means the whole old file or the whole new one."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from hookrun import FileClient, save_checkpoint
from hookrun.checkpoint import read_checkpoint
from tests.programs import Program

from .conftest import S3


class Breaks(MemoryFileSystem):
    """Takes files in pieces, and breaks at one of its steps: once, or from then on for good."""

    protocol = "breaks"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    step = 0
    failing: ClassVar[range] = range(0)
    error: ClassVar[type[BaseException]] = OSError

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        head, found, rest = path.partition("://")
        return super()._strip_protocol(f"memory://{rest}" if found else head)

    @classmethod
    def work(cls) -> None:
        cls_step = Breaks.step
        Breaks.step += 1
        if cls_step in Breaks.failing:
            raise Breaks.error("the connection is lost")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.work()
        super().makedirs(path, exist_ok)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kw: Any) -> None:
        for end in range(0, len(value) + 1, max(len(value) // 4, 1)):
            super().pipe_file(path, value[:end])
            self.work()
        super().pipe_file(path, value)
        self.work()

    def cat_file(self, path: str, *args: Any, **kw: Any) -> bytes:
        self.work()
        return bytes(super().cat_file(path))

    def cp_file(self, path1: str, path2: str, **kw: Any) -> None:
        self.work()
        super().cp_file(path1, path2)
        self.work()

    def rm_file(self, path: str) -> None:
        self.work()
        super().rm_file(path)
        self.work()

    def info(self, path: str, **kw: Any) -> Any:
        self.work()
        return super().info(path)


class Moves(Breaks):
    """Has a way of its own to move files."""

    protocol = "moves"

    def mv(self, path1: str, path2: str, **kw: Any) -> None:
        self.work()
        self.store[self._strip_protocol(path2)] = self.store.pop(self._strip_protocol(path1))
        self.work()


class NeverReplaces(Moves):
    """Moves files only to names that are free."""

    protocol = "never-replaces"

    def mv(self, path1: str, path2: str, **kw: Any) -> None:
        if self._strip_protocol(path2) in self.store:
            raise FileExistsError(path2)
        super().mv(path1, path2)


class CopiesInPieces(Breaks):
    """Copies as it writes, and can fail while it does."""

    protocol = "copies-in-pieces"

    def cp_file(self, path1: str, path2: str, **kw: Any) -> None:
        self.pipe_file(path2, self.store[self._strip_protocol(path1)].getvalue())


class CannotCopy(Breaks):
    """Neither moves nor copies."""

    protocol = "cannot-copy"

    def cp_file(self, path1: str, path2: str, **kw: Any) -> None:
        raise NotImplementedError


ALL = [Breaks, Moves, NeverReplaces, CopiesInPieces, CannotCopy]
AT_ONCE = [Breaks, Moves]  # what gives a file its name cannot break halfway
OLD, NEW = b"old " * 7, b"new" * 11


@pytest.fixture(autouse=True)
def _works() -> Iterator[None]:
    for each in ALL:
        fsspec.register_implementation(each.protocol, each, clobber=True)
    yield
    Breaks.failing, Breaks.error = range(0), OSError
    Breaks.store.clear()


def put(client: FileClient, path: str, data: bytes, failing: range) -> bool:
    """Put a file while the storage fails at these steps; whether that raised nothing."""
    Breaks.step, Breaks.failing = 0, failing
    try:
        client.put(data, path)
    except Breaks.error:
        return False
    else:
        return True
    finally:
        Breaks.failing = range(0)


def steps(client: FileClient, path: str) -> int:
    assert put(client, path, OLD, range(0))
    assert put(client, path, NEW, range(0))
    return Breaks.step


@pytest.mark.parametrize("error", [OSError, ConnectionError, TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("system", ALL)
def test_a_storage_that_fails_once(system: type[Breaks], error: type[BaseException]) -> None:
    if error is KeyboardInterrupt and system not in AT_ONCE:
        pytest.skip("what gives a file its name is more than one step there")
    client = FileClient(system.protocol)
    path = f"{system.protocol}://run/epoch_1.pth"
    count = steps(client, path)
    Breaks.error = error
    for step in range(count):
        assert put(client, path, OLD, range(0))
        went_well = put(client, path, NEW, range(step, step + 1))
        assert client.get(path) in ((NEW,) if went_well else (OLD, NEW)), step
        assert list(client.list_dir_or_file(f"{system.protocol}://run")) == ["epoch_1.pth"]
    left = [name for name in Breaks.store if ".hookrun-" in name]
    assert all(Breaks.store[name].getvalue() in (OLD, NEW) for name in left)


@pytest.mark.parametrize("system", AT_ONCE)
def test_a_storage_that_fails_for_good(system: type[Breaks]) -> None:
    client = FileClient(system.protocol)
    path = f"{system.protocol}://run/epoch_1.pth"
    for step in range(steps(client, path)):
        assert put(client, path, OLD, range(0))
        went_well = put(client, path, NEW, range(step, 10**9))
        assert client.get(path) in ((NEW,) if went_well else (OLD, NEW)), step
        assert list(client.list_dir_or_file(f"{system.protocol}://run")) == ["epoch_1.pth"]


@pytest.mark.parametrize("system", ALL)
def test_where_a_name_cannot_change_at_once_the_whole_new_file_is_somewhere(
    system: type[Breaks],
) -> None:
    client = FileClient(system.protocol)
    path = f"{system.protocol}://run/epoch_1.pth"
    for step in range(steps(client, path)):
        Breaks.store.clear()
        assert put(client, path, OLD, range(0))
        put(client, path, NEW, range(step, 10**9))
        whole = [name for name, file in Breaks.store.items() if file.getvalue() in (OLD, NEW)]
        assert whole, step


def test_the_error_names_the_file_that_is_whole() -> None:
    client = FileClient("moves")
    client.put(OLD, "moves://run/a")
    count = steps(client, "moves://run/a")
    Breaks.step, Breaks.failing = 0, range(count - 2, 10**9)  # the move
    with pytest.raises(OSError, match="connection is lost") as raised:
        client.put(NEW, "moves://run/a")
    assert any(
        "the new file is complete at 'moves://run/.hookrun-" in n for n in raised.value.__notes__
    )


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.long)])
def test_checkpoints_on_a_storage_that_fails_now_and_then(seed: int) -> None:
    draw = random.Random(seed)
    path, epoch = "breaks://run/latest.pth", 0
    failed = 0
    save_checkpoint(torch.nn.Linear(1, 1), path, meta={"epoch": 0})
    for number in range(1, 151):
        start = draw.randrange(40)
        Breaks.step, Breaks.failing = 0, range(start, start + draw.choice([1, 2, 100]))
        try:
            save_checkpoint(torch.nn.Linear(1, 1), path, meta={"epoch": number})
        except OSError:
            failed += 1
        else:
            epoch = number
        Breaks.failing = range(0)
        found = read_checkpoint(path)["meta"]["epoch"]
        assert found in (epoch, number)
        epoch = found
    assert failed > 20


def test_names_that_look_like_patterns() -> None:
    for system in ALL:
        client = FileClient(system.protocol)
        for name in ("[1]", "a*b", "what?"):
            path = f"{system.protocol}://exp{name}/e{name}.pth"
            client.put(OLD, path)
            client.put(NEW, path)
            assert client.get(path) == NEW
            assert list(client.list_dir_or_file(f"{system.protocol}://exp{name}")) == [
                f"e{name}.pth"
            ]


KILLED = """
import sys
from hookrun import FileClient
client = FileClient("dir", path=sys.argv[1], target_protocol="file")
print("ready", flush=True)
for number in range(10**6):
    client.put(bytes([65 + number % 26]) * (3_000_000 + number % 26), "run/a.pth")
"""


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.long)])
def test_a_writer_that_is_killed(tmp_path: Path, kills: int) -> None:
    """On a real disk, which fsspec writes to."""
    draw = random.Random(0)
    for _ in range(kills):
        with Program("-c", KILLED, tmp_path) as writing:
            assert writing.stdout.readline() == "ready\n"
            while not (tmp_path / "run" / "a.pth").exists():
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            writing.send_signal(signal.SIGKILL)
            assert writing.wait() == -signal.SIGKILL
        data = (tmp_path / "run" / "a.pth").read_bytes()
        assert data == data[:1] * (3_000_000 + data[0] - 65)
        assert list(FileClient("disk").list_dir_or_file(tmp_path / "run")) == ["a.pth"]


def test_an_upload_that_s3_refuses_leaves_the_old_object(s3: S3) -> None:
    client = FileClient(**s3.arguments)
    path = f"s3://{s3.bucket}/a.pth"
    client.put(OLD, path)
    s3.gate.refuses = lambda method, key, query: method == "PUT"
    with pytest.raises(PermissionError, match="refuses access"):
        client.put(NEW, path)
    assert s3.get("a.pth") == OLD


@pytest.mark.parametrize("refused", ["partNumber=2", "partNumber=3", "complete"])
def test_an_upload_in_parts_that_breaks_off_leaves_the_old_object(s3: S3, refused: str) -> None:
    client = FileClient(**s3.arguments)
    client.put(OLD, f"s3://{s3.bucket}/a.pth")
    s3.gate.refuses = lambda method, key, query: (
        refused in query
        or (refused == "complete" and method == "POST" and query.startswith("uploadId"))
    )
    with pytest.raises(PermissionError):
        client.put(bytes(101 << 20), f"s3://{s3.bucket}/a.pth")
    assert s3.get("a.pth") == OLD
    assert s3.keys() == ["a.pth"]
    assert "Uploads" not in s3.boto.list_multipart_uploads(Bucket=s3.bucket)


def test_a_connection_to_s3_that_breaks_amid_an_upload(s3: S3) -> None:
    """As of a process that is killed: the server has half a request."""
    import socket

    s3.put("a.pth", OLD)
    host, port = s3.boto.meta.endpoint_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"PUT /{s3.bucket}/a.pth HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Content-Length: 100000\r\n\r\nhalf".encode()
        )
        time.sleep(0.1)
    time.sleep(0.1)
    assert s3.get("a.pth") == OLD
