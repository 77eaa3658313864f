"""Learning-rate hooks whose methods are overridden, set on the hook, called on mocks, copied."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from hookrun import (
    HOOKS,
    CosineAnnealingLrUpdaterHook,
    FixedLrUpdaterHook,
    LinearAnnealingLrUpdaterHook,
    LrUpdaterHook,
    StepLrUpdaterHook,
)
from tests.hooks.schedule.lr_support import (
    WARM,
    dry_run,
    make_optimizer,
    overriding,
    rates,
    record,
)

METHODS = {
    "get_lr": 0.5,
    "get_regular_lr": 0.5,
    "get_warmup_lr": 0.5,
    "_set_lr": 1.0,
    "before_run": 1.0,
    "before_train_epoch": 1.0,
    "before_train_iter": 1.0,
}


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_subclass_may_override_every_method(method: str, by_epoch: bool) -> None:
    arguments = {"min_lr_ratio": 0.1, "by_epoch": by_epoch, **WARM}
    plain = record(dry_run(LinearAnnealingLrUpdaterHook(**arguments)))
    cls = overriding(method)
    hook = cls(**arguments)
    run = dry_run(hook)
    values = record(run)
    assert cls.calls > 0
    assert not hook._compiled
    first = METHODS[method]
    assert values[0] == pytest.approx([first * lr for lr in plain[0]])


def test_a_method_set_on_the_hook_is_honoured() -> None:
    hook = FixedLrUpdaterHook(by_epoch=False)
    run = dry_run(hook, make_optimizer(0.1))
    values = []
    for _ in run.iterations():
        values.append(rates(run)[0])
        if run.iter == 1:
            hook.get_lr = lambda runner, base_lr: 7.0  # type: ignore[method-assign]
            run.refresh_hooks()
            assert hook.regular_lr == [0.1]
    assert values[:3] == [0.1, 0.1, 7.0]


def test_a_policy_of_ones_own_as_mmcv_users_write_it() -> None:
    @HOOKS.register_module(name="HalvesLrUpdaterHook", force=True)
    class Halves(LrUpdaterHook):
        def __init__(self, every: int, **kwargs: Any) -> None:
            self.every = every
            super().__init__(**kwargs)

        def get_lr(self, runner: Any, base_lr: float) -> float:
            return base_lr * 0.5 ** (runner.iter // self.every)

    hook = HOOKS.build({"type": "HalvesLrUpdaterHook", "every": 2, "by_epoch": False})
    run = dry_run(hook, make_optimizer(1.0))
    assert [lr for (lr,) in record(run)][:5] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_the_base_class_asks_for_a_formula() -> None:
    with pytest.raises(NotImplementedError, match="get_lr"):
        record(dry_run(LrUpdaterHook()))


def test_methods_on_a_mock_that_never_ran() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    hook.base_lr = [0.1]
    runner = MagicMock(iter=5, max_iters=10)
    assert hook.get_regular_lr(runner) == [pytest.approx(0.05)]
    hook.regular_lr = [0.4]
    hook.warmup, hook.warmup_iters = "constant", 3
    assert hook.get_warmup_lr(1) == [pytest.approx(0.04)]
    runner = SimpleNamespace(optimizer=make_optimizer(0.3), iter=0, epoch=0)
    step = StepLrUpdaterHook(step=3)
    step.before_run(runner)
    step.before_train_epoch(runner)
    step.before_train_iter(runner)
    assert step.base_lr == step.regular_lr == [0.3]


def test_hooks_can_be_copied_and_pickled_after_a_run() -> None:
    hook = CosineAnnealingLrUpdaterHook(min_lr=0.0, by_epoch=False)
    run = dry_run(hook)
    record(run)
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert twin.regular_lr == hook.regular_lr
        assert record(dry_run(twin)) == record(dry_run(copy.deepcopy(hook)))
