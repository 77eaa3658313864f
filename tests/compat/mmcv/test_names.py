"""What client code imports from ``mmcv.runner`` is there, and whose it is.

The list is what mmaction2 0.24, mmcls 0.25, mmdeploy 0.14, mmdet 2.28, mmedit 0.16, mmflow 0.5,
mmocr 0.6, mmpose 0.29, mmrazor 0.3, mmrotate 0.3, mmseg 0.30, mmselfsup 0.11 and mmtrack 0.14
import, and what MMCV's own documentation uses.
"""

from __future__ import annotations

from pathlib import Path

import hookrun
from hookrun import hooks
from tests.compat.mmcv_runs import run_python

HOOKRUN = {
    "mmcv.runner": """
        BaseRunner CheckpointHook ClosureHook DefaultOptimizerConstructor DefaultRunnerConstructor
        DistEvalHook DistSamplerSeedHook EMAHook EpochBasedRunner EvalHook Fp16OptimizerHook
        GradientCumulativeFp16OptimizerHook GradientCumulativeOptimizerHook HOOKS Hook
        IterBasedRunner IterLoader IterTimerHook LogBuffer LoggerHook LossScaler LrUpdaterHook
        MomentumUpdaterHook OPTIMIZERS OPTIMIZER_BUILDERS OptimizerHook Priority RUNNERS
        Runner SyncBuffersHook TextLoggerHook allreduce_grads allreduce_params
        auto_fp16 build_optimizer build_optimizer_constructor build_runner force_fp32 get_dist_info
        get_host_info get_priority get_time_str init_dist load_checkpoint load_state_dict
        master_only obj_from_dict save_checkpoint set_random_seed weights_to_cpu wrap_fp16_model
        """,
    "mmcv.runner.builder": "build_runner build_runner_constructor RUNNERS RUNNER_BUILDERS",
    "mmcv.runner.checkpoint": """
        get_state_dict load_checkpoint load_from_http load_from_local load_state_dict
        save_checkpoint weights_to_cpu
        """,
    "mmcv.runner.dist_utils": """
        allreduce_grads allreduce_params get_dist_info init_dist master_only
        """,
    "mmcv.runner.fp16_utils": "LossScaler auto_fp16 cast_tensor_type force_fp32 wrap_fp16_model",
    "mmcv.runner.hooks": """
        CheckpointHook DistEvalHook EvalHook Fp16OptimizerHook HOOKS Hook LoggerHook LrUpdaterHook
        OptimizerHook TensorboardLoggerHook WandbLoggerHook
        """,
    "mmcv.runner.hooks.checkpoint": "CheckpointHook",
    "mmcv.runner.hooks.hook": "HOOKS Hook",
    "mmcv.runner.hooks.logger": "LoggerHook TextLoggerHook",
    "mmcv.runner.hooks.logger.wandb": "WandbLoggerHook",
    "mmcv.runner.hooks.lr_updater": """
        CosineAnnealingLrUpdaterHook LrUpdaterHook StepLrUpdaterHook annealing_cos annealing_linear
        format_param get_position_from_periods
        """,
    "mmcv.runner.hooks.optimizer": "OptimizerHook Fp16OptimizerHook",
    "mmcv.runner.optimizer": "OPTIMIZER_BUILDERS",
    "mmcv.runner.optimizer.builder": """
        OPTIMIZERS OPTIMIZER_BUILDERS build_optimizer_constructor
        """,
    "mmcv.runner.utils": "get_host_info set_random_seed",
}
MMCV = {
    "mmcv.runner": "BaseModule CheckpointLoader ModuleDict ModuleList Sequential _load_checkpoint",
    "mmcv.runner.base_module": "BaseModule ModuleList Sequential",
    "mmcv.runner.checkpoint": """
        CheckpointLoader _load_checkpoint _load_checkpoint_with_prefix load_from_openmmlab
        """,
}


def test_hookrun_has_them_itself() -> None:
    """Also without MMCV: those of ``mmcv.runner.hooks`` in ``hookrun.hooks`` too."""
    for module, names in HOOKRUN.items():
        for name in names.split():
            assert hasattr(hookrun, name), name
            assert module != "mmcv.runner.hooks" or hasattr(hooks, name), name


def test_names_are_answered_by_whom_they_should(tmp_path: Path) -> None:
    code = f"""
from importlib import import_module
from hookrun.compat.mmcv import install
install()
for module, names in {HOOKRUN!r}.items():
    for name in names.split():
        found = getattr(import_module(module), name)
        whose = getattr(found, "__module__", type(found).__module__)
        assert whose.startswith("hookrun"), (module, name, whose)
for module, names in {MMCV!r}.items():
    for name in names.split():
        found = getattr(import_module(module), name)
        assert found.__module__.startswith("mmcv.runner"), (module, name)
"""
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
