"""Checkpoints: format, files, and finding the one to resume from."""

from .files import link_latest, plain, read_checkpoint, write_checkpoint
from .model import (
    STRIP_MODULE,
    MapLocation,
    check_storage,
    compare,
    load_checkpoint,
    load_state_dict,
    make_checkpoint,
    save_checkpoint,
    state_dict_of,
    weights_to_cpu,
)
from .search import newest_checkpoint

FORMAT = 1
"""The number of the layout of ``checkpoint['hookrun']``; a newer file is refused."""

__all__ = [
    "FORMAT",
    "STRIP_MODULE",
    "MapLocation",
    "check_storage",
    "compare",
    "link_latest",
    "load_checkpoint",
    "load_state_dict",
    "make_checkpoint",
    "newest_checkpoint",
    "plain",
    "read_checkpoint",
    "save_checkpoint",
    "state_dict_of",
    "weights_to_cpu",
    "write_checkpoint",
]
