"""Processes of a job: who they are and what they exchange."""

from .agreement import StopAgreement
from .collectives import all_gather_objects, allreduce_params
from .environment import (
    averages_gradients,
    get_dist_info,
    is_module_wrapper,
    master_only,
    unwrap_model,
)

__all__ = [
    "StopAgreement",
    "all_gather_objects",
    "allreduce_params",
    "averages_gradients",
    "get_dist_info",
    "is_module_wrapper",
    "master_only",
    "unwrap_model",
]
