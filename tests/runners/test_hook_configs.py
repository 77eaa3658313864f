"""What is wrong in a config is named, with what may be meant, and then nothing is registered."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

from hookrun import (
    HOOKS,
    CheckpointHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
    IterTimerHook,
    LoggerHook,
    OptimizerHook,
    TextLoggerHook,
)
from tests.support import make_loader

TEXT = {"type": "TextLoggerHook"}
STEP = {"policy": "step", "step": [1]}
FP16 = {"type": "Fp16OptimizerHook"}
GOOD: dict[str, Any] = {
    "lr_config": STEP,
    "optimizer_config": {"grad_clip": {"max_norm": 1.0}},
    "checkpoint_config": {"interval": 1},
    "log_config": {"interval": 2, "hooks": [TEXT]},
    "momentum_config": {"policy": "cyclic"},
    "timer_config": {"type": "IterTimerHook"},
    "custom_hooks_config": [{"type": "EMAHook", "priority": 49}],
}

WRONG: list[tuple[str, Any, str]] = [
    # argument, config, the wrong key or value and what is named for it
    ("lr_config", {**STEP, "gama": 0.1}, "'gama'.*'gamma'"),
    ("lr_config", {"policy": "step", "stepp": [1]}, "'stepp'.*'step'"),
    ("lr_config", {"polcy": "step", "step": [1]}, "'policy'.*'polcy'"),
    ("lr_config", {"policy": "stepp", "step": [1]}, "'stepp'.*'Step'"),
    ("lr_config", {**STEP, "warmup_iter": 3}, "'warmup_iter'.*'warmup_iters'"),
    ("lr_config", {**STEP, "type": "EMAHook"}, "'step'.*'StepLrUpdaterHook'.*'EMAHook': leave out"),
    ("lr_config", {**STEP, "type": "ExpLrUpdaterHook"}, "'StepLrUpdaterHook'.*'ExpLrUpdaterHook'"),
    ("lr_config", {**STEP, "type": EMAHook}, "'StepLrUpdaterHook'.*EMAHook"),
    ("lr_config", {**STEP, "type": None}, "'StepLrUpdaterHook'.*None"),
    ("momentum_config", {"policy": "cyclic", "type": "CyclicLrUpdaterHook"}, "'CyclicMomentum"),
    ("lr_config", {**STEP, "priorty": "LOW"}, "'priorty'.*'priority'"),
    ("lr_config", {**STEP, "priority": "VERY_HIHG"}, "'VERY_HIHG'.*'VERY_HIGH'"),
    ("lr_config", {**STEP, 3: 4}, "strings, not 3"),
    ("lr_config", "step", "lr_config.*'step'"),
    ("lr_config", [STEP], "lr_config is a config dict or a hook"),
    (
        "momentum_config",
        {"policy": "cyclic", "target_ration": 1},
        "'target_ration'.*'target_ratio'",
    ),
    ("optimizer_config", {"grad_clp": None}, "'grad_clp'.*'grad_clip'"),
    ("optimizer_config", {"grad_clip": {"max_normm": 1}}, "'max_normm'.*'max_norm'"),
    ("optimizer_config", {"grad_clip": {"max_norm": 1, "norm_tpe": 2}}, "'norm_tpe'.*'norm_type'"),
    ("optimizer_config", {"grad_clip": {3: 1}}, "clip_grad_norm_.* 3"),
    ("optimizer_config", {**FP16, "loss_scal": 2.0}, "'loss_scal'.*'loss_scale'"),
    ("optimizer_config", {**FP16, "loss_scale": {"init_scal": 2.0}}, "'init_scal'.*'init_scale'"),
    ("optimizer_config", {**FP16, "loss_scale": {"mod": "static"}}, "'mod'.*'mode'"),
    ("optimizer_config", {"type": "OptimizerHok"}, "'OptimizerHok'.*'OptimizerHook'"),
    ("optimizer_config", {"typ": "Fp16OptimizerHook"}, "'typ'.*'type'"),
    (
        "optimizer_config",
        {"type": "GradientCumulativeOptimizerHook", "cumulative_iter": 2},
        "'cumulative_iter'.*'cumulative_iters'",
    ),
    ("checkpoint_config", {"intervall": 1}, "'intervall'.*'interval'"),
    ("checkpoint_config", {"interval": 1, "max_keep_ckpt": 1}, "'max_keep_ckpt'.*'max_keep_ckpts'"),
    ("checkpoint_config", {"interval": 1, "priorty": 1}, "'priorty'.*'priority'"),
    (
        "checkpoint_config",
        {"interval": 1, "file_client_args": {"backnd": "s3"}},
        "'backnd'.*backend",
    ),
    ("timer_config", "IterTimerHook", r"dict\(type='IterTimerHook'\)"),
    ("timer_config", {"type": "IterTimerHok"}, "'IterTimerHok'.*'IterTimerHook'"),
    ("timer_config", {"interval": 3}, "IterTimerHook has no argument 'interval'"),
    ("log_config", {"intervall": 4, "hooks": [TEXT]}, "'intervall'.*'interval'"),
    ("log_config", {"interval": 4, "hook": [TEXT]}, "'hooks'.*'hook'"),
    ("log_config", {"interval": 4}, "'hooks'"),
    ("log_config", {}, "'hooks'"),
    ("log_config", {"hooks": [TEXT], 3: 4}, "no key 3"),
    ("log_config", [TEXT], "log_config is a dict such as"),
    ("log_config", {"hooks": TEXT}, "'hooks'.* is a list of loggers"),
    ("log_config", {"hooks": "TextLoggerHook"}, "'hooks'.* is a list of loggers"),
    ("log_config", {"hooks": ["TextLoggerHook"]}, r"\['hooks'\]\[0\].*dict\(type='TextLoggerHook'"),
    ("log_config", {"hooks": [TEXT, TextLoggerHook]}, r"\['hooks'\]\[1\].*object of the class"),
    ("log_config", {"hooks": [None]}, r"\['hooks'\]\[0\].*not None"),
    ("log_config", {"hooks": [{**TEXT, "intervall": 3}]}, "'intervall'.*'interval'"),
    ("log_config", {"hooks": [TEXT, {**TEXT, "ignore_lst": 3}]}, "'ignore_lst'.*'ignore_last'"),
    ("log_config", {"hooks": [{"typ": "TextLoggerHook"}]}, "'type'.*'typ'"),
    ("log_config", {"hooks": [{"type": "TextLogerHook"}]}, "'TextLogerHook'.*'TextLoggerHook'"),
    ("log_config", {"hooks": [{**TEXT, "priority": "LO"}]}, "'LO'.*'LOW'"),
    ("log_config", {"hooks": [{**TEXT, "prority": "LOW"}]}, "'prority'.*'priority'"),
    ("log_config", {"hooks": [{**TEXT, "interval": "3"}]}, "interval must be a positive int"),
    ("log_config", {"interval": 0, "hooks": []}, "interval'.* must be a positive int"),
    ("log_config", {"interval": "10", "hooks": []}, "interval'.* must be a positive int"),
    ("custom_hooks_config", [{"type": "EMAHook", "momentm": 0.1}], "'momentm'.*'momentum'"),
    ("custom_hooks_config", {"type": "EMAHok"}, "'EMAHok'.*'EMAHook'"),
    ("custom_hooks_config", {"momentum": 0.1}, "needs the key 'type'"),
    ("custom_hooks_config", ["EMAHook"], r"\[0\].*dict\(type='EMAHook'\)"),
    ("custom_hooks_config", "EMAHook", r"dict\(type='EMAHook'\)"),
    ("custom_hooks_config", [{"type": "EMAHook", "priority": "NORML"}], "'NORML'.*'NORMAL'"),
    ("custom_hooks_config", [{"type": "EMAHook", ("a",): 1}], r"strings, not \('a',\)"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize("case", range(len(WRONG)))
def test_a_wrong_config_is_named_and_nothing_is_registered(
    make_runner: Any, kind: type, case: int
) -> None:
    argument, config, message = WRONG[case]
    runner = make_runner(kind)
    timer = {"timer_config": None} if argument != "timer_config" else {}
    earlier = Hook()
    runner.register_hook(earlier)
    configs = {**copy.copy(GOOD), argument: config, **timer}
    with pytest.raises((TypeError, ValueError, KeyError), match=message) as caught:
        runner.register_training_hooks(**configs)
    message = str(caught.value) + str(getattr(caught.value, "__notes__", []))
    assert argument in message
    assert list(runner.hooks) == [earlier]
    runner.register_training_hooks(**GOOD)
    assert len(runner.hooks) == 1 + len(GOOD)


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_good_configs_are_neither_refused_nor_warned_about(make_runner: Any, kind: type) -> None:
    runner = make_runner(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runner.register_training_hooks(**GOOD)


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_errors_name_custom_hooks_as_the_caller_does(make_runner: Any, kind: type) -> None:
    runner = make_runner(kind)
    hooks = [{"type": "IterTimerHook"}, {"type": EMAHook, "momentum": 7}]
    with pytest.raises(ValueError, match="momentum") as caught:
        runner.register_training_hooks(None, custom_hooks_config=hooks)
    assert caught.value.__notes__[-1] == "in custom_hooks_config[1], EMAHook"
    with pytest.raises(ValueError, match="momentum") as caught:
        runner.register_custom_hooks(hooks)
    assert caught.value.__notes__[-1] == "in custom_config[1], EMAHook"
    with pytest.raises(TypeError, match=r"^custom_config\[0\] is a config dict or a hook, not 3"):
        runner.register_custom_hooks([3])


def test_errors_name_the_class_of_a_hook_that_is_refused(make_runner: Any) -> None:
    runner, ema = make_runner(), EMAHook()
    runner.register_checkpoint_hook({"interval": 1})
    ema.priority = 10
    with pytest.raises(ValueError, match="reserved") as caught:
        runner.register_custom_hooks([ema])
    assert caught.value.__notes__ == ["in custom_config[0], EMAHook"]


@pytest.mark.parametrize("kind", ["StepLrUpdaterHook", HOOKS.get("StepLrUpdaterHook")])
def test_a_type_that_agrees_with_its_policy_is_no_contradiction(
    make_runner: Any, kind: Any
) -> None:
    runner = make_runner()
    runner.register_lr_hook({**STEP, "type": kind})
    assert [type(hook).__name__ for hook in runner.hooks] == ["StepLrUpdaterHook"]


def test_hooks_that_are_taken_back_can_be_registered_again(make_runner: Any) -> None:
    objects = [OptimizerHook(), CheckpointHook(interval=1), IterTimerHook(), TextLoggerHook()]
    optimizer, checkpoint, timer, logger = objects

    def register(runner: Any, custom: Any) -> None:
        runner.register_training_hooks(
            STEP, optimizer, checkpoint, {"hooks": [logger]}, None, timer, custom
        )

    runner = make_runner()
    with pytest.raises(ValueError, match=r"EMAHook.*LOW.*after CheckpointHook"):
        register(runner, {"type": "EMAHook", "priority": "LOW"})
    assert list(runner.hooks) == []
    assert not any(hasattr(hook, "priority") for hook in objects)
    logger.interval = 3  # it is nobody's, so that this refreshes nobody
    other = make_runner()
    register(other, {"type": "EMAHook", "priority": 49})
    assert set(objects) < set(other.hooks)
    other.run([make_loader(3)], [("train", 1)])
    assert runner.get_hook_info() == ""


def test_what_was_resumed_still_waits_for_hooks_that_are_taken_back(make_runner: Any) -> None:
    first = make_runner(max_epochs=1)
    first.register_training_hooks(
        None, {}, {"interval": 1}, custom_hooks_config=GOOD["custom_hooks_config"]
    )
    first.register_hook(EvalHook(make_loader(2)))
    first.run([make_loader(3)], [("train", 1)])
    runner = make_runner(max_epochs=2)
    runner.resume(f"{first.work_dir}/epoch_1.pth")
    waiting = dict(runner.waiting_hook_states)
    evaluation = EvalHook(make_loader(2))
    with pytest.raises(KeyError, match="'EMAHok'"):
        runner.register_custom_hooks([evaluation, {"type": "EMAHok"}])
    assert runner.waiting_hook_states == waiting
    runner.register_custom_hooks([evaluation])
    assert runner.waiting_hook_states != waiting


@pytest.mark.parametrize("method", ["register_logger_hooks", "register_custom_hooks"])
def test_a_list_is_registered_as_one(make_runner: Any, method: str) -> None:
    runner, hooks = make_runner(), [TEXT, {**TEXT, "intervall": 3}]
    with pytest.raises(TypeError, match="'intervall'"):
        getattr(runner, method)({"hooks": hooks} if "logger" in method else hooks)
    assert list(runner.hooks) == []


class OwnLogger(LoggerHook):
    """Takes an interval only."""

    def __init__(self, interval: int = 10) -> None:
        super().__init__(interval)

    def log(self, runner: Any) -> None: ...


def test_a_logger_that_does_not_take_by_epoch_is_not_given_it(make_runner: Any) -> None:
    runner = make_runner(IterBasedRunner)
    runner.register_logger_hooks({"interval": 3, "hooks": [{"type": OwnLogger}, TEXT]})
    assert [(hook.interval, hook.by_epoch) for hook in runner.hooks] == [(3, True), (3, False)]
    with pytest.raises(TypeError, match=r"OwnLogger has no argument 'by_epoc'. Known: interval"):
        runner.register_logger_hooks({"hooks": [{"type": OwnLogger, "by_epoc": 3}]})


def test_a_type_error_of_a_constructor_is_not_taken_for_a_misspelling() -> None:
    class Odd(Hook):
        def __init__(self, size: Any, **others: Any) -> None:
            self.size = len(size)

    with pytest.raises(TypeError, match=r"has no len\(\)") as caught:
        HOOKS.build({"type": Odd, "size": 3, "colour": "red"})
    assert "while building the hook Odd" in caught.value.__notes__[0]


class Loader(list[Any]):
    """A test set whose evaluation takes anything."""

    class Data:
        def evaluate(self, results: Any, logger: Any = None, **kwargs: Any) -> dict[str, float]:
            return {"acc": 1.0}

    dataset = Data()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("intervall", "interval"), ("save_bst", "save_best"), ("by_epochs", "by_epoch")],
)
def test_what_evaluation_may_take_but_reads_like_an_argument_is_warned_about(
    make_runner: Any, name: str, meant: str
) -> None:
    config = {"type": "EvalHook", "dataloader": Loader(), name: 3}
    with pytest.warns(UserWarning, match=f"'{name}'.*evaluate.*'{meant}'"):
        make_runner().register_custom_hooks(config)


def test_arguments_of_evaluation_are_not_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EvalHook(Loader(), metric="bbox", classwise=True, iou_thrs=[0.5], jsonfile_prefix="x")
