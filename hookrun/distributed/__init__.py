"""Ranks, collectives, parallel wrappers, and the agreement on when to stop."""

from .agreement import StopAgreement
from .collectives import all_gather_objects, allreduce_grads, allreduce_params
from .environment import get_dist_info, master_only
from .random_seed import set_random_seed
from .wrappers import (
    INNER_NAMES,
    averages_gradients,
    is_module_wrapper,
    plain_name,
    plain_state_dict,
    unwrap_model,
)

__all__ = [
    "INNER_NAMES",
    "StopAgreement",
    "all_gather_objects",
    "allreduce_grads",
    "allreduce_params",
    "averages_gradients",
    "get_dist_info",
    "is_module_wrapper",
    "master_only",
    "plain_name",
    "plain_state_dict",
    "set_random_seed",
    "unwrap_model",
]
