"""Registering hooks: from objects and configs, and which ones do not go together."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest

from hookrun import (
    CheckpointHook,
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    FixedLrUpdaterHook,
    Hook,
    IterBasedRunner,
    IterTimerHook,
    MomentumUpdaterHook,
    OptimizerHook,
    TextLoggerHook,
)
from tests.support import Points, Recorder, make_loader


class ConstantMomentum(MomentumUpdaterHook):
    def get_momentum(self, runner: Any, base_momentum: float) -> float:
        return base_momentum


def names(runner: Any) -> list[tuple[str, int]]:
    return [(type(hook).__name__, hook.priority) for hook in runner.hooks]


CONFIGS: dict[str, Any] = {
    "lr_config": {"policy": "step", "step": [1, 2], "warmup": "linear", "warmup_iters": 2},
    "optimizer_config": {"grad_clip": {"max_norm": 35, "norm_type": 2}},
    "checkpoint_config": {"interval": 5, "meta": {"nested": {"a": 1}}},
    "log_config": {"interval": 7, "hooks": [{"type": "TextLoggerHook"}]},
    "timer_config": {"type": "IterTimerHook"},
    "custom_hooks_config": [
        {"type": "CheckInvalidLossHook", "interval": 3, "priority": "LOW"},
        {"type": "CheckInvalidLossHook"},
    ],
}
USUAL = [
    ("StepLrUpdaterHook", 10),
    ("OptimizerHook", 40),
    ("CheckpointHook", 50),
    ("CheckInvalidLossHook", 50),
    ("IterTimerHook", 70),
    ("CheckInvalidLossHook", 70),
    ("TextLoggerHook", 90),
]


@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_the_usual_set_from_configs_that_stay_as_they_are(make_runner: Any, kind: type) -> None:
    configs = copy.deepcopy(CONFIGS)
    runner = make_runner(kind)
    runner.register_training_hooks(**configs)
    assert names(runner) == USUAL
    assert configs == CONFIGS
    runner.run([make_loader(2)], [("train", 2)])
    assert configs == CONFIGS


def test_the_usual_set_from_objects(make_runner: Any) -> None:
    runner = make_runner()
    hooks = {
        "lr_config": FixedLrUpdaterHook(),
        "momentum_config": ConstantMomentum(),
        "optimizer_config": OptimizerHook(),
        "checkpoint_config": CheckpointHook(interval=1),
        "timer_config": IterTimerHook(),
        "custom_hooks_config": Recorder(),
    }
    logger = TextLoggerHook(interval=3)
    runner.register_training_hooks(**hooks, log_config={"hooks": [logger]})
    assert names(runner) == [
        ("FixedLrUpdaterHook", 10),
        ("ConstantMomentum", 30),
        ("OptimizerHook", 40),
        ("CheckpointHook", 50),
        ("Recorder", 50),
        ("IterTimerHook", 70),
        ("TextLoggerHook", 90),
    ]
    assert {*hooks.values(), logger} == set(runner.hooks)
    assert logger.interval == 3


def test_nothing_is_registered_for_none(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_training_hooks(None, timer_config=None)
    runner.register_profiler_hook(None)
    assert runner.hooks == []


def test_loggers_take_the_interval_of_the_config_unless_they_give_one(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_logger_hooks(
        {"interval": 7, "hooks": [{"type": "TextLoggerHook"}, {"type": TextLoggerHook}]}
    )
    runner.register_logger_hooks({"hooks": [{"type": "TextLoggerHook", "interval": 4}]})
    runner.register_logger_hooks({"hooks": [{"type": "TextLoggerHook"}]})
    assert [hook.interval for hook in runner.hooks] == [7, 7, 4, 10]


def test_by_iteration_everything_counts_iterations_unless_it_says_otherwise(
    make_runner: Any,
) -> None:
    runner = make_runner(IterBasedRunner)
    configs = copy.deepcopy(CONFIGS)
    configs["log_config"]["hooks"].append(TextLoggerHook(by_epoch=True))
    runner.register_training_hooks(**configs, momentum_config=ConstantMomentum(by_epoch=False))
    by_epoch = {type(h).__name__: h.by_epoch for h in runner.hooks if hasattr(h, "by_epoch")}
    assert by_epoch.pop("TextLoggerHook") is True  # an object keeps what it was made with
    assert by_epoch == {
        "StepLrUpdaterHook": False,
        "ConstantMomentum": False,
        "CheckpointHook": False,
    }
    runner = make_runner(IterBasedRunner)
    objects = (FixedLrUpdaterHook(by_epoch=False), CheckpointHook(interval=1))
    runner.register_training_hooks(objects[0], checkpoint_config=objects[1])
    assert objects[1].by_epoch is True
    runner = make_runner(IterBasedRunner)
    runner.register_training_hooks(None, checkpoint_config={"interval": 1, "by_epoch": True})
    assert runner.hooks[0].by_epoch is True


@pytest.mark.parametrize(
    ("argument", "in_config", "expected"),
    [(None, None, 50), (None, "LOW", 70), (20, "LOW", 20), ("HIGH", None, 30), (0, 100, 0)],
)
def test_the_argument_wins_over_the_priority_in_the_dict(
    make_runner: Any, argument: Any, in_config: Any, expected: int
) -> None:
    runner = make_runner()
    config = {"type": "CheckInvalidLossHook"}
    if in_config is not None:
        config["priority"] = in_config
    given = dict(config)
    runner.register_hook(config, priority=argument)
    assert runner.hooks[0].priority == expected
    assert config == given
    if argument is None:
        runner.register_hook_from_cfg(config)
        assert runner.hooks[1].priority == expected


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("register_lr_hook", {"policy": "fixed"}),
        ("register_optimizer_hook", {}),
        ("register_checkpoint_hook", {"interval": 1}),
        ("register_timer_hook", {}),
        ("register_logger_hooks", {"type": "TextLoggerHook"}),
    ],
)
def test_a_usual_hooks_config_may_give_its_priority(
    make_runner: Any, method: str, config: dict[str, Any]
) -> None:
    runner = make_runner()
    config = {**config, "priority": 33}
    argument = {"hooks": [config]} if method == "register_logger_hooks" else config
    getattr(runner, method)(argument)
    assert runner.hooks[0].priority == 33
    assert config["priority"] == 33


@pytest.mark.parametrize("policy", ["step", "Step", "STEP"])
def test_a_policy_is_known_in_any_case(make_runner: Any, policy: str) -> None:
    runner = make_runner()
    runner.register_lr_hook({"policy": policy, "step": 1})
    assert names(runner) == [("StepLrUpdaterHook", 10)]


@pytest.mark.parametrize("policy", ["CosineAnnealing", "cosineannealing", "cosineAnnealing"])
def test_a_policy_of_two_words_is_known_in_any_case(make_runner: Any, policy: str) -> None:
    runner = make_runner()
    runner.register_lr_hook({"policy": policy, "min_lr": 0})
    assert names(runner) == [("CosineAnnealingLrUpdaterHook", 10)]


def test_two_optimizer_hooks_are_refused_by_name(make_runner: Any) -> None:
    class AccumulatingHook(OptimizerHook):
        pass

    runner = make_runner()
    runner.register_optimizer_hook({})
    with pytest.raises(ValueError, match=r"AccumulatingHook cannot.*OptimizerHook steps") as caught:
        runner.register_hook(AccumulatingHook())
    assert "Register one of the two" in str(caught.value)
    assert names(runner) == [("OptimizerHook", 40)]


def test_ema_of_a_checkpoint_hooks_priority_is_moved_ahead_with_a_warning(make_runner: Any) -> None:
    runner = make_runner()
    with pytest.warns(UserWarning, match=r"EMAHook has the priority of CheckpointHook.*ahead"):
        runner.register_training_hooks(
            None, {}, {"interval": 1}, custom_hooks_config=[{"type": "EMAHook"}]
        )
    assert names(runner)[:3] == [("OptimizerHook", 40), ("EMAHook", 50), ("CheckpointHook", 50)]
    listeners = runner._dispatcher.listeners("after_train_epoch")
    assert [type(hook).__name__ for hook in listeners[:2]] == ["EMAHook", "CheckpointHook"]


def test_ema_registered_in_its_place_gives_no_warning(make_runner: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runner = make_runner()
        runner.register_hook(EMAHook())
        runner.register_checkpoint_hook({"interval": 1})
        runner = make_runner()
        runner.register_checkpoint_hook({"interval": 1})
        runner.register_hook(EMAHook(), priority=49)
    assert names(runner) == [("EMAHook", 49), ("CheckpointHook", 50)]


def test_ema_below_a_checkpoint_hook_is_refused_with_the_fix(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_checkpoint_hook({"interval": 1})
    with pytest.raises(ValueError, match=r"EMAHook.*LOW.*after CheckpointHook.*at most 50"):
        runner.register_hook(EMAHook(), priority="LOW")
    assert names(runner) == [("CheckpointHook", 50)]
    runner = make_runner()
    runner.register_hook(EMAHook(), priority="LOW")
    with pytest.raises(ValueError, match=r"CheckpointHook.*before EMAHook.*at most 50"):
        runner.register_checkpoint_hook({"interval": 1})
    loader = make_loader(1)
    assert isinstance(loader.dataset, Points)
    runner.register_hook(EvalHook(loader), priority="VERY_LOW")
    assert names(runner) == [("EMAHook", 70), ("EvalHook", 90)]


def test_a_hook_is_registered_once(make_runner: Any) -> None:
    hook, runner = Hook(), make_runner()
    runner.register_hook(hook)
    with pytest.raises(ValueError, match="registered already"):
        runner.register_hook(hook)
    with pytest.raises(ValueError, match="belongs to another runner"):
        make_runner().register_hook(hook)

    class Reserved(Hook):
        priority = 3

    with pytest.raises(ValueError, match="reserved name"):
        runner.register_hook(Reserved())


def test_hook_info_is_mmcvs_but_for_points_that_mmcvs_hooks_have_not(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_training_hooks(
        {"policy": "step", "step": [2]},
        {"grad_clip": None},
        {"interval": 1},
        {"interval": 10, "hooks": [{"type": "TextLoggerHook"}]},
        custom_hooks_config=[{"type": "EMAHook", "priority": 49}],
    )
    expected = (Path(__file__).parents[1] / "fixtures" / "mmcv_runs" / "hook_info.txt").read_text()[
        :-1
    ]
    lines = runner.get_hook_info().split("\n")
    lines.remove("(ABOVE_NORMAL) OptimizerHook                      ")  # first in before_run
    end = lines.index("after_run:")
    ours = ("EMAHook", "CheckpointHook")
    lines[end:] = [line for line in lines[end:] if not any(name in line for name in ours)]
    assert "\n".join(lines) == expected


def test_a_custom_event_reaches_the_methods_of_its_name(make_runner: Any) -> None:
    class Custom(Hook):
        called = 0

        def before_anything(self, runner: Any) -> None:
            self.called += 1

    runner, hook = make_runner(), Custom()
    runner.register_hook(hook)
    runner.call_hook("before_anything")
    assert hook.called == 1
    with pytest.warns(UserWarning, match="after_train_iter"):
        runner.call_hook("after_train_itre")


def test_call_hook_takes_the_event_by_position_or_as_mmcv_names_it(make_runner: Any) -> None:
    runner = make_runner()
    calls: list[Any] = []
    runner.register_hook(ClosureHook("after_val_epoch", calls.append))
    runner.call_hook("after_val_epoch")
    runner.call_hook(fn_name="after_val_epoch")
    assert calls == [runner] * 2
    wrong: list[Any] = [
        ((), {}),
        (("a", "b"), {}),
        ((), {"event": "a"}),
        (("a",), {"fn_name": "a"}),
    ]
    for args, kwargs in wrong:
        with pytest.raises(TypeError, match=r"call_hook\(\) takes one argument, fn_name"):
            runner.call_hook(*args, **kwargs)


def test_a_registration_does_not_go_through_all_hooks_before_it(make_runner: Any) -> None:
    asked = 0

    class Asked(Hook):
        @property
        def writes(self) -> frozenset[str]:  # type: ignore[override]
            nonlocal asked
            asked += 1
            return frozenset()

    runner, hooks = make_runner(), [Asked() for _ in range(500)]
    for number, hook in enumerate(hooks):
        runner.register_hook(hook, priority=number % 7)
    assert asked <= 2 * len(hooks)
    expected = sorted(hooks, key=lambda hook: hook.priority)  # stable
    assert list(runner.hooks) == expected
    with pytest.raises(ValueError, match="registered already"):
        runner.register_hook(hooks[3])
    runner.hooks.remove(hooks[3])
    with pytest.raises(ValueError, match="has a 'priority' already"):
        runner.register_hook(hooks[3])
