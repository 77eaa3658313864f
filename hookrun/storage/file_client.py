"""``FileClient``: one interface to files on the local disk and, by fsspec, elsewhere."""

from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .listing import local_entries, local_entry, walk
from .remote import RemoteFiles
from .special_files import open_file

PathLike = str | os.PathLike[str]

# Names of back ends, MMCV's or ours, to fsspec's.
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


class FileClient:
    """Reads, writes and lists files of one storage, with the interface of MMCV's FileClient.

    Files are written atomically: a name refers to the old file until the new one is complete.
    Except on the local disk, the new file is read back and compared with what was sent. Listings
    are not cached: what other programs write or delete is seen at once.

    In object stores (``'s3'``, ``'gs'``), reading and writing needs only the permission to get and
    put objects: nothing is listed and no bucket is made. A store that does not allow listing may
    raise PermissionError for what does not exist.

    Args:
        backend: ``'disk'`` (also ``'local'``), ``'memory'``, ``'s3'``, ``'gs'``, ``'http'``
            (read-only), or another protocol that fsspec knows. It takes precedence over ``prefix``.
        prefix: the same as the scheme of a URI, such as ``'s3'`` of ``s3://bucket/name``.
        kwargs: passed on to fsspec's file system, such as credentials.

    Raises:
        ValueError: an unknown storage.
        TypeError: ``backend`` or ``prefix`` is no string; arguments for the local disk.
        ImportError: fsspec needs another package for this storage; the message names it.
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
            self._remote = _open_remote(name, self.protocol, self.arguments)
        elif kwargs:
            raise TypeError(
                f"FileClient: the local disk takes no arguments, not {sorted(kwargs)} "
                "(backend or prefix choose another storage)"
            )

    @staticmethod
    def parse_uri_prefix(uri: PathLike) -> str | None:
        """The scheme of a URI: ``'s3'`` of ``s3://bucket/name``, None of a plain path.

        Raises:
            TypeError: it is neither a path nor a URI.
        """
        if not isinstance(uri, (str, os.PathLike)):
            raise TypeError(f"a file is named by a path or a URI, not by {uri!r:.60}")
        head, found, _ = os.fspath(uri).partition("://")
        return head.rpartition(":")[2] if found else None

    @classmethod
    def infer_client(
        cls, file_client_args: Mapping[str, Any] | None = None, uri: PathLike | None = None
    ) -> FileClient:
        """The client for these arguments; without them, for the scheme of the URI."""
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
        """Whether the storage has symbolic links."""
        return self.is_local

    def get(self, filepath: PathLike) -> bytes:
        """The bytes of a file. Raises FileNotFoundError if there is none."""
        if self.is_local:
            with open_file(_local(filepath)) as file:
                return file.read()
        return self._remote.read(os.fspath(filepath))

    def get_text(self, filepath: PathLike, encoding: str = "utf-8") -> str:
        """The text of a file."""
        return self.get(filepath).decode(encoding)

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write a file atomically; missing folders are made.

        Raises:
            OSError: it could not be written, or the stored bytes are not those that were sent.
        """
        if self.is_local:
            with atomic_write(_local(filepath)) as file:
                file.write(obj)
            return
        self._remote.write(os.fspath(filepath), bytes(obj))

    def put_text(self, obj: str, filepath: PathLike, encoding: str = "utf-8") -> None:
        """Write a text file atomically."""
        self.put(obj.encode(encoding), filepath)

    def remove(self, filepath: PathLike) -> None:
        """Delete a file. Raises FileNotFoundError if there is none."""
        if self.is_local:
            _local(filepath).unlink()
            return
        self._remote.remove(os.fspath(filepath))

    def exists(self, filepath: PathLike) -> bool:
        """Whether there is a file or folder of this name."""
        if self.is_local:
            return _local(filepath).exists()
        return self._remote.kind(os.fspath(filepath)) is not None

    def isdir(self, filepath: PathLike) -> bool:
        """Whether there is a folder of this name."""
        if self.is_local:
            return _local(filepath).is_dir()
        return self._remote.is_folder(os.fspath(filepath))

    def isfile(self, filepath: PathLike) -> bool:
        """Whether there is a file of this name."""
        if self.is_local:
            return _local(filepath).is_file()
        return self._remote.kind(os.fspath(filepath)) == "file"

    def join_path(self, filepath: PathLike, *filepaths: PathLike) -> str:
        """Names joined into one path."""
        join = os.path.join if self.is_local else posixpath.join
        return join(os.fspath(filepath), *(os.fspath(each) for each in filepaths))

    @contextlib.contextmanager
    def get_local_path(self, filepath: PathLike) -> Iterator[str]:
        """A context with a local path of the file, a temporary copy if the storage is remote."""
        if self.is_local:
            yield str(_local(filepath))
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, posixpath.basename(os.fspath(filepath)))
            self._remote.download(os.fspath(filepath), copy)
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
            list_dir, list_file: whether to list folders, and files.
            suffix: the suffix of files to list, or a tuple of them; all files by default.
            recursive: whether to list subfolders too. Circular links are not followed.

        Raises:
            TypeError: a suffix with ``list_dir``, or one of a wrong type.
        """
        if suffix is not None and list_dir:
            raise TypeError(
                "list_dir_or_file: suffix applies to files only: give list_dir=False with it"
            )
        if suffix is not None and not isinstance(suffix, (str, tuple)):
            raise TypeError(f"list_dir_or_file: suffix is a string or a tuple, not {suffix!r}")
        return self._list(os.fspath(dir_path), list_dir, list_file, suffix or "", recursive)

    def _list(
        self, root: str, folders: bool, files: bool, suffix: str | tuple[str, ...], deep: bool
    ) -> Iterator[str]:
        if self.is_local:
            root = str(_local(root))
            found = walk(local_entries, os.path.join, root, local_entry(Path(root)).identity, deep)
        else:
            found = walk(self._remote.entries, posixpath.join, root, None, deep)
        for path, each in found:
            if folders if each.is_folder else files and each.is_file and path.endswith(suffix):
                yield path


def _local(path: PathLike) -> Path:
    return Path(os.fspath(path).removeprefix("file://"))


def _open_remote(name: str, protocol: str, arguments: Mapping[str, Any]) -> RemoteFiles:
    import fsspec

    known = sorted({*_PROTOCOLS, *fsspec.available_protocols(), *fsspec.registry})
    if protocol not in known:
        hint = " ('petrel' speaks S3: give backend='s3')" if protocol == "petrel" else ""
        raise ValueError(
            f"FileClient: there is no storage {name!r}{hint}; there are {', '.join(known)}"
        )
    return RemoteFiles(protocol, arguments)
