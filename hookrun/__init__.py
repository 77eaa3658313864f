"""hookrun: a training runner with hooks for PyTorch, MMCV's names on a compiled core."""

from hookrun import hooks
from hookrun.amp import LossScaler, auto_fp16, cast_tensor_type, force_fp32, wrap_fp16_model
from hookrun.checkpoint import (
    export_safetensors,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from hookrun.core import (
    HostSyncError,
    LogBuffer,
    Priority,
    Registry,
    SyncGuard,
    Trigger,
    get_priority,
)
from hookrun.data import (
    DevicePrefetcher,
    IterLoader,
    ResumableDistributedSampler,
    ResumableSampler,
    SeededDataset,
)
from hookrun.distributed import (
    allreduce_params,
    collect_results_cpu,
    collect_results_gpu,
    get_dist_info,
    master_only,
)
from hookrun.hooks import *  # noqa: F403 (hooks.__all__ says what)
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
)
from hookrun.storage import FileClient

__version__ = "0.1.0"

__all__ = [
    "OPTIMIZERS",
    "OPTIMIZER_BUILDERS",
    "RUNNERS",
    "RUNNER_BUILDERS",
    "BaseRunner",
    "DefaultOptimizerConstructor",
    "DefaultRunnerConstructor",
    "DevicePrefetcher",
    "EpochBasedRunner",
    "FileClient",
    "HostSyncError",
    "IterBasedRunner",
    "IterLoader",
    "LogBuffer",
    "LossScaler",
    "Preempted",
    "Priority",
    "Registry",
    "ResumableDistributedSampler",
    "ResumableSampler",
    "Runner",
    "SeededDataset",
    "SyncGuard",
    "TrainStep",
    "Trigger",
    "allreduce_params",
    "auto_fp16",
    "build_optimizer",
    "build_optimizer_constructor",
    "build_runner",
    "cast_tensor_type",
    "collect_results_cpu",
    "collect_results_gpu",
    "export_safetensors",
    "force_fp32",
    "get_dist_info",
    "get_priority",
    "load_checkpoint",
    "load_state_dict",
    "master_only",
    "save_checkpoint",
    "weights_to_cpu",
    "wrap_fp16_model",
]
__all__ += hooks.__all__
