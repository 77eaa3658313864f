"""hookrun: a training runner with hooks for PyTorch, MMCV's names on a compiled core.

Names are imported when they are asked for, so that who wants the fused operations alone does not
wait for runners and hooks. `__init__.pyi` says the same to type checkers.
"""

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where the public names are that `hookrun.hooks` does not have.
_NAMES = {
    "amp": ["LossScaler", "auto_fp16", "cast_tensor_type", "force_fp32", "wrap_fp16_model"],
    "checkpoint": [
        "export_safetensors",
        "get_state_dict",
        "load_checkpoint",
        "load_from_http",
        "load_from_local",
        "load_state_dict",
        "save_checkpoint",
        "weights_to_cpu",
    ],
    "core": ["Priority", "Registry", "Trigger", "get_priority", "obj_from_dict"],
    "core.log_buffer": ["LogBuffer"],
    "core.sync_guard": ["HostSyncError", "SyncGuard"],
    "data": [
        "DevicePrefetcher",
        "IterLoader",
        "ResumableDistributedSampler",
        "ResumableSampler",
        "SeededDataset",
    ],
    "distributed": [
        "MODULE_WRAPPERS",
        "DistributedTrainStep",
        "RankError",
        "allreduce_grads",
        "allreduce_params",
        "collect_results_cpu",
        "collect_results_gpu",
        "get_dist_info",
        "init_dist",
        "is_module_wrapper",
        "master_only",
        "set_random_seed",
    ],
    "hooks.schedule.groups": ["format_param"],
    "optim": [
        "OPTIMIZER_BUILDERS",
        "OPTIMIZERS",
        "DefaultOptimizerConstructor",
        "build_optimizer",
        "build_optimizer_constructor",
    ],
    "runners": [
        "RUNNER_BUILDERS",
        "RUNNERS",
        "BaseRunner",
        "DefaultRunnerConstructor",
        "EpochBasedRunner",
        "IterBasedRunner",
        "Preempted",
        "Runner",
        "TrainStep",
        "build_runner",
        "build_runner_constructor",
        "get_host_info",
        "get_logger",
        "get_time_str",
    ],
    "schedules.formulas": ["annealing_cos", "annealing_linear", "get_position_from_periods"],
    "storage": ["FileClient"],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
_ROOMS = {
    *("amp", "checkpoint", "cli", "compat", "core", "data", "distributed", "hooks", "kernels"),
    *("loggers", "ops", "optim", "runners", "schedules", "storage"),
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"hookrun.{name}")
    if name == "__all__":
        value: Any = [*_MODULES, *_hooks().__all__]
    elif name in _MODULES:
        value = getattr(import_module(f"hookrun.{_MODULES[name]}"), name)
    elif not name.startswith("_") and name in _hooks().__all__:
        value = getattr(_hooks(), name)
    else:
        message = f"module 'hookrun' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *__getattr__("__all__")})


def _hooks() -> Any:
    return import_module("hookrun.hooks")
