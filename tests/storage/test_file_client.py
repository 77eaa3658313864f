"""One set of names for files here and elsewhere."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hookrun import FileClient


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[FileClient, str]:
    """A client and an empty folder of its storage."""
    if request.param == "disk":
        return FileClient("disk"), str(tmp_path)
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        return FileClient(**s3.arguments), f"s3://{s3.bucket}"
    return FileClient(request.param), f"{request.param}://bucket/{uuid.uuid4().hex}"


def test_what_is_put_is_got(place: tuple[FileClient, str]) -> None:
    client, root = place
    path = client.join_path(root, "a", "b.bin")
    assert not client.exists(path)
    client.put(b"\0\1", path)
    assert client.get(path) == b"\0\1"
    client.put(b"new", path)
    assert client.get(path) == b"new"
    client.put_text("größer", client.join_path(root, "t.txt"))
    assert client.get_text(client.join_path(root, "t.txt")) == "größer"
    assert client.exists(path)
    assert client.isfile(path)
    assert not client.isdir(path)
    assert client.isdir(client.join_path(root, "a"))
    assert not client.isfile(client.join_path(root, "a"))
    with client.get_local_path(path) as local:
        assert Path(local).read_bytes() == b"new"
    client.remove(path)
    assert not client.exists(path)


def test_what_is_not_there(place: tuple[FileClient, str]) -> None:
    client, root = place
    with pytest.raises(FileNotFoundError):
        client.get(client.join_path(root, "no"))
    with pytest.raises(FileNotFoundError):
        client.remove(client.join_path(root, "no"))


def test_folders_are_listed(place: tuple[FileClient, str]) -> None:
    client, root = place
    for name in ("b.pth", "a.txt", ".hidden", "sub/c.pth", "sub/deep/d.pth"):
        client.put(b"", client.join_path(root, *name.split("/")))

    def listed(**keywords: Any) -> list[str]:
        return list(client.list_dir_or_file(root, **keywords))

    assert listed() == ["a.txt", "b.pth", "sub"]
    assert listed(list_dir=False) == ["a.txt", "b.pth"]
    assert listed(list_file=False) == ["sub"]
    assert listed(list_dir=False, suffix=".pth") == ["b.pth"]
    assert listed(list_dir=False, suffix=(".pth", ".txt"), recursive=True) == [
        "a.txt",
        "b.pth",
        "sub/c.pth",
        "sub/deep/d.pth",
    ]
    with pytest.raises(TypeError, match="list_dir=False"):
        listed(suffix=".pth")


def test_links_are_for_the_disk(place: tuple[FileClient, str]) -> None:
    client, _ = place
    assert client.allow_symlink == client.is_local
    assert client.name in ("file", "memory", "s3")


def test_what_arrives_damaged_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "pipe_file",
        lambda self, path, value, **kw: real(self, path, value[:-1], **kw),
    )
    with pytest.raises(OSError, match=r"damaged on arrival: 5 bytes were sent and 4"):
        FileClient("memory").put(b"hello", "memory://a/b")


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://bucket/a", "s3"),
        ("cluster:s3://bucket/a", "s3"),
        ("a/b", None),
        (Path("a"), None),
        ("https://host/a", "https"),
    ],
)
def test_heads_of_uris(uri: Any, prefix: str | None) -> None:
    assert FileClient.parse_uri_prefix(uri) == prefix


def test_a_client_is_inferred() -> None:
    assert FileClient.infer_client(uri="memory://a").name == "memory"
    assert FileClient.infer_client(uri="a/b").is_local
    assert FileClient.infer_client({"backend": "disk"}, "memory://a").is_local
    assert FileClient.infer_client().is_local
    assert FileClient(backend="memory", prefix="s3").name == "memory"


def test_file_uris_are_of_the_disk(tmp_path: Path) -> None:
    client = FileClient.infer_client(uri=f"file://{tmp_path}/a")
    client.put(b"x", f"file://{tmp_path}/a")
    assert (tmp_path / "a").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"backend": "petrel"}, ValueError, r"no storage 'petrel' .*backend='s3'"),
        ({"backend": "nowhere"}, ValueError, "no storage 'nowhere'.*memory"),
        ({"backend": 3}, TypeError, "backend is a name"),
        ({"backend": "disk", "root": "x"}, TypeError, r"takes no arguments, not \['root'\]"),
    ],
)
def test_bad_arguments(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FileClient(**keywords)


def test_bad_file_client_args() -> None:
    with pytest.raises(TypeError, match="file_client_args is a dict"):
        FileClient.infer_client("disk")  # type: ignore[arg-type]


@pytest.mark.parametrize(("backend", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(
    backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, backend, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        FileClient(backend)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server of this machine that gives the files of a folder."""
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_checkpoints_of_a_server_and_of_a_home(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from hookrun import load_from_http, load_from_local
    from hookrun.checkpoint import write_checkpoint

    write_checkpoint({"state_dict": {"w": torch.ones(3)}}, tmp_path / "a.pth")
    assert load_from_http(f"{server}/a.pth")["state_dict"]["w"].tolist() == [1, 1, 1]
    for _ in range(2):  # the second time from the folder
        found = load_from_http(f"{server}/a.pth?token=1", model_dir=tmp_path / "kept")
        assert found["state_dict"]["w"].tolist() == [1, 1, 1]
        write_checkpoint({"state_dict": {"w": torch.zeros(3)}}, tmp_path / "a.pth")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.pth"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_from_local("~/a.pth")["state_dict"]["w"].tolist() == [0, 0, 0]
    with pytest.raises(FileNotFoundError, match=r"a\.pth"):
        load_from_local(f"{server}/a.pth")
    with pytest.raises(OSError, match=r"b\.pth' could not be copied to .*kept"):
        load_from_http(f"{server}/b.pth", model_dir=tmp_path / "kept")


def test_files_are_read_over_http(tmp_path: Path, server: str) -> None:
    import torch

    from hookrun.checkpoint import read_checkpoint, write_checkpoint

    write_checkpoint({"state_dict": {"w": torch.ones(3)}}, tmp_path / "a.pth")
    client = FileClient.infer_client(uri=server)
    assert client.get(f"{server}/a.pth") == (tmp_path / "a.pth").read_bytes()
    assert torch.equal(read_checkpoint(f"{server}/a.pth")["state_dict"]["w"], torch.ones(3))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_checkpoint(f"{server}/b.pth")
    for change in (lambda: client.put(b"x", f"{server}/x"), lambda: client.remove(f"{server}/a")):
        with pytest.raises(OSError, match="can be read only"):
            change()
