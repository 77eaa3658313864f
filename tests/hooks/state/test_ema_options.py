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
    EmptyCacheHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
    IterTimerHook,
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
    assert hook.param_ema_buffer == {
        "model.weight": "ema_model_weight",
        "model.bias": "ema_model_bias",
    }
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


# In the optimizer's pass


class Declared(Hook):
    """Says that it writes only the log."""

    writes = frozenset({"log"})

    def after_train_iter(self, runner: Any) -> None: ...


class Undeclared(Hook):
    def after_train_iter(self, runner: Any) -> None: ...


class Writer(Hook):
    """Scales the parameters after each step."""

    writes = frozenset({"parameters"})

    def after_train_iter(self, runner: Any) -> None:
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(0.9)


class WritingTimer(IterTimerHook):
    """What IterTimerHook declares does not hold for a method of another class."""

    def after_train_iter(self, runner: Any) -> None:
        Writer().after_train_iter(runner)


class WritingByIter(EmptyCacheHook):
    def after_iter(self, runner: Any) -> None:
        Writer().after_train_iter(runner)


class DeclaredTimer(WritingTimer):
    """Declared anew."""

    writes = frozenset({"log"})

    def after_train_iter(self, runner: Any) -> None: ...


class Afterwards(OptimizerHook):
    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)
        Writer().after_train_iter(runner)


class Elsewhere(EMAHook):
    def after_train_iter(self, runner: Any) -> None:
        super().after_train_iter(runner)


def no_clamp(optimizer: Any, *arguments: Any) -> None:
    with torch.no_grad():
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.mul_(0.9)


@pytest.mark.parametrize(
    ("between", "optimizer_hook", "ema", "priority", "post", "in_step"),
    [
        (None, OptimizerHook, EMAHook, 45, None, True),
        (Declared, OptimizerHook, EMAHook, 45, None, True),
        (ClosureHook("after_val_iter", print), OptimizerHook, EMAHook, 45, None, True),
        (Undeclared, OptimizerHook, EMAHook, 45, None, False),
        (Writer, OptimizerHook, EMAHook, 45, None, False),
        (IterTimerHook, OptimizerHook, EMAHook, 45, None, True),
        (WritingTimer, OptimizerHook, EMAHook, 45, None, False),
        (WritingByIter, OptimizerHook, EMAHook, 45, None, False),
        (DeclaredTimer, OptimizerHook, EMAHook, 45, None, True),
        (None, Afterwards, EMAHook, 45, None, False),
        (None, OptimizerHook, Elsewhere, 45, None, False),
        (None, OptimizerHook, EMAHook, 30, None, False),
        (None, OptimizerHook, EMAHook, 45, no_clamp, False),
    ],
)
def test_averages_move_in_the_step_unless_someone_may_write_parameters_in_between(
    make_runner: MakeRunner,
    between: Any,
    optimizer_hook: type,
    ema: type,
    priority: int,
    post: Any,
    in_step: bool,
) -> None:
    runner, watch = make_runner(max_epochs=2), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    stepper = optimizer_hook({"max_norm": 1.0})
    runner.register_hook(stepper, "ABOVE_NORMAL")
    if between is not None:
        runner.register_hook(between() if isinstance(between, type) else between, 42)
    runner.register_hook(ema(momentum=0.1, warm_up=5), priority)
    if post is not None:
        runner.optimizer.register_step_post_hook(post)
    runner.register_hook(watch)
    moved: list[bool] = []
    note = ClosureHook("after_train_iter", lambda r: moved.append(stepper.averaged_at(r.iter)))
    runner.register_hook(note)
    runner.run([make_loader()], TRAIN)
    assert moved == [False] + [in_step] * 7  # decided after the first
    before = [start, *[raw["fc.weight"] for raw in watch.raw]]
    average = start.double()
    for step, kept in enumerate(watch.ema):
        seen = before[step + (priority > 40)].double()
        average = average + min(0.1, (1 + step) / (5 + step)) * (seen - average)
        torch.testing.assert_close(kept["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


def test_a_hook_that_comes_in_between_later_is_respected(make_runner: MakeRunner) -> None:
    runner, watch = make_runner(IterBasedRunner, max_iters=9), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    with_ema(runner)
    runner.register_hook(watch)
    writer = Writer()

    def come_and_go(runner: Any) -> None:
        if runner.iter == 3:
            runner.register_hook(writer, 42)
        if runner.iter == 6:
            runner._hooks.remove(writer)

    runner.register_hook(ClosureHook("before_train_iter", come_and_go))
    runner.run([make_loader(9)], TRAIN)
    average = start.double()
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        average = average + min(0.1, (1 + step) / (5 + step)) * (raw["fc.weight"] - average)
        torch.testing.assert_close(ema["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("between", [None, Undeclared])  # in the optimizer's pass, and not
def test_skipped_steps_leave_the_averages_alone(make_runner: MakeRunner, between: Any) -> None:
    runner, watch = make_runner(max_epochs=1), WatchSteps()
    start = weights_of(runner.model)["fc.weight"]
    runner.register_hook(OptimizerHook(skip_nonfinite=True), "ABOVE_NORMAL")
    if between is not None:
        runner.register_hook(between(), 42)
    runner.register_hook(EMAHook(momentum=0.1, warm_up=5), 45)
    runner.register_hook(watch)
    batches = list(make_loader(6))
    for step in (0, 3):
        batches[step]["y"] = batches[step]["y"] * float("nan")
    runner.run([batches], TRAIN)
    average = start.double()
    for step, (raw, ema) in enumerate(zip(watch.raw, watch.ema, strict=True)):
        if step not in (0, 3):
            momentum = min(0.1, (1 + step) / (5 + step))
            average = average + momentum * (raw["fc.weight"] - average)
        torch.testing.assert_close(ema["ema_fc_weight"].double(), average, rtol=2e-6, atol=1e-6)


def test_an_average_that_was_replaced_is_an_error(make_runner: MakeRunner) -> None:
    def replace(runner: Any) -> None:
        runner.model.ema_fc_weight = runner.model.ema_fc_weight.clone()

    runner = make_runner(max_epochs=1)
    with_ema(runner)
    runner.register_hook(ClosureHook("before_train_iter", replace))
    with pytest.raises(ValueError, match=r"the model's average of 'fc\.weight' is another tensor"):
        runner.run([make_loader()], TRAIN)


def test_a_parameter_that_was_replaced_is_an_error(make_runner: MakeRunner) -> None:
    def replace(runner: Any) -> None:
        if runner.iter == 2:
            runner.model.fc.bias = nn.Parameter(torch.zeros(1))

    runner = make_runner(max_epochs=2)  # the optimizer hook would look at the very end
    with_ema(runner)
    runner.register_hook(ClosureHook("before_train_iter", replace))
    with pytest.raises(ValueError, match=r"EMAHook: the parameter 'fc\.bias' is another tensor"):
        runner.run([make_loader()], TRAIN)


def test_averages_of_another_shape_are_refused_instead_of_spread(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    saved = make_runner(max_epochs=1)
    with_ema(saved)
    saved.run([make_loader()], TRAIN)
    saved.save_checkpoint(str(tmp_path), "a.pth", create_symlink=False)
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    checkpoint["state_dict"]["ema_fc_weight"] = torch.ones(1)
    torch.save(checkpoint, tmp_path / "a.pth")
    runner = make_runner(max_epochs=2)
    with_ema(runner, resume_from=str(tmp_path / "a.pth"))
    with pytest.raises(
        ValueError, match=r"ema_fc_weight is a tensor of shape \(1,\).*average of shape \(1, 2\)"
    ):
        runner.run([make_loader()], TRAIN)


def test_parameters_that_change_places_in_their_group_keep_their_averages(
    make_runner: MakeRunner,
) -> None:
    def trained(reorder_at: int) -> dict[str, Tensor]:
        runner = make_runner(IterBasedRunner, max_iters=9)
        model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.fill_(float(number))
        runner.model = TrainStep(model, lambda out, batch: out)
        runner.model.train_step = lambda batch, optimizer=None, **kwargs: {
            "loss": sum((p * (i + 1)).sum() for i, p in enumerate(model.parameters()))
        }
        runner.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def reorder(runner: Any) -> None:
            if runner.iter == reorder_at:
                runner.optimizer.param_groups[0]["params"].reverse()

        with_ema(runner)
        runner.register_hook(ClosureHook("before_train_iter", reorder))
        runner.run([make_loader(9)], TRAIN)
        return {name: value.clone() for name, value in runner.model.state_dict().items()}

    assert same(trained(4), trained(100))
