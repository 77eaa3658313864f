"""Data on its way to the model."""

from .data_pass import DataPass, restore_between_passes, state_between_passes
from .device_prefetcher import DevicePrefetcher
from .iter_loader import IterLoader, no_batches
from .rng import rng_state, set_rng_state
from .samplers import ResumableDistributedSampler, ResumableSampler
from .seeded_dataset import SeededDataset

__all__ = [
    "DataPass",
    "DevicePrefetcher",
    "IterLoader",
    "ResumableDistributedSampler",
    "ResumableSampler",
    "SeededDataset",
    "no_batches",
    "restore_between_passes",
    "rng_state",
    "set_rng_state",
    "state_between_passes",
]
