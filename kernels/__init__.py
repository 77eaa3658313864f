"""Fused kernels of hookrun; import them through `hookrun.ops`."""
