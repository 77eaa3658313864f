"""Hooks that monitor a run: time, progress, device memory, losses that are not finite."""
