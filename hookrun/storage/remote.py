"""Files of a storage that fsspec reaches: what is there now, and whole files only."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from .listing import Entry

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp"}
_READ_ONLY = {"http"}
# A PUT of these makes an object appear once all of it has arrived, under whatever name: there are
# no folders to make, nor a right to make buckets. With the argument that gives an object metadata.
_OBJECT_STORES = {"s3": "Metadata", "gs": "metadata"}
# What moves a file to a name only where there is none; not all of them raise otherwise.
_NEVER_REPLACE = {"arrow_hdfs", "hdfs", "smb", "webHDFS", "webhdfs"}
_UPLOAD_ID = "hookrun-upload"
_TRIES = 3


class RemoteFiles:
    """Reads and writes whole files by an fsspec file system.

    fsspec keeps listings of folders and answers from them, so that it does not see what others
    write. Nothing is answered from such a listing here.

    Args:
        protocol: fsspec's name of the storage, one that it knows.
        arguments: of the file system, such as credentials.

    Raises:
        ImportError: fsspec needs another package for this storage; it is named.
    """

    def __init__(self, protocol: str, arguments: Mapping[str, Any]) -> None:
        import fsspec

        self.protocol = protocol
        if protocol in _OBJECT_STORES:
            # Not only forgotten before each call, as below: threads share this file system.
            arguments = {**arguments, "use_listings_cache": False}
        try:
            self._file_system = fsspec.filesystem(protocol, **arguments)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            if package is None:
                raise
            raise ImportError(
                f"storage {protocol!r} needs a package that is not there: pip install {package}"
            ) from error

    @property
    def _system(self) -> Any:
        """The file system, which remembers no listing at this moment."""
        self._file_system.invalidate_cache()
        return self._file_system

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError where there is none."""
        with _explained(path):
            return bytes(self._system.cat_file(path))

    def download(self, path: str, copy: str) -> None:
        """Copy a file to a path of the local disk."""
        with _explained(path):
            self._system.get_file(path, copy)

    def kind(self, path: str) -> str | None:
        """``'file'``, ``'directory'``, another word of fsspec, or None where there is nothing."""
        with _explained(path):
            try:
                return str(self._system.info(path)["type"])
            except FileNotFoundError:
                return None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder; in an object store a file can have the same name."""
        kind = self.kind(path)
        if kind == "file" and self.protocol in _OBJECT_STORES:
            with _explained(path):
                return bool(self._system.isdir(path))
        return kind == "directory"

    def entries(self, folder: str) -> list[Entry]:
        """What is in a folder, in order of the names.

        Raises:
            FileNotFoundError: there is no such folder.
            NotADirectoryError: it is a file.
        """
        own = str(self._file_system._strip_protocol(folder)).rstrip("/")
        found = []
        with _explained(folder):
            listed = self._system.ls(folder, detail=True)
        for each in listed:
            path, kind = each["name"].rstrip("/"), each["type"]
            if path == own:
                if each["name"] == own and len(listed) == 1 and kind == "file":
                    raise NotADirectoryError(f"{folder!r} is a file")
                continue  # an object that stands for the folder
            name = path.removeprefix(own + "/").rpartition("/")[2]
            is_link = kind == "link" or bool(each.get("islink"))
            found.append(Entry(name, kind == "directory", kind == "file" or is_link, is_link))
        return sorted(found)

    def remove(self, path: str) -> None:
        """Delete a file. Raises FileNotFoundError where there is none, as far as can be known."""
        self._check_writable()
        if self.protocol in _OBJECT_STORES:  # they delete what is not there without a word
            with contextlib.suppress(PermissionError):
                if self.kind(path) is None:
                    raise FileNotFoundError(f"there is no file {path!r}")
        with _explained(path):
            self._system.rm_file(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file, so that the name means the old file until the new one is whole.

        Object stores see to that themselves. Elsewhere the file is written under a random hidden
        name in the same folder, and moved. What arrived is compared with what was sent.

        Raises:
            OSError: it could not be written, or what arrived is not what was sent.
        """
        self._check_writable()
        if self.protocol in _OBJECT_STORES:
            self._put_object(path, data)
            return
        folder, slash, _ = path.rpartition("/")
        temporary = f"{folder}{slash}.hookrun-{secrets.token_hex(8)}.tmp"
        refused = self._make_folder(folder)
        try:
            with _explained(path):
                self._system.pipe_file(temporary, data)
                self._check_arrived(temporary, data, path)
        except BaseException as error:
            if refused is not None:
                error.add_note(f"the folder {folder!r} could not be made: {refused}")
            with contextlib.suppress(Exception):
                self._system.rm_file(temporary)
            raise
        try:
            with _explained(path):
                self._move(temporary, path, data)
        except BaseException as error:
            error.add_note(f"the new file is whole at {temporary!r}")
            raise

    def _put_object(self, path: str, data: bytes) -> None:
        upload = secrets.token_hex(8)
        metadata = {_OBJECT_STORES[self.protocol]: {_UPLOAD_ID: upload}}
        with _explained(path):
            self._system.pipe_file(path, data, **metadata)
            try:
                self._check_arrived(path, data, path)
            except OSError:
                # Another writer may have put its file there meanwhile; if not, this one is damaged.
                if self._system.getxattr(path, _UPLOAD_ID) == upload:
                    raise

    def _make_folder(self, folder: str) -> Exception | None:
        """Make a folder where that is possible; otherwise, why not: it may not be needed."""
        if not folder.strip("/") or folder.endswith(":/"):
            return None
        try:
            self._system.makedirs(folder, exist_ok=True)
        except Exception as error:
            return error
        return None

    def _check_arrived(self, path: str, data: bytes, name: str) -> None:
        arrived = self._system.cat_file(path)
        if hashlib.sha256(arrived).digest() != hashlib.sha256(data).digest():
            raise OSError(
                f"{name!r} is damaged on arrival: {len(data)} bytes were sent and {len(arrived)} "
                "are there, or they differ"
            )

    def _move(self, temporary: str, path: str, data: bytes) -> None:
        """Let a name mean a file that is whole under another name."""
        with contextlib.suppress(NotImplementedError):
            if self._renames():
                self._rename(temporary, path)
                return
        for left in reversed(range(_TRIES)):
            try:
                self._copy(temporary, path, data)
                break
            except Exception:
                # A copy that breaks off can leave half a file. The whole one is still there.
                if not left:
                    raise
        with contextlib.suppress(Exception):
            self._system.rm_file(temporary)

    def _copy(self, temporary: str, path: str, data: bytes) -> None:
        try:
            self._system.cp_file(temporary, path)
        except NotImplementedError:
            self._system.pipe_file(path, data)
            self._check_arrived(path, data, path)

    def _rename(self, temporary: str, path: str) -> None:
        if self.protocol not in _NEVER_REPLACE:
            try:
                self._system.mv(temporary, path)
                return
            except FileExistsError:
                pass
        aside = f"{temporary}.old"
        replaced = self.kind(path) is not None
        try:
            if replaced:
                self._system.mv(path, aside)
            self._system.mv(temporary, path)
            if self.kind(path) is None:
                raise OSError(f"{path!r}: the storage did not move the new file to its name")
        except BaseException:
            if replaced and self.kind(path) is None:  # what raises may have moved it all the same
                self._system.mv(aside, path)
            raise
        if replaced:
            self._system.rm_file(aside)

    def _renames(self) -> bool:
        """Whether the file system has a way of its own to move a file.

        fsspec's general one copies, and takes the characters of ``[*?]`` in names for patterns.
        """
        import fsspec

        return type(self._file_system).mv is not fsspec.AbstractFileSystem.mv

    def _check_writable(self) -> None:
        if self.protocol in _READ_ONLY:
            raise OSError(f"files over {self.protocol} can be read only")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What the storage raises, as OSError and with the path."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"the storage refuses access to {path!r} ({error}); where listing is not allowed, it "
            "may answer so for what is not there, too"
        ) from error
    except (OSError, NotImplementedError):
        raise
    except Exception as error:  # packages behind fsspec have errors of their own
        told = " ".join(str(error).split())
        raise OSError(f"{path!r}: {type(error).__name__}: {told}") from error
