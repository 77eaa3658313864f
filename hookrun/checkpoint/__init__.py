"""Checkpoints: format, files, background writing, and the search for the one to resume from."""

from .averages import (
    Weights,
    average_names,
    averages_of_model,
    begin_averages,
    find_averages,
    free_name,
)
from .digest import check_digest
from .encoding import Encoder, plain
from .files import local_path, read_checkpoint, write_checkpoint
from .finite import describe_not_finite, find_not_finite
from .fitting import Fit, fit, unchanged_on_error
from .loading import (
    STRIP_MODULE,
    MapLocation,
    averages_for,
    load_checkpoint,
    load_content,
    load_from_http,
    load_from_local,
    load_state_dict,
    state_dict_of,
)
from .model import get_state_dict, make_checkpoint, save_checkpoint, weights_to_cpu
from .parts import RUN_FILE, is_replaceable, is_sharded_folder
from .safetensors import export_safetensors
from .scaler_layout import scaler_state
from .search import NewestOfARun, is_of_a_run, newest_first, newest_valid
from .sharded import FullTensors, has_sharded, shard_like, shard_optimizer_state
from .writer import Writer

FORMAT = 1
"""The version of the layout of ``checkpoint['hookrun']``; files of newer versions are refused."""

__all__ = [
    "FORMAT",
    "RUN_FILE",
    "STRIP_MODULE",
    "Encoder",
    "Fit",
    "FullTensors",
    "MapLocation",
    "NewestOfARun",
    "Weights",
    "Writer",
    "average_names",
    "averages_for",
    "averages_of_model",
    "begin_averages",
    "check_digest",
    "describe_not_finite",
    "export_safetensors",
    "find_averages",
    "find_not_finite",
    "fit",
    "free_name",
    "get_state_dict",
    "has_sharded",
    "is_of_a_run",
    "is_replaceable",
    "is_sharded_folder",
    "load_checkpoint",
    "load_content",
    "load_from_http",
    "load_from_local",
    "load_state_dict",
    "local_path",
    "make_checkpoint",
    "newest_first",
    "newest_valid",
    "plain",
    "read_checkpoint",
    "save_checkpoint",
    "scaler_state",
    "shard_like",
    "shard_optimizer_state",
    "state_dict_of",
    "unchanged_on_error",
    "weights_to_cpu",
    "write_checkpoint",
]
