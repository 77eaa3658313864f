"""EMAHook's options, names in wrapped models, and averages that move in the optimizer's step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    ClosureHook,
    EMAHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    OptimizerHook,
    TrainStep,
)
from hookrun.checkpoint import read_checkpoint
from tests.support import TinyModel, make_loader

from .ema_support import (
    RUNNERS,
    TRAIN,
    MakeRunner,
    Watch,
    WatchEpochs,
    WatchSteps,
    same,
    train,
    weights_of,
    with_ema,
)


@pytest.mark.parametrize("interval", [1, 3])
def test_debiased_averages_leave_out_the_initial_parameters(
    make_runner: MakeRunner, interval: int
) -> None:
    runner, watch = make_runner(max_epochs=2), WatchSteps()
    with_ema(runner, momentum=0.05, interval=interval, debias=True)
    runner.register_hook(watch)
    runner.run([make_loader(10)], TRAIN)
    keep = (1 - 0.05) ** interval
    seen: list[Tensor] = []
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        if step % interval == 0:
            seen.append(raw["fc.weight"].double())
        weights = torch.tensor([keep**age for age in reversed(range(len(seen)))]).double()
        expected = (torch.cat(seen) * (weights / weights.sum())[:, None]).sum(0, keepdim=True)
        torch.testing.assert_close(ema["ema_fc_weight"].double(), expected, rtol=1e-5, atol=1e-5)


class Normed(TinyModel):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.norm = nn.BatchNorm1d(2)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return super().train_step({**data_batch, "x": self.norm(data_batch["x"])})


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_buffers_are_the_models_own_or_averaged(make_runner: MakeRunner, buffers: str) -> None:
    runner, steps, end = make_runner(model=Normed(), max_epochs=2), WatchSteps(), WatchEpochs()
    with_ema(runner, buffers=buffers, warm_up=1)
    runner.register_hook(steps)
    runner.register_hook(end)
    means: list[Tensor] = []
    at_end: list[Tensor] = []
    for event, kept in (("after_train_iter", means), ("after_train_epoch", at_end)):
        note = lambda r, kept=kept: kept.append(r.model.norm.running_mean.clone())  # noqa: E731
        runner.register_hook(ClosureHook(event, note))
    runner.run([make_loader()], TRAIN)
    names = {
        name for name, _ in runner.model.named_buffers() if name.startswith("ema_norm_running")
    }
    assert runner.model.norm.num_batches_tracked == 8
    if buffers == "copy":
        assert names == set()
        assert torch.equal(at_end[0], means[3])
        return
    assert names == {"ema_norm_running_mean", "ema_norm_running_var"}
    average = torch.zeros(2)
    for step, mean in enumerate(means[:4]):
        average = average + min(0.1, (1 + step) / (1 + step)) * (mean - average)
    torch.testing.assert_close(at_end[0], average)
    assert not torch.equal(at_end[0], means[3])


def test_averages_can_be_kept_on_a_device(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    hook = with_ema(runner, device="cpu")
    runner.run([make_loader()], TRAIN)
    assert hook.device == torch.device("cpu")
    assert runner.model.ema_fc_weight.device == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("runner_type", RUNNERS)
def test_averages_kept_on_the_cpu_are_those_kept_on_the_gpu(
    make_runner: MakeRunner, runner_type: type
) -> None:
    ends = []
    for device in (None, "cpu"):
        model = TinyModel().cuda()
        runner = make_runner(runner_type, model=model)
        with_ema(runner, device=device)
        batches = [{k: v.cuda() for k, v in batch.items()} for batch in make_loader()]
        runner.register_hook(EvalHook(make_loader(), interval=1, test_fn=lambda *_: []))
        runner.run([batches], TRAIN)
        assert model.ema_fc_weight.device.type == (device or "cuda")
        ends.append({n: v.cpu() for n, v in weights_of(model, "").items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value)


@pytest.mark.gpu
@pytest.mark.parametrize("hook", [EMAHook(), OptimizerHook()])
def test_a_model_moved_within_the_run_is_an_error(make_runner: MakeRunner, hook: Hook) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(hook)
    move = ClosureHook("after_train_iter", lambda runner: runner.model.cuda())
    runner.register_hook(move, priority="HIGH")
    with pytest.raises(ValueError, match="on cpu when the run began and is on cuda"):
        runner.run([make_loader()], TRAIN)


def test_averages_of_fp16_parameters_without_masters_lose_nothing(
    make_runner: MakeRunner,
) -> None:
    class HalfModel(TinyModel):
        def __init__(self, seed: int = 0) -> None:
            super().__init__(seed)
            self.half()

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            return super().train_step({name: value.half() for name, value in data_batch.items()})

    def start(seed: int) -> Any:
        runner = make_runner(model=HalfModel(seed), max_epochs=3)
        with_ema(runner)
        runner.register_checkpoint_hook({"interval": 1})
        return runner

    runner, steps, begins = start(0), WatchSteps(), Watch()
    runner.register_hook(steps)
    runner.register_hook(ClosureHook("before_train_epoch", begins.note))
    runner.run([make_loader()], TRAIN)
    assert steps.ema[0]["ema_fc_weight"].dtype == torch.float32
    for epoch in (1, 2):
        assert same(begins.raw[epoch], steps.raw[4 * epoch - 1])
        assert same(begins.ema[epoch], steps.ema[4 * epoch - 1])
    resumed = start(7)
    resumed.resume(Path(runner.work_dir) / "epoch_2.pth")
    resumed.run([make_loader()], TRAIN)
    assert same(weights_of(resumed.model, ""), weights_of(runner.model, ""))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_names_are_without_those_of_wrappers(make_runner: MakeRunner, wrap: Any) -> None:
    wrapped = wrap(nn.Linear(2, 1), **({"backend": "eager"} if wrap is torch.compile else {}))
    inner = TrainStep(wrapped, lambda out, target: (out - target).square().mean())
    runner = make_runner(model=inner, max_epochs=1)
    hook = with_ema(runner)
    start = {n: p.detach().clone() for n, p in inner.named_parameters()}
    batches = [(batch["x"], batch["y"]) for batch in make_loader()]
    runner.run([batches], TRAIN)
    assert hook.param_ema_buffer == {"weight": "ema_weight", "bias": "ema_bias"}
    assert not any(torch.equal(p, start[n]) for n, p in inner.named_parameters())


def test_the_averages_of_a_compiled_model_are_its_own_buffers(make_runner: MakeRunner) -> None:
    model = TinyModel()
    runner = make_runner(model=torch.compile(model, backend="eager"), max_epochs=2)
    with_ema(runner)
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader()], TRAIN)
    names = {"fc.weight", "fc.bias", "ema_fc_weight", "ema_fc_bias"}
    assert model.state_dict().keys() == names
    saved = read_checkpoint(Path(runner.work_dir) / "epoch_2.pth")
    assert saved["state_dict"].keys() == names
    plain = train(make_runner, EpochBasedRunner, 2)
    assert same(weights_of(plain.model, ""), weights_of(model, ""))
