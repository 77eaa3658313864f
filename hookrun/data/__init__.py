"""Data on its way to the model."""

from .iter_loader import IterLoader, no_batches

__all__ = ["IterLoader", "no_batches"]
