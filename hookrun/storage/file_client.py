"""``FileClient``: one set of names for files on the local disk and, by fsspec, elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .atomic import written_whole

PathLike = str | os.PathLike[str]

# Names of back ends: MMCV's or ours, and fsspec's.
_PROTOCOLS = {
    "disk": "file",
    "local": "file",
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "http": "http",
    "https": "http",
}
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp"}
_READ_ONLY = {"http"}


class FileClient:
    """Reads, writes and lists files of one storage, under the names of MMCV's FileClient.

    Files of the local disk are written whole or not at all. Files elsewhere are uploaded in one go
    and read back, and what arrived is compared with what was sent.

    Args:
        backend: ``'disk'`` (also ``'local'``), ``'memory'``, ``'s3'``, ``'gs'``, ``'http'`` (it
            reads only), or another protocol that fsspec knows. It goes before ``prefix``.
        prefix: the same by the head of a URI, such as ``'s3'`` of ``s3://bucket/name``.
        kwargs: passed on to fsspec's file system, such as credentials.

    Raises:
        ValueError: a storage that is not known.
        TypeError: ``backend`` or ``prefix`` is no string; arguments for the local disk.
        ImportError: fsspec needs another package for this storage; it is named.
    """

    def __init__(
        self, backend: str | None = None, prefix: str | None = None, **kwargs: Any
    ) -> None:
        for argument, value in {"backend": backend, "prefix": prefix}.items():
            if value is not None and not isinstance(value, str):
                raise TypeError(f"FileClient: {argument} is a name such as 's3', not {value!r}")
        name = backend or prefix or "disk"
        self.protocol = _PROTOCOLS.get(name, name)
        self.arguments = dict(kwargs)
        if self.protocol != "file":
            self._system = _open_system(name, self.protocol, self.arguments)
        elif kwargs:
            raise TypeError(f"FileClient: the local disk takes no arguments, not {sorted(kwargs)}")

    @staticmethod
    def parse_uri_prefix(uri: PathLike) -> str | None:
        """The head of a URI: ``'s3'`` of ``s3://bucket/name``, None of a plain path."""
        head, found, _ = os.fspath(uri).partition("://")
        return head.rpartition(":")[2] if found else None

    @classmethod
    def infer_client(
        cls, file_client_args: Mapping[str, Any] | None = None, uri: PathLike | None = None
    ) -> FileClient:
        """The client for these arguments; without them, for the head of the URI."""
        if file_client_args is not None:
            if not isinstance(file_client_args, Mapping):
                raise TypeError(
                    "file_client_args is a dict such as dict(backend='disk') or None, not "
                    f"{file_client_args!r}"
                )
            return cls(**file_client_args)
        return cls(prefix=None if uri is None else cls.parse_uri_prefix(uri))

    @property
    def name(self) -> str:
        """fsspec's name of the storage."""
        return self.protocol

    @property
    def is_local(self) -> bool:
        """Whether files are on the local disk."""
        return self.protocol == "file"

    @property
    def allow_symlink(self) -> bool:
        """Whether a name can mean another file."""
        return self.is_local

    def get(self, filepath: PathLike) -> bytes:
        """The bytes of a file. Raises FileNotFoundError where there is none."""
        if self.is_local:
            return _local(filepath).read_bytes()
        return bytes(self._system.cat_file(os.fspath(filepath)))

    def get_text(self, filepath: PathLike, encoding: str = "utf-8") -> str:
        """The text of a file."""
        return self.get(filepath).decode(encoding)

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write a file, whole; missing folders are made.

        Raises:
            OSError: it could not be written, or what arrived is not what was sent.
        """
        if self.is_local:
            with written_whole(_local(filepath)) as file:
                file.write(obj)
            return
        self._check_writable()
        target = os.fspath(filepath)
        with contextlib.suppress(NotImplementedError):
            self._system.makedirs(posixpath.dirname(target), exist_ok=True)
        self._system.pipe_file(target, bytes(obj))
        self._system.invalidate_cache()
        arrived = self._system.cat_file(target)
        if hashlib.sha256(arrived).digest() != hashlib.sha256(obj).digest():
            raise OSError(
                f"{target!r} is damaged on arrival: {len(obj)} bytes were sent and {len(arrived)} "
                "are there, or they differ"
            )

    def put_text(self, obj: str, filepath: PathLike, encoding: str = "utf-8") -> None:
        """Write a file of text, whole."""
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: PathLike) -> None:
        """Delete a file. Raises FileNotFoundError where there is none."""
        if self.is_local:
            _local(filepath).unlink()
            return
        self._check_writable()
        self._system.rm_file(os.fspath(filepath))

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is a file or folder of this name."""
        if self.is_local:
            return _local(filepath).exists()
        return bool(self._system.exists(os.fspath(filepath)))

    def isdir(self, filepath: PathLike) -> bool:
        """Whether there is a folder of this name."""
        if self.is_local:
            return _local(filepath).is_dir()
        return bool(self._system.isdir(os.fspath(filepath)))

    def isfile(self, filepath: PathLike) -> bool:
        """Whether there is a file of this name."""
        if self.is_local:
            return _local(filepath).is_file()
        return bool(self._system.isfile(os.fspath(filepath)))

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """Names joined into one path."""
        join = os.path.join if self.is_local else posixpath.join
        return join(os.fspath(filepath), *(os.fspath(each) for each in filepaths))

    @contextlib.contextmanager
    def get_local_path(self, filepath: PathLike) -> Iterator[str]:
        """A path of the local disk at which the file can be read within the context."""
        if self.is_local:
            yield str(_local(filepath))
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, posixpath.basename(os.fspath(filepath)))
            self._system.get_file(os.fspath(filepath), copy)
            yield copy

    def list_dir_or_file(
        self,
        dir_path: PathLike,
        list_dir: bool = True,
        list_file: bool = True,
        suffix: str | tuple[str, ...] | None = None,
        recursive: bool = False,
    ) -> Iterator[str]:
        """Names of the files and folders in a folder, relative to it; hidden ones are left out.

        Args:
            dir_path: the folder.
            list_dir, list_file: whether to name folders, and files.
            suffix: the ends of the names of files to list; all by default.
            recursive: whether to go into folders.

        Raises:
            TypeError: a suffix with ``list_dir``, or of another type.
        """
        if suffix is not None and list_dir:
            raise TypeError("list_dir_or_file: suffix is of files: give list_dir=False with it")
        if suffix is not None and not isinstance(suffix, (str, tuple)):
            raise TypeError(f"list_dir_or_file: suffix is a string or a tuple, not {suffix!r}")
        return self._list(os.fspath(dir_path), "", list_dir, list_file, suffix or "", recursive)

    def _list(
        self,
        root: str,
        below: str,
        folders: bool,
        files: bool,
        suffix: str | tuple[str, ...],
        deep: bool,
    ) -> Iterator[str]:
        for name, is_folder in self._entries(self.join_path(root, below) if below else root):
            if name.startswith("."):
                continue
            path = self.join_path(below, name) if below else name
            if folders if is_folder else files and name.endswith(suffix):
                yield path
            if is_folder and deep:
                yield from self._list(root, path, folders, files, suffix, deep)

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """Names in a folder and whether each is a folder, in order of their names."""
        if self.is_local:
            return sorted((each.name, each.is_dir()) for each in _local(folder).iterdir())
        listed = self._system.ls(folder, detail=True)
        return sorted(
            (posixpath.basename(each["name"].rstrip("/")), each["type"] == "directory")
            for each in listed
        )

    def _check_writable(self) -> None:
        if self.protocol in _READ_ONLY:
            raise OSError(f"files over {self.protocol} can be read only")


def _local(path: PathLike) -> Path:
    return Path(os.fspath(path).removeprefix("file://"))


def _open_system(name: str, protocol: str, arguments: Mapping[str, Any]) -> Any:
    """fsspec's file system of a protocol."""
    import fsspec

    known = sorted({*_PROTOCOLS, *fsspec.available_protocols()})
    if protocol not in known:
        hint = " ('petrel' speaks S3: give backend='s3')" if protocol == "petrel" else ""
        raise ValueError(
            f"FileClient: there is no storage {name!r}{hint}; there are {', '.join(known)}"
        )
    try:
        return fsspec.filesystem(protocol, **arguments)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        if package is None:
            raise
        raise ImportError(
            f"storage {name!r} needs a package that is not there: pip install {package}"
        ) from error
