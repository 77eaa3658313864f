"""Hooks that keep, save or share the state of a run: checkpoints, averages, buffers."""
