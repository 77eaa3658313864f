"""Files on storage that fsspec supports: atomic writes, and no cached listings."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from .listing import Entry

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp"}
_READ_ONLY = {"http"}
# Here a PUT is atomic, there are no folders to make, and making buckets may not be allowed. The
# values are the names of the arguments for an object's metadata.
_OBJECT_STORES = {"s3": "Metadata", "gs": "metadata"}
# These do not rename a file over an existing one; some silently.
_NEVER_REPLACE = {"arrow_hdfs", "hdfs", "smb", "webHDFS", "webhdfs"}
_UPLOAD_ID = "hookrun-upload"
_TRIES = 3


class RemoteFiles:
    """Reads and writes files through an fsspec file system.

    fsspec caches listings of folders, and would not see what other programs write; the cache is
    not used here.

    Args:
        protocol: fsspec's name of the storage; it must be known.
        arguments: for the file system, such as credentials.

    Raises:
        ImportError: fsspec needs another package for this storage; the message names it.
    """

    def __init__(self, protocol: str, arguments: Mapping[str, Any]) -> None:
        import fsspec

        self.protocol = protocol
        if protocol in _OBJECT_STORES:
            # Invalidating before each call, as below, is not enough: threads share the file system.
            arguments = {**arguments, "use_listings_cache": False}
        try:
            self._file_system = fsspec.filesystem(protocol, **arguments)
        except ImportError as error:
            package = _PACKAGES.get(protocol)
            if package is None:
                raise
            raise ImportError(
                f"storage {protocol!r} needs a package that is missing: pip install {package}"
            ) from error

    @property
    def _system(self) -> Any:
        """The file system, with its cache of listings emptied."""
        self._file_system.invalidate_cache()
        return self._file_system

    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError if there is none."""
        with _explained(path):
            return bytes(self._system.cat_file(path))

    def download(self, path: str, copy: str) -> None:
        """Copy a file to a local path."""
        with _explained(path):
            self._system.get_file(path, copy)

    def kind(self, path: str) -> str | None:
        """``'file'``, ``'directory'``, another type of fsspec's, or None if nothing exists."""
        with _explained(path):
            try:
                return str(self._system.info(path)["type"])
            except FileNotFoundError:
                return None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder; in an object store, a file may have the same name."""
        kind = self.kind(path)
        if kind == "file" and self.protocol in _OBJECT_STORES:
            with _explained(path):
                return bool(self._system.isdir(path))
        return kind == "directory"

    def entries(self, folder: str) -> list[Entry]:
        """The entries of a folder, sorted by name.

        Raises:
            FileNotFoundError: there is no such folder.
            NotADirectoryError: it is a file.
        """
        root = str(self._file_system._strip_protocol(folder)).rstrip("/")
        found = []
        with _explained(folder):
            listed = self._system.ls(folder, detail=True)
        for each in listed:
            path, kind = each["name"].rstrip("/"), each["type"]
            if path == root:
                if each["name"] == root and len(listed) == 1 and kind == "file":
                    raise NotADirectoryError(f"{folder!r} is a file")
                continue  # a placeholder object for the folder itself
            name = path.removeprefix(root + "/").rpartition("/")[2]
            is_link = kind == "link" or bool(each.get("islink"))
            found.append(Entry(name, kind == "directory", kind == "file" or is_link, is_link))
        return sorted(found)

    def remove(self, path: str) -> None:
        """Delete a file. Raises FileNotFoundError if there is none and that can be known."""
        self._check_writable()
        if self.protocol in _OBJECT_STORES:  # deleting a missing object succeeds silently
            with contextlib.suppress(PermissionError):
                if self.kind(path) is None:
                    raise FileNotFoundError(f"there is no file {path!r}")
        with _explained(path):
            self._system.rm_file(path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically: its name refers to the old file until the new one is complete.

        Object stores guarantee that. Elsewhere the file is written under a random hidden name in
        the same folder, and renamed. It is read back and compared with what was sent.

        Raises:
            OSError: it could not be written, or the stored bytes are not those that were sent.
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
                self._check_stored(temporary, data, path)
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
            error.add_note(f"the new file is complete at {temporary!r}")
            raise

    def _put_object(self, path: str, data: bytes) -> None:
        upload = secrets.token_hex(8)
        metadata = {_OBJECT_STORES[self.protocol]: {_UPLOAD_ID: upload}}
        with _explained(path):
            self._system.pipe_file(path, data, **metadata)
            try:
                self._check_stored(path, data, path)
            except OSError:
                # It may be another writer's object by now; if it is still ours, it is damaged.
                if self._system.getxattr(path, _UPLOAD_ID) == upload:
                    raise

    def _make_folder(self, folder: str) -> Exception | None:
        """Try to make a folder; returns the error, if any: the storage may need no folders."""
        if not folder.strip("/") or folder.endswith(":/"):
            return None
        try:
            self._system.makedirs(folder, exist_ok=True)
        except Exception as error:
            return error
        return None

    def _check_stored(self, path: str, data: bytes, name: str) -> None:
        stored = self._system.cat_file(path)
        if hashlib.sha256(stored).digest() != hashlib.sha256(data).digest():
            raise OSError(
                f"{name!r} is damaged on arrival: {len(data)} bytes were sent and {len(stored)} "
                "are there, or they differ"
            )

    def _move(self, temporary: str, path: str, data: bytes) -> None:
        """Rename the complete temporary file; where that is unsupported, copy it."""
        with contextlib.suppress(NotImplementedError):
            if self._renames():
                self._rename(temporary, path)
                return
        for left in reversed(range(_TRIES)):
            try:
                self._copy(temporary, path, data)
                break
            except Exception:
                # A failed copy can leave a partial file; the complete one is still at `temporary`.
                if not left:
                    raise
        with contextlib.suppress(Exception):
            self._system.rm_file(temporary)

    def _copy(self, temporary: str, path: str, data: bytes) -> None:
        try:
            self._system.cp_file(temporary, path)
        except NotImplementedError:
            self._system.pipe_file(path, data)
            self._check_stored(path, data, path)

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
            if replaced and self.kind(path) is None:  # a failed call may still have moved it
                self._system.mv(aside, path)
            raise
        if replaced:
            self._system.rm_file(aside)

    def _renames(self) -> bool:
        """Whether the file system implements moving a file.

        fsspec's default copies, and treats ``[``, ``*`` and ``?`` in names as patterns.
        """
        import fsspec

        return type(self._file_system).mv is not fsspec.AbstractFileSystem.mv

    def _check_writable(self) -> None:
        if self.protocol in _READ_ONLY:
            raise OSError(f"files over {self.protocol} can be read only")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """A context that raises the storage's errors as OSError, with the path."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"the storage refuses access to {path!r} ({error}); where listing is not allowed, it "
            "may answer so for what is not there, too"
        ) from error
    except (OSError, NotImplementedError):
        raise
    except Exception as error:  # each storage package has its own errors
        text = " ".join(str(error).split())
        raise OSError(f"{path!r}: {type(error).__name__}: {text}") from error
