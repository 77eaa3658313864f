"""Storage: whole files on the local disk, and FileClient's names over fsspec for the rest."""

from .atomic import link, remove_leftovers, sync_folder, written_whole
from .file_client import FileClient
from .locks import folder_locked
from .own_file import open_own
from .special_files import check_names, open_file, special_kind

__all__ = [
    "FileClient",
    "check_names",
    "folder_locked",
    "link",
    "open_file",
    "open_own",
    "remove_leftovers",
    "special_kind",
    "sync_folder",
    "written_whole",
]
