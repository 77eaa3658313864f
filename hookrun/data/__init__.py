"""Samplers and loaders that resume, and prefetching to the device."""

from .data_pass import DataPass
from .device_prefetcher import DevicePrefetcher
from .iter_loader import IterLoader, no_batches
from .layout import loader_position, rank_state
from .order_check import alike
from .order_search import unwrapped
from .order_state import order_state, watch
from .problems import Problem, warning_of
from .restoring import restore_between_passes, state_between_passes
from .rng import rng_state, set_rng_state
from .samplers import ResumableDistributedSampler, ResumableSampler
from .seeded_dataset import SeededDataset

__all__ = [
    "DataPass",
    "DevicePrefetcher",
    "IterLoader",
    "Problem",
    "ResumableDistributedSampler",
    "ResumableSampler",
    "SeededDataset",
    "alike",
    "loader_position",
    "no_batches",
    "order_state",
    "rank_state",
    "restore_between_passes",
    "rng_state",
    "set_rng_state",
    "state_between_passes",
    "unwrapped",
    "warning_of",
    "watch",
]
