"""The public names, for type checkers; `__init__.py` imports them when they are asked for."""

from hookrun import amp as amp
from hookrun import checkpoint as checkpoint
from hookrun import cli as cli
from hookrun import compat as compat
from hookrun import core as core
from hookrun import data as data
from hookrun import distributed as distributed
from hookrun import hooks as hooks
from hookrun import kernels as kernels
from hookrun import loggers as loggers
from hookrun import ops as ops
from hookrun import optim as optim
from hookrun import runners as runners
from hookrun import schedules as schedules
from hookrun import storage as storage
from hookrun.amp import LossScaler, auto_fp16, cast_tensor_type, force_fp32, wrap_fp16_model
from hookrun.checkpoint import (
    export_safetensors,
    get_state_dict,
    load_checkpoint,
    load_from_http,
    load_from_local,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from hookrun.core import Priority, Registry, Trigger, get_priority, obj_from_dict
from hookrun.core.log_buffer import LogBuffer
from hookrun.core.sync_guard import HostSyncError, SyncGuard
from hookrun.data import (
    DevicePrefetcher,
    IterLoader,
    ResumableDistributedSampler,
    ResumableSampler,
    SeededDataset,
)
from hookrun.distributed import (
    MODULE_WRAPPERS,
    DistributedTrainStep,
    RankError,
    allreduce_grads,
    allreduce_params,
    collect_results_cpu,
    collect_results_gpu,
    get_dist_info,
    init_dist,
    is_module_wrapper,
    master_only,
    set_random_seed,
)
from hookrun.hooks import *  # noqa: F403 (hooks.__all__ says what)
from hookrun.hooks.schedule.groups import format_param
from hookrun.loggers import *  # noqa: F403 (mypy does not see hooks' names of these)
from hookrun.optim import (
    OPTIMIZER_BUILDERS,
    OPTIMIZERS,
    DefaultOptimizerConstructor,
    build_optimizer,
    build_optimizer_constructor,
)
from hookrun.runners import (
    RUNNER_BUILDERS,
    RUNNERS,
    BaseRunner,
    DefaultRunnerConstructor,
    EpochBasedRunner,
    IterBasedRunner,
    Preempted,
    Runner,
    TrainStep,
    build_runner,
    build_runner_constructor,
    get_host_info,
    get_logger,
    get_time_str,
)
from hookrun.schedules.formulas import (
    annealing_cos,
    annealing_linear,
    get_position_from_periods,
)
from hookrun.storage import FileClient

__version__: str

__all__ = [
    "MODULE_WRAPPERS",
    "OPTIMIZERS",
    "OPTIMIZER_BUILDERS",
    "RUNNERS",
    "RUNNER_BUILDERS",
    "BaseRunner",
    "DefaultOptimizerConstructor",
    "DefaultRunnerConstructor",
    "DevicePrefetcher",
    "DistributedTrainStep",
    "EpochBasedRunner",
    "FileClient",
    "HostSyncError",
    "IterBasedRunner",
    "IterLoader",
    "LogBuffer",
    "LossScaler",
    "Preempted",
    "Priority",
    "RankError",
    "Registry",
    "ResumableDistributedSampler",
    "ResumableSampler",
    "Runner",
    "SeededDataset",
    "SyncGuard",
    "TrainStep",
    "Trigger",
    "allreduce_grads",
    "allreduce_params",
    "annealing_cos",
    "annealing_linear",
    "auto_fp16",
    "build_optimizer",
    "build_optimizer_constructor",
    "build_runner",
    "build_runner_constructor",
    "cast_tensor_type",
    "collect_results_cpu",
    "collect_results_gpu",
    "export_safetensors",
    "force_fp32",
    "format_param",
    "get_dist_info",
    "get_host_info",
    "get_logger",
    "get_position_from_periods",
    "get_priority",
    "get_state_dict",
    "get_time_str",
    "init_dist",
    "is_module_wrapper",
    "load_checkpoint",
    "load_from_http",
    "load_from_local",
    "load_state_dict",
    "master_only",
    "obj_from_dict",
    "save_checkpoint",
    "set_random_seed",
    "weights_to_cpu",
    "wrap_fp16_model",
]
__all__ += hooks.__all__
