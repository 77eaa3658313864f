"""Hooks that watch a run: time, progress, memory, losses that are no numbers."""
