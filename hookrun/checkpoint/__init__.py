"""Checkpoints: format, files, writing them in the background, finding the one to resume from."""

from .digest import check_digest
from .encoding import Encoder, plain
from .files import local_path, read_checkpoint, write_checkpoint
from .finite import describe_not_finite, find_not_finite
from .model import (
    STRIP_MODULE,
    MapLocation,
    compare,
    load_checkpoint,
    load_state_dict,
    make_checkpoint,
    save_checkpoint,
    state_dict_of,
    weights_to_cpu,
)
from .safetensors import export_safetensors
from .search import is_of_a_run, newest_first, newest_valid
from .writer import Writer

FORMAT = 1
"""The number of the layout of ``checkpoint['hookrun']``; a newer file is refused."""

__all__ = [
    "FORMAT",
    "STRIP_MODULE",
    "Encoder",
    "MapLocation",
    "Writer",
    "check_digest",
    "compare",
    "describe_not_finite",
    "export_safetensors",
    "find_not_finite",
    "is_of_a_run",
    "load_checkpoint",
    "load_state_dict",
    "local_path",
    "make_checkpoint",
    "newest_first",
    "newest_valid",
    "plain",
    "read_checkpoint",
    "save_checkpoint",
    "state_dict_of",
    "weights_to_cpu",
    "write_checkpoint",
]
