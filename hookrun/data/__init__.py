"""Data on its way to the model."""

from .device_prefetcher import DevicePrefetcher
from .iter_loader import IterLoader, no_batches

__all__ = ["DevicePrefetcher", "IterLoader", "no_batches"]
