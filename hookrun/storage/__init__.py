"""Storage: whole files on the local disk, and FileClient's names over fsspec for the rest."""

from .atomic import link, remove_leftovers, sync_folder, written_whole
from .file_client import FileClient

__all__ = ["FileClient", "link", "remove_leftovers", "sync_folder", "written_whole"]
