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
from .environment import get_dist_info, group_timeout, master_only
from .failures import error_first, fail_together, watch_failures
from .fsdp import (
    drop_kept_gradients,
    fsdp_modules,
    full_copies,
    keeps_gradients,
    parameters_outside_fsdp,
    reduce_kept_gradients,
    reshard,
    set_gradient_sync,
    sharded_parameters,
)
from .join import is_joining
from .launchers import init_dist
from .named_means import NamedMeans
from .random_seed import set_random_seed
from .reports import RankError, RunReports, comparable, is_lost
from .train_step import DistributedTrainStep
from .wrappers import (
    INNER_NAMES,
    MODULE_WRAPPERS,
    averages_gradients,
    averages_over_all_ranks,
    is_module_wrapper,
    plain_name,
    plain_names,
    plain_state_dict,
    unwrap_model,
    without_buffer_sync,
)

__all__ = [
    "INNER_NAMES",
    "MODULE_WRAPPERS",
    "DistributedTrainStep",
    "NamedMeans",
    "RankError",
    "RunReports",
    "StopAgreement",
    "all_gather_objects",
    "allreduce_grads",
    "allreduce_params",
    "averages_gradients",
    "averages_over_all_ranks",
    "broadcast_object",
    "broadcast_tensors_",
    "check_lengths",
    "collect_results_cpu",
    "collect_results_gpu",
    "comparable",
    "drop_kept_gradients",
    "error_first",
    "fail_together",
    "fsdp_modules",
    "full_copies",
    "gather_parts",
    "get_dist_info",
    "group_timeout",
    "init_dist",
    "is_joining",
    "is_lost",
    "is_module_wrapper",
    "join_parts",
    "keeps_gradients",
    "master_only",
    "parameters_outside_fsdp",
    "plain_name",
    "plain_names",
    "plain_state_dict",
    "reduce_kept_gradients",
    "reshard",
    "samples_of_rank",
    "set_gradient_sync",
    "set_random_seed",
    "sharded_parameters",
    "unwrap_model",
    "watch_failures",
    "without_buffer_sync",
]
