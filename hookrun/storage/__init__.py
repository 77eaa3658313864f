"""Storage: atomic writes on the local disk, and MMCV's FileClient over fsspec."""

from .atomic import (
    atomic_write,
    link,
    new_folder,
    publish_folder,
    remove_folder,
    remove_leftovers,
    sync_folder,
)
from .file_client import FileClient
from .locks import folder_locked
from .own_file import open_own
from .special_files import check_names, open_file, special_kind

__all__ = [
    "FileClient",
    "atomic_write",
    "check_names",
    "folder_locked",
    "link",
    "new_folder",
    "open_file",
    "open_own",
    "publish_folder",
    "remove_folder",
    "remove_leftovers",
    "special_kind",
    "sync_folder",
]
