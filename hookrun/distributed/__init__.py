"""Processes of a job: who they are and what they exchange."""

from .collectives import allreduce_params
from .environment import get_dist_info, is_module_wrapper, master_only, unwrap_model

__all__ = ["allreduce_params", "get_dist_info", "is_module_wrapper", "master_only", "unwrap_model"]
