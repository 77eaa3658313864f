"""Subclasses of shipped runners: whatever they override is called, as often as the runner's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from hookrun import EpochBasedRunner, IterBasedRunner
from tests.support import make_loader


class _RunnerCalls:
    """Counts the runner's own methods."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.calls: Counter[str] = Counter()
        super().__init__(*args, **kwargs)


def _count(name: str, base: type) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.calls[name] += 1
        return getattr(base, name)(self, *args, **kwargs)

    return method


# What a run of two epochs of three batches, validated on one batch, calls.
EXPECTED: Mapping[type, Mapping[str, int]] = {
    EpochBasedRunner: {
        "run": 1,
        "train": 2,
        "val": 2,
        "run_iter": 8,
        "call_hook": 2 + 2 * (2 + 3 * 2) + 2 * (2 + 2),
        "save_checkpoint": 2,
        "current_lr": 4,  # validation is logged too
        "register_hook": 3,
        "get_hook_info": 1,
        "eval_weights": 4,  # around each checkpoint, and each epoch of validation
    },
    IterBasedRunner: {
        "run": 1,
        "train": 6,
        "val": 2,
        "call_hook": 4 + 6 * 2 + 2 * 2,
        "save_checkpoint": 2,
        "current_lr": 4,  # of training and of validation
        "register_hook": 3,
        "get_hook_info": 1,
        "eval_weights": 4,  # and around each phase of validation
    },
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("together", [False, True])
def test_what_a_runner_subclass_overrides_is_called(
    make_runner: Any, kind: type, together: bool
) -> None:
    expected = EXPECTED[kind]
    for names in [tuple(expected)] if together else [(name,) for name in expected]:
        body = {name: _count(name, kind) for name in names}
        runner = make_runner(
            type("CountedRunner", (_RunnerCalls, kind), body),
            **({"max_epochs": 2} if kind is EpochBasedRunner else {"max_iters": 6}),
        )
        runner.register_training_hooks(
            None,
            {},
            {"interval": 1 if kind is EpochBasedRunner else 3},
            {"interval": 3, "hooks": [{"type": "TextLoggerHook"}]},
            timer_config=None,
        )
        runner.logger.setLevel("DEBUG")  # at which the order of hooks is logged
        counts = (1, 1) if kind is EpochBasedRunner else (3, 1)
        workflow = list(zip(("train", "val"), counts, strict=True))
        runner.run([make_loader(3), make_loader(1)], workflow)
        assert runner.calls == {name: expected[name] for name in names}
        assert torch.isfinite(runner.outputs["loss"])
