"""Hooks for the state of a run: checkpoints, averages of the parameters, synchronized buffers."""
