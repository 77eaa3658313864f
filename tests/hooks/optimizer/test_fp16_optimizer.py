"""Fp16OptimizerHook: loss scales, fp32 masters, skipped steps, and going on from a checkpoint."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hookrun import (
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    IterBasedRunner,
    TrainStep,
    auto_fp16,
    wrap_fp16_model,
)
from tests.support import TinyModel, make_loader

from .fp16_support import HALVES, RUNNERS, TRAIN, Half, MakeRunner, make


def by_hand(
    model: Half, batches: list[Any], scale: float, optimizer: type, clip: float | None
) -> list[Tensor]:
    """The specification's list in plain torch; returns the masters."""
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    step = optimizer(masters, lr=0.1, **options)
    for batch in batches:
        model.zero_grad()
        (model.train_step(batch)["loss"] * scale).backward()
        for master, parameter in zip(masters, model.parameters(), strict=True):
            master.grad = parameter.grad.float() / scale
        if all(torch.isfinite(master.grad).all() for master in masters):
            if clip is not None:
                nn.utils.clip_grad_norm_(masters, clip)
            step.step()
            with torch.no_grad():
                for master, parameter in zip(masters, model.parameters(), strict=True):
                    parameter.copy_(master)
    return masters


# fp32 masters


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("dtype", HALVES)
def test_masters_are_stepped_and_rounded_into_the_model(
    make_runner: MakeRunner,
    fused: bool | str,
    clip: float | None,
    optimizer: type,
    dtype: torch.dtype,
) -> None:
    batches = list(make_loader(6))
    hook = Fp16OptimizerHook(grad_clip=None if clip is None else {"max_norm": clip}, fused=fused)
    runner, _ = make(make_runner, model=Half(0, dtype), hook=hook, optimizer=optimizer, max_iters=6)
    runner.run([batches], TRAIN)
    expected = Half(0, dtype)
    scale = 512.0 if dtype is torch.float16 else 1.0
    masters = by_hand(expected, batches, scale, optimizer, clip)
    ours = runner.optimizer.param_groups[0]["params"]
    assert [each.dtype for each in ours] == [torch.float32] * 2
    for master, theirs in zip(ours, masters, strict=True):
        torch.testing.assert_close(master, theirs, rtol=2e-5, atol=2e-5)
    for parameter, master in zip(runner.model.parameters(), ours, strict=True):
        assert parameter.dtype == dtype
        assert torch.equal(parameter, master.to(dtype))
    assert (hook.loss_scaler is None) == (dtype is torch.bfloat16)
    assert runner.model.fp16_enabled


class Descent(torch.optim.Optimizer):
    """Somebody's own optimizer, for gradients that fp16 cannot hold."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-group["lr"] / TINY)


TINY = 2.0**-28


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("clip", [None, TINY])
def test_a_custom_optimizer_gets_gradients_that_were_unscaled_in_fp32(
    make_runner: MakeRunner, fused: bool | str, clip: float | None
) -> None:
    models, batches = (Half(), Half()), list(make_loader(6))
    for model in models:
        model.factors = dict.fromkeys(range(6), TINY)
    hook = Fp16OptimizerHook(
        grad_clip=None if clip is None else {"max_norm": clip}, loss_scale=2.0**24, fused=fused
    )
    runner, _ = make(make_runner, model=models[0], hook=hook, optimizer=Descent, max_iters=6)
    runner.run([batches], TRAIN)
    masters = by_hand(models[1], batches, 2.0**24, Descent, clip)
    ours = runner.optimizer.param_groups[0]["params"]
    for master, theirs, start in zip(ours, masters, Half().parameters(), strict=True):
        torch.testing.assert_close(master, theirs, rtol=2e-5, atol=2e-7)
        assert not torch.equal(master, start.float())
    for parameter, master in zip(runner.model.parameters(), ours, strict=True):
        assert torch.equal(parameter, master.half())


def test_norm_layers_of_a_wrapped_model_are_their_own_masters(make_runner: MakeRunner) -> None:
    class Normed(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)
            self.fp16_enabled = False

        @auto_fp16(apply_to=("x",), out_fp32=True)
        def predict(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.fc(self.norm(x))
            return outputs

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            loss = (self.predict(data_batch["x"]) - data_batch["y"]).square().mean()
            return {"loss": loss, "num_samples": 2}

    model = Normed()
    wrap_fp16_model(model, half=True)
    runner, _ = make(make_runner, model=model, max_iters=8)
    runner.register_hook(EMAHook(0.2), 45)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    runner.run([list(make_loader(8))], TRAIN)
    stepped = runner.optimizer.param_groups[0]["params"]
    named = dict(model.named_parameters())
    kinds = {
        n: (p.dtype, master is p) for (n, p), master in zip(named.items(), stepped, strict=True)
    }
    half, norm = (torch.float16, False), (torch.float32, True)
    assert kinds == {"fc.weight": half, "fc.bias": half, "norm.weight": norm, "norm.bias": norm}
    for name, parameter in named.items():
        assert not torch.equal(parameter, before[name]), name
        assert model.get_buffer(f"ema_{name.replace('.', '_')}").dtype == torch.float32


@pytest.mark.parametrize("runner_type", RUNNERS)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("how", ["resume", "resume_from"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    make_runner: MakeRunner, runner_type: type, optimizer: type, ema: bool, how: str
) -> None:
    if how == "resume_from" and not ema:
        pytest.skip("an argument of EMAHook")
    by_epoch = runner_type is EpochBasedRunner
    limit = {"max_epochs": 3} if by_epoch else {"max_iters": 12}

    def start(seed: int, file: Path | None = None) -> tuple[Any, Any]:
        scale = {"init_scale": 2.0**18, "growth_interval": 3}
        hook = Fp16OptimizerHook(loss_scale=scale, grad_clip={"max_norm": 1.0})
        runner, _ = make(make_runner, runner_type, Half(seed), hook, optimizer, **limit)
        if ema:
            given = {"resume_from": str(file)} if file and how == "resume_from" else {}
            runner.register_hook(EMAHook(0.2, warm_up=1, **given), 45)
        runner.register_checkpoint_hook({"interval": 1 if by_epoch else 4, "by_epoch": by_epoch})
        if file and how == "resume":
            runner.resume(file)
        return runner, hook

    whole, hook = start(0)
    whole.run([list(make_loader(4))], TRAIN)
    expected = copy.deepcopy(whole.model.state_dict())
    name = "epoch_2.pth" if by_epoch else "iter_8.pth"
    resumed, again = start(7, Path(whole.work_dir) / name)
    resumed.run([list(make_loader(4))], TRAIN)
    for key, value in expected.items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    masters = [runner.optimizer.param_groups[0]["params"] for runner in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*masters, strict=True))
    assert again.loss_scaler.state_dict() == hook.loss_scaler.state_dict()
    assert again.skipped_steps == hook.skipped_steps > 0


@pytest.mark.parametrize("fused", ["auto", False])
def test_averages_of_fp16_parameters_follow_the_masters(
    make_runner: MakeRunner, fused: bool | str
) -> None:
    runner, _ = make(make_runner, hook=Fp16OptimizerHook(fused=fused), max_iters=8)
    runner.register_hook(EMAHook(0.2, warm_up=1), 45)
    expected = Half().fc.weight.detach().double()
    seen: list[bool] = []

    def check(runner: Any) -> None:
        nonlocal expected
        model, master = runner.model, runner.optimizer.param_groups[0]["params"][0]
        expected = expected + min(0.2, (1 + runner.iter) / (1 + runner.iter)) * (master - expected)
        torch.testing.assert_close(model.ema_fc_weight.double(), expected, rtol=1e-6, atol=1e-6)
        raw, kept = model.fc.weight.detach().clone(), master.detach().clone()
        average = model.ema_fc_weight.clone()
        with runner.eval_weights():
            seen.append(torch.equal(model.fc.weight, average.half()))
        seen.append(torch.equal(model.fc.weight, raw) and torch.equal(master, kept))
        seen.append(torch.equal(model.ema_fc_weight, average))

    runner.register_hook(ClosureHook("after_train_iter", check))
    runner.run([list(make_loader(8))], TRAIN)
    assert seen == [True] * 24
    assert runner.model.ema_fc_weight.dtype == torch.float32


def test_masters_follow_weights_loaded_between_runs(make_runner: MakeRunner) -> None:
    runner, _ = make(make_runner, max_iters=2)
    runner.run([list(make_loader(2))], TRAIN)
    runner.model.load_state_dict(Half(5).state_dict())
    runner._max_iters = 3
    masters: list[Tensor] = []
    runner.register_hook(
        ClosureHook(
            "before_train_iter",
            lambda r: masters.append(r.optimizer.param_groups[0]["params"][0].detach().clone()),
        )
    )
    runner.run([list(make_loader(2))], TRAIN)
    assert torch.equal(masters[0], Half(5).fc.weight.float())


# The loss scale


def test_fp32_parameters_keep_to_their_optimizer_and_have_their_loss_scaled(
    make_runner: MakeRunner,
) -> None:
    losses: list[Tensor] = []

    class Mine(Fp16OptimizerHook):
        def loss_of(self, runner: Any) -> Tensor:
            loss = super().loss_of(runner)
            loss.register_hook(losses.append)
            return loss

    runner, _ = make(make_runner, model=TinyModel(), hook=Mine(loss_scale=1024.0), max_iters=4)
    before = runner.optimizer.param_groups[0]["params"][0]
    batches = list(make_loader(4))
    runner.run([batches], TRAIN)
    assert runner.optimizer.param_groups[0]["params"][0] is before is runner.model.fc.weight
    assert [float(each) for each in losses] == [1024.0] * 4
    plain = make_runner(IterBasedRunner, max_iters=4)
    plain.register_optimizer_hook({})
    plain.run([batches], TRAIN)
    torch.testing.assert_close(runner.model.fc.weight, plain.model.fc.weight)


def test_bf16_autocast_needs_no_scale_and_trains(make_runner: MakeRunner) -> None:
    def mse(outputs: Tensor, target: Tensor) -> Tensor:
        return (outputs - target).square().mean()

    step = TrainStep(TinyModel().fc, mse, autocast=torch.bfloat16)
    runner, hook = make(make_runner, model=step, max_iters=60)
    seen: list[float] = []
    note = ClosureHook("after_train_iter", lambda r: seen.append(float(r.outputs["loss"].detach())))
    runner.register_hook(note)
    runner.run([[(batch["x"], batch["y"]) for batch in make_loader(5)]], TRAIN)
    assert hook.loss_scaler is None
    assert sum(seen[-5:]) < 0.3 * sum(seen[:5])
    assert "loss_scale" not in runner.log_buffer.val_history


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_overflows_are_skipped_counted_and_told(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    fused: bool | str,
    half: bool,
    optimizer: type,
) -> None:
    # At the first step, twice in a row, and where the scale would grow.
    overflows = {0, 5, 6, 10}
    model = Half() if half else Half(dtype=torch.float32)
    model.factors = dict.fromkeys(overflows, math.inf)
    scale = {"init_scale": 256.0, "growth_interval": 4}
    hook = Fp16OptimizerHook(loss_scale=scale, fused=fused)
    runner, _ = make(make_runner, model=model, hook=hook, optimizer=optimizer, max_iters=16)
    weights: list[Tensor] = []
    note = ClosureHook("after_train_iter", lambda r: weights.append(r.model.fc.weight.clone()))
    runner.register_hook(note)
    start = model.fc.weight.detach().clone()
    batches = list(make_loader(16))
    runner.run([batches], TRAIN)
    stood = {i for i, after in enumerate(weights) if torch.equal(after, [start, *weights][i])}
    assert stood == overflows
    assert hook.skipped_steps == 4
    # 256, halved; after 1-4 grown; 5, 6 halved; 7-9 counted, 10 halved; after 11-14 grown
    scales = [128] * 4 + [256, 128, 64, 64, 64, 64, 32, 32, 32, 32, 64, 64]
    assert runner.log_buffer.val_history["loss_scale"] == scales
    messages = [r.getMessage() for r in caplog.records if "not finite" in r.getMessage()]
    assert [line.split(":")[0] for line in messages] == [
        f"iteration {i + 1}" for i in sorted(overflows)
    ]
    assert "the loss scale is now 32" in messages[-1]
    assert "(4 so far)" in messages[-1]


class Digits(nn.Module):
    """A small network in fp16, whose loss overflows at the given steps."""

    def __init__(self, dtype: torch.dtype, overflows: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).to(dtype)
        self.overflows = overflows
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.body(x.to(self.body[0].weight.dtype)).float()
        return outputs

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        loss = F.cross_entropy(self(data_batch[0]), data_batch[1])
        if self.steps in self.overflows:
            loss = loss * math.inf
        self.steps += 1
        return {"loss": loss, "num_samples": len(data_batch[1])}


def test_digits_in_fp16_with_overflows_are_learnt_as_well_as_in_fp32(
    make_runner: MakeRunner,
) -> None:
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    train = list(zip(images[:1440].split(48), labels[:1440].split(48), strict=True))
    overflows = (0, 31, 32, 73)
    accuracy = {}
    for dtype, steps in ((torch.float32, ()), (torch.float16, overflows)):
        model = Digits(dtype, steps)
        # Grows after 40 finite steps: where step 73 overflows.
        hook = Fp16OptimizerHook(loss_scale={"init_scale": 2.0**12, "growth_interval": 40})
        runner = make_runner(
            model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1, 0.9), max_epochs=8
        )
        runner.register_hook(hook, "ABOVE_NORMAL")
        runner.run([train], TRAIN)
        with torch.no_grad():
            hits = (model(images[1440:]).argmax(1) == labels[1440:]).float().mean()
        accuracy[dtype] = float(hits)
        assert hook.skipped_steps == len(steps)
    assert accuracy[torch.float32] > 0.9
    assert abs(accuracy[torch.float16] - accuracy[torch.float32]) <= 0.01


def test_accumulated_fp16_steps_have_one_scale_and_skip_whole_windows(
    make_runner: MakeRunner,
) -> None:
    model = Half()
    model.factors = {4: math.inf}
    hook = GradientCumulativeFp16OptimizerHook(
        3, loss_scale={"init_scale": 2.0**10}, grad_clip={"max_norm": 9.0}
    )
    runner, _ = make(make_runner, model=model, hook=hook, max_iters=8)
    batches = list(make_loader(8))
    runner.run([batches], TRAIN)
    assert hook.skipped_steps == 1
    expected = Half()
    masters = [p.detach().float().requires_grad_() for p in expected.parameters()]
    step = torch.optim.SGD(masters, lr=0.1, momentum=0.9)
    for window, scale in (([0, 1, 2], 2.0**10), ([6, 7], 2.0**9)):
        expected.zero_grad()
        for index in window:
            loss = expected.train_step(batches[index])["loss"] / len(window)
            (loss * scale).backward()
        for master, parameter in zip(masters, expected.parameters(), strict=True):
            master.grad = parameter.grad.float() / scale
        nn.utils.clip_grad_norm_(masters, 9.0)
        step.step()
        with torch.no_grad():
            for master, parameter in zip(masters, expected.parameters(), strict=True):
                parameter.copy_(master)
    ours = runner.optimizer.param_groups[0]["params"]
    for master, theirs in zip(ours, masters, strict=True):
        torch.testing.assert_close(master, theirs, rtol=2e-5, atol=2e-5)
    assert len(runner.log_buffer.val_history["loss_scale"]) == 3
