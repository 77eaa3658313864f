"""Ranks, collectives, collecting results, parallel wrappers, and the agreement on when to stop."""

from .agreement import StopAgreement
from .collecting import (
    check_lengths,
    collect_results_cpu,
    collect_results_gpu,
    gather_parts,
    join_parts,
    samples_of_rank,
)
from .collectives import (
    all_gather_objects,
    allreduce_grads,
    allreduce_params,
    broadcast_object,
    broadcast_tensors_,
)
from .environment import get_dist_info, master_only
from .failures import fail_together, watch_failures
from .launchers import init_dist
from .named_means import NamedMeans
from .random_seed import set_random_seed
from .train_step import DistributedTrainStep
from .wrappers import (
    INNER_NAMES,
    MODULE_WRAPPERS,
    averages_gradients,
    is_module_wrapper,
    plain_name,
    plain_state_dict,
    unwrap_model,
    without_buffer_sync,
)

__all__ = [
    "INNER_NAMES",
    "MODULE_WRAPPERS",
    "DistributedTrainStep",
    "NamedMeans",
    "StopAgreement",
    "all_gather_objects",
    "allreduce_grads",
    "allreduce_params",
    "averages_gradients",
    "broadcast_object",
    "broadcast_tensors_",
    "check_lengths",
    "collect_results_cpu",
    "collect_results_gpu",
    "fail_together",
    "gather_parts",
    "get_dist_info",
    "init_dist",
    "is_module_wrapper",
    "join_parts",
    "master_only",
    "plain_name",
    "plain_state_dict",
    "samples_of_rank",
    "set_random_seed",
    "unwrap_model",
    "watch_failures",
    "without_buffer_sync",
]
