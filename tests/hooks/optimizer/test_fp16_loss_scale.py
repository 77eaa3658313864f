"""Loss scales of Fp16OptimizerHook: what arguments mean, their state in files, and schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import (
    HOOKS,
    ClosureHook,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
)
from hookrun.checkpoint import read_checkpoint
from hookrun.hooks.optimizer.loss_scale import StaticLossScale, load_scaler_state, make_loss_scale
from hookrun.ops import LossScale
from tests.support import make_loader

from .fp16_support import TRAIN, Half, MakeRunner, make

# State in checkpoints


def test_the_scaler_is_in_the_checkpoint_where_mmcv_looks_for_it(make_runner: MakeRunner) -> None:
    hook = Fp16OptimizerHook(loss_scale={"init_scale": 64.0, "growth_interval": 3})
    runner, _ = make(make_runner, hook=hook, max_iters=4)
    runner.register_checkpoint_hook({"interval": 4, "by_epoch": False})
    runner.run([list(make_loader(4))], TRAIN)
    state = read_checkpoint(Path(runner.work_dir) / "iter_4.pth")["meta"]["fp16"]["loss_scaler"]
    assert state == hook.loss_scaler.state_dict()
    assert state["scale"] == 128.0
    theirs = torch.amp.GradScaler("cpu")
    theirs.load_state_dict(state)
    assert theirs.state_dict() == state


MMCV_STATES = [
    torch.amp.GradScaler("cpu", init_scale=4096.0).state_dict(),
    {
        "cur_scale": 4096.0,
        "cur_iter": 20,
        "mode": "dynamic",
        "last_overflow_iter": 12,
        "scale_factor": 4.0,
        "scale_window": 1000,
    },
]


@pytest.mark.parametrize("state", MMCV_STATES, ids=["GradScaler", "LossScaler"])
def test_the_scaler_of_an_mmcv_file_is_taken_over(make_runner: MakeRunner, state: Any) -> None:
    hook = Fp16OptimizerHook(loss_scale="dynamic")
    runner, _ = make(make_runner, hook=hook, max_iters=1, meta={"fp16": {"loss_scaler": state}})
    given = runner.meta["fp16"]
    runner.run([list(make_loader(1))], TRAIN)
    assert hook.loss_scaler.scale == 4096.0
    assert hook.loss_scaler.finite_steps == (8 if "cur_iter" in state else 1)
    assert given["loss_scaler"] == state  # the caller's stays


@pytest.mark.parametrize("window", [1, 2, 5])
def test_growth_goes_on_where_mmcvs_loss_scaler_was(window: int) -> None:
    overflow = [False, False, True, False, False, False, False, True, True, False, False, False]
    for cut in range(1, len(overflow)):
        cur_scale, last = 64.0, -1
        for step, bad in enumerate(overflow):  # MMCV's rules
            if step == cut:
                ours = LossScale(1.0)
                state = {"cur_scale": cur_scale, "cur_iter": step, "last_overflow_iter": last}
                load_scaler_state(ours, {**state, "scale_factor": 2.0, "scale_window": window})
            if step >= cut:
                ours.update(not bad)
            if bad:
                cur_scale, last = max(cur_scale / 2, 1), step
            elif (step - last) % window == 0:
                cur_scale *= 2
        assert ours.scale == cur_scale


# Arguments


def test_what_loss_scales_mean() -> None:
    for value in (128, 128.0, {"init_scale": 128, "mode": "static"}):
        scaler = make_loss_scale("Hook", value)
        assert isinstance(scaler, StaticLossScale)
        scaler.update(False)
        assert scaler.scale == 128.0
        for scale in (512.0, 2.0):
            scaler.update(scale)
            for finite in [False] * 3 + [True] * 2001:
                scaler.update(finite)
            assert scaler.scale == scale
    assert make_loss_scale("Hook", None) is None
    assert make_loss_scale("Hook", {"enabled": False}) is None
    dynamic = make_loss_scale("Hook", "dynamic")
    assert dynamic is not None
    assert dynamic.state_dict() == torch.amp.GradScaler("cpu").state_dict() | {
        "_growth_tracker": 0,
        "scale": 2.0**16,
    }
    mmcvs = make_loss_scale("Hook", {"init_scale": 2.0**40, "scale_factor": 4, "scale_window": 7})
    assert mmcvs is not None
    assert (mmcvs.scale, mmcvs.growth_factor, mmcvs.backoff_factor) == (2.0**40, 4.0, 0.25)
    assert mmcvs.growth_interval == 7


@pytest.mark.parametrize(
    ("loss_scale", "error", "message"),
    [
        (0, ValueError, "must be above 0"),
        (-1.0, ValueError, "must be above 0"),
        (math.nan, ValueError, "must be above 0"),
        (math.inf, ValueError, "must be above 0 and finite"),
        (True, TypeError, "must be a number above 0, 'dynamic', a dict"),
        ([512.0], TypeError, "must be a number above 0, 'dynamic', a dict"),
        ("static", ValueError, "must be a number above 0, 'dynamic'"),
        ({"init_scael": 1.0}, TypeError, "'init_scael'.*Did you mean 'init_scale'"),
        ({"init_scale": 0.0}, ValueError, "init_scale must be above 0"),
        ({"init_scale": "8"}, TypeError, "init_scale must be a number"),
        ({"mode": "fixed"}, ValueError, "'dynamic' or 'static', not 'fixed'"),
        ({"growth_factor": 0.5}, ValueError, "growth_factor must exceed 1"),
        ({"growth_interval": 0}, ValueError, "growth_interval must be positive"),
    ],
)
@pytest.mark.parametrize("hook", [Fp16OptimizerHook, GradientCumulativeFp16OptimizerHook])
def test_bad_loss_scales(hook: type, loss_scale: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"{hook.__name__}: loss_scale.*{message}"):
        hook(loss_scale=loss_scale)


def test_arguments_of_mmcv_are_taken_in_their_order() -> None:
    hook = Fp16OptimizerHook({"max_norm": 1.0}, False, 25, "dynamic", False)
    assert (hook.coalesce, hook.bucket_size_mb, hook.distributed) == (False, 25, False)
    assert hook.loss_scaler.scale == 2.0**16


def test_overridden_clipping_gets_the_unscaled_masters(make_runner: MakeRunner) -> None:
    norms: list[float] = []

    class Mine(Fp16OptimizerHook):
        def clip_grads(self, params: Any) -> Any:
            params = list(params)
            assert all(p.dtype == torch.float32 for p in params)
            norms.append(float(nn.utils.get_total_norm([p.grad for p in params])))
            return super().clip_grads(params)

    batches = list(make_loader(3))
    runs = []
    for kind in (Mine, Fp16OptimizerHook):
        hook = kind({"max_norm": 0.5})
        runner, _ = make(make_runner, hook=hook, max_iters=3)
        runner.run([batches], TRAIN)
        runs.append(runner)
    assert runs[1].log_buffer.val_history["grad_norm"] == pytest.approx(norms, rel=1e-5)
    torch.testing.assert_close(runs[0].model.fc.weight, runs[1].model.fc.weight)


# Schedules


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("iters", [1, 2])
def test_schedules_are_told_of_skipped_steps_only_if_asked(
    make_runner: MakeRunner, hold: bool, iters: int
) -> None:
    def rates(model: Half, limit: int, resume: Any = None, **given: Any) -> tuple[Any, list[float]]:
        seen: list[float] = []
        name = "GradientCumulativeFp16OptimizerHook"
        hook = HOOKS.build({"type": name, "cumulative_iters": iters, "loss_scale": 8.0, **given})
        runner, _ = make(make_runner, model=model, hook=hook, max_iters=limit)
        config = {"policy": "inv", "gamma": 0.5, "by_epoch": False}
        runner.register_lr_hook({**config, "warmup": "linear", "warmup_iters": 4})
        runner.register_checkpoint_hook({"interval": 6 * iters, "by_epoch": False})
        note = ClosureHook("after_train_iter", lambda r: seen.append(r.current_lr()[0]))
        runner.register_hook(note)
        if resume is not None:
            runner.resume(resume)
        runner.run([list(make_loader(24))], TRAIN)
        return runner, seen

    _, plain = rates(Half(), 12 * iters)
    model = Half()
    model.factors = {0: math.inf, 5 * iters: math.inf}  # the first step, and the sixth
    runner, seen = rates(model, 12 * iters, hold_schedules=hold)
    if not hold:
        assert seen == plain
        return
    expected = plain[:iters] + plain[: 5 * iters] + plain[4 * iters : 10 * iters]
    assert seen == pytest.approx(expected, rel=1e-12)
    file = Path(runner.work_dir) / f"iter_{6 * iters}.pth"
    _, resumed = rates(Half(), 12 * iters, file, hold_schedules=hold)
    assert resumed == seen[6 * iters :]
