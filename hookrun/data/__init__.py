"""Data on its way to the model."""

from .iter_loader import IterLoader

__all__ = ["IterLoader"]
