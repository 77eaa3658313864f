"""Parameters that the model gets in mid-run, besides those that are stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import ClosureHook, Fp16OptimizerHook, IterBasedRunner, OptimizerHook
from hookrun.hooks.optimizer import run_checks
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


@pytest.mark.parametrize("hook", [OptimizerHook, Fp16OptimizerHook])
def test_parameters_that_the_model_gets_in_mid_run_are_clipped_and_cleared(
    make_runner: MakeRunner, hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_checks, "_WATCH_EVERY", 2)

    class Model(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            outputs = super().train_step(data_batch)
            late = getattr(self, "late", None)
            return outputs if late is None else {**outputs, "loss": outputs["loss"] + late.sum()}

    def add(runner: Any) -> None:
        if runner.iter == 0:
            runner.model.late = nn.Parameter(torch.zeros(100))

    gradients = []
    runner = make_runner(IterBasedRunner, model=Model(), max_iters=8)
    options = {} if hook is OptimizerHook else {"loss_scale": 1.0}
    runner.register_hook(hook(grad_clip={"max_norm": 1e9}, **options), priority=40)
    runner.register_hook(ClosureHook("after_train_iter", add))
    norms = []
    runner.register_hook(
        ClosureHook(
            "after_train_iter",
            lambda r: norms.append(list(r.log_buffer.val_history["grad_norm"])[-1]),
        )
    )
    runner.register_hook(
        ClosureHook(
            "after_train_iter",
            lambda r: gradients.append(r.model.late.grad),
        )
    )
    runner.run([make_loader(8)], TRAIN)
    assert all(float(norm) >= 10 for norm in norms[3:])  # 100 gradients of 1
    if hook is Fp16OptimizerHook:  # which clears the model's
        assert torch.equal(gradients[-1], torch.ones(100))
