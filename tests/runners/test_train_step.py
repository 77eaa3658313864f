"""TrainStep, batch_processor, wrapped models and several optimizers: what takes a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hookrun import EpochBasedRunner, EvalHook, IterBasedRunner, OptimizerHook, TrainStep
from tests.support import TinyModel, make_loader

from .variants import limits

X = torch.arange(12.0).reshape(6, 2) / 12
Y = X.sum(1, keepdim=True)
KINDS = [EpochBasedRunner, IterBasedRunner]


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(2, 1)


def test_a_step_gives_the_loss_metrics_and_the_size_of_the_batch() -> None:
    module = linear()
    step = TrainStep(module, F.mse_loss, metrics={"mae": F.l1_loss})
    outputs = step.train_step((X, Y))
    torch.testing.assert_close(outputs["loss"], F.mse_loss(module(X), Y))
    assert outputs["loss"].requires_grad
    assert outputs["num_samples"] == 6
    assert outputs["log_vars"].keys() == {"loss", "mae"}
    torch.testing.assert_close(outputs["log_vars"]["mae"], F.l1_loss(module(X), Y))
    assert not outputs["log_vars"]["loss"].requires_grad


def test_autocast_computes_in_bf16_and_predicts_in_fp32() -> None:
    module, seen = linear(), []
    module.register_forward_hook(lambda _, args, output: seen.append(output.dtype))
    step = TrainStep(module, F.mse_loss, {"mae": F.l1_loss}, autocast=torch.bfloat16)
    outputs = step.train_step((X, Y))
    outputs["loss"].backward()
    assert module.weight.dtype == module.weight.grad.dtype == torch.float32
    predictions = step.predict_step((X, Y))
    assert seen == [torch.bfloat16] * 2
    assert predictions.dtype == torch.float32
    torch.testing.assert_close(predictions, module(X), atol=0.02, rtol=0.02)
    assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(ValueError, match=r"autocast must be torch\.bfloat16.* not torch\.float64"):
        TrainStep(module, F.mse_loss, autocast=torch.float64)


def test_the_usual_recipe(make_runner: Any) -> None:
    """fp32 parameters, bf16 autocast, AdamW, clipping, EMA; no scaler, no host sync."""
    model = TrainStep(linear(), F.mse_loss, autocast=torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    runner = make_runner(IterBasedRunner, model=model, optimizer=optimizer, max_iters=200)
    runner.register_training_hooks(
        {"policy": "CosineAnnealing", "min_lr": 0.0},
        {"grad_clip": {"max_norm": 1.0}},
        log_config={"interval": 50, "hooks": [{"type": "TextLoggerHook"}]},
        custom_hooks_config=[{"type": "EMAHook", "momentum": 0.05}],
    )
    batches = [(X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)]
    runner.run([batches], [("train", 1)], prefetch=True, sync_guard=True)
    assert not runner.sync_guard.report, str(runner.sync_guard.report)
    assert model.model.weight.dtype == torch.float32
    assert F.mse_loss(model.model(X), Y) < 1e-3
    with runner.eval_weights():
        assert F.mse_loss(model.model(X), Y) < 1e-3


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = linear()

    def forward(self, x: Any, scale: Any = 1.0, shift: float = 0.0) -> Any:
        return self.fc(x) * scale + shift


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], {"x": X, "target": Y}])
def test_pairs_and_dicts_give_the_same(batch: Any) -> None:
    step = TrainStep(TwoInputs(), F.mse_loss)
    expected = F.mse_loss(step.model(X), Y)
    torch.testing.assert_close(step.train_step(batch)["loss"], expected)
    torch.testing.assert_close(step.predict_step(batch), step.model(X))


def test_a_dicts_entries_and_keyword_arguments_go_to_the_module() -> None:
    step, batch = TrainStep(TwoInputs(), F.mse_loss), {"x": X, "scale": 2.0, "target": Y}
    outputs = step.train_step(batch, None, shift=1.0)
    torch.testing.assert_close(outputs["loss"], F.mse_loss(step.model(X) * 2 + 1, Y))
    assert batch.keys() == {"x", "scale", "target"}


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (X, TypeError, "not Tensor"),
        ((X, Y, Y), TypeError, "not a tuple of 3"),
        ([X], TypeError, "not a list of 1"),
        ("text", TypeError, "not str"),
        ({"x": X}, KeyError, r"needs 'target'; it has \['x'\]"),
    ],
)
def test_a_batch_of_another_form_is_described(batch: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        TrainStep(TwoInputs(), F.mse_loss).train_step(batch)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"wraps a torch.nn.Module, not str"):
        TrainStep("model", F.mse_loss)
    with pytest.raises(TypeError, match="loss_fn must be callable, not None"):
        TrainStep(linear(), None)
    with pytest.raises(TypeError, match="accuracy must be callable, not 3"):
        TrainStep(linear(), F.mse_loss, {"accuracy": 3})
    for metrics in (F.l1_loss, [F.l1_loss], "mae"):
        with pytest.raises(TypeError, match=r"metrics is a dict .*, not"):
            TrainStep(linear(), F.mse_loss, metrics)
    with pytest.raises(ValueError, match="a metric named 'loss' would be logged in place of"):
        TrainStep(linear(), F.mse_loss, {"loss": F.l1_loss})


@pytest.mark.parametrize("target", [{"a": Y, "b": Y}, [1] * 6, (Y,) * 6])
def test_the_size_of_a_batch_follows_from_any_target(target: Any) -> None:
    step = TrainStep(linear(), lambda outputs, target: outputs.sum())
    assert step.train_step((X, target))["num_samples"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_trains_validates_and_is_evaluated(make_runner: Any, kind: type) -> None:
    module = linear()
    before = F.mse_loss(module(X), Y).item()
    step = TrainStep(module, F.mse_loss)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.5)
    runner = make_runner(kind, model=step, optimizer=optimizer, **limits(kind, epochs=20))
    runner.register_hook(OptimizerHook())
    loader = DataLoader(TensorDataset(X, Y), batch_size=2)
    scores: list[float] = []

    def metrics(outputs: Any, targets: Any) -> dict[str, float]:
        scores.append(F.mse_loss(outputs, targets).item())
        return {"mse": scores[-1]}

    by_epoch = kind is EpochBasedRunner
    hook = EvalHook(loader, interval=20 if by_epoch else 60, by_epoch=by_epoch, metrics=metrics)
    runner.register_hook(hook)
    counts = (1, 1) if by_epoch else (3, 3)
    runner.run([loader, loader], list(zip(("train", "val"), counts, strict=True)))
    after = F.mse_loss(module(X), Y).item()
    assert after < before / 10
    assert scores == pytest.approx([after])


class StepsItself(nn.Module):
    """Two parts with an optimizer each, as a GAN has them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(1), linear(2)

    def train_step(self, data_batch: Any, optimizer: Any) -> dict[str, Any]:
        losses = {}
        for name, part in (("a", self.a), ("b", self.b)):
            optimizer[name].zero_grad()
            loss = F.mse_loss(part(data_batch["x"]), data_batch["y"])
            loss.backward()
            optimizer[name].step()
            losses[name] = loss.detach()
        return {"loss": losses["a"] + losses["b"], "log_vars": losses, "num_samples": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_dict_of_optimizers_goes_to_the_step(make_runner: Any, kind: type) -> None:
    model = StepsItself()
    optimizers = {
        "a": torch.optim.SGD(model.a.parameters(), lr=0.1),
        "b": torch.optim.SGD(model.b.parameters(), lr=0.0),
    }
    before = [model.a.weight.tolist(), model.b.weight.tolist()]
    runner = make_runner(kind, model=model, optimizer=optimizers, **limits(kind))
    runner.register_lr_hook({"policy": "fixed", "by_epoch": kind is EpochBasedRunner})
    runner.register_logger_hooks({"interval": 1, "hooks": [{"type": "TextLoggerHook"}]})
    runner.run([make_loader(3)], [("train", 1)])
    assert runner.current_lr() == {"a": [0.1], "b": [0.0]}
    assert runner.current_momentum() == {"a": [0], "b": [0]}
    assert model.a.weight.tolist() != before[0]
    assert model.b.weight.tolist() == before[1]


def test_an_optimizer_hook_refuses_a_model_that_steps_itself(make_runner: Any) -> None:
    model = StepsItself()
    parts = {"a": model.a, "b": model.b}
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in parts.items()}
    runner = make_runner(model=model, optimizer=optimizers)
    runner.register_hook(OptimizerHook())
    with pytest.raises(ValueError, match=r"stepped the optimizer.*\(optimizer_config=None\)"):
        runner.run([make_loader(1)], [("train", 1)])


def test_without_an_optimizer_there_is_no_rate(make_runner: Any) -> None:
    runner = make_runner(optimizer=None)
    for read in (runner.current_lr, runner.current_momentum):
        with pytest.raises(RuntimeError, match="the runner has no optimizer"):
            read()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_processor_takes_the_steps(make_runner: Any, kind: type) -> None:
    calls = []

    def process(model: Any, data_batch: Any, train_mode: bool, **kwargs: Any) -> dict[str, Any]:
        calls.append((train_mode, kwargs))
        return {"loss": model(data_batch["x"]).sum(), "log_vars": {"a": 1.0}, "num_samples": 2}

    with pytest.warns(DeprecationWarning, match="batch_processor is deprecated"):
        runner = make_runner(
            kind, model=linear(), batch_processor=process, **limits(kind, epochs=1)
        )
    runner.register_hook(OptimizerHook())
    counts = (1, 1) if kind is EpochBasedRunner else (3, 1)
    workflow = list(zip(("train", "val"), counts, strict=True))
    runner.run([make_loader(3), make_loader(1)], workflow, scale=2)
    validation = {} if kind is EpochBasedRunner else {"scale": 2}
    assert calls == [(True, {"scale": 2})] * 3 + [(False, validation)]


@pytest.mark.filterwarnings("ignore:batch_processor is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_processor_beside_a_step_or_with_wrong_outputs_is_refused(
    make_runner: Any, kind: type
) -> None:
    with pytest.raises(RuntimeError, match="exclude each other"):
        make_runner(kind, batch_processor=print)
    runner = make_runner(kind, model=linear(), batch_processor=lambda *a, **k: 3)
    with pytest.raises(TypeError, match=r"batch_processor\(\) must return a dict.*returned int"):
        runner.run([make_loader(1)], [("train", 1)])


class Wrapper(nn.DataParallel):
    """As MMCV's MMDataParallel: passes the steps on."""

    def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module.train_step(*inputs, **kwargs)

    val_step = train_step


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrapped_model_trains_and_is_named_by_what_it_wraps(make_runner: Any, kind: type) -> None:
    runner = make_runner(kind, model=Wrapper(TinyModel()), **limits(kind))
    runner.register_training_hooks(None, {}, {"interval": 1})
    runner.run([make_loader(3)], [("train", 1)])
    assert runner.model_name == "TinyModel"


def test_a_wrapper_without_train_step_is_told_so() -> None:
    with pytest.raises(
        TypeError, match="DataParallel does not pass on the train_step of the TinyModel in it"
    ):
        EpochBasedRunner(nn.DataParallel(TinyModel()), max_epochs=1)


@pytest.mark.parametrize(
    ("loss_fn", "error", "message"),
    [
        (lambda outputs, target: None, TypeError, "loss_fn must return a tensor, not None"),
        (lambda outputs, target: 1.5, TypeError, r"loss_fn must return a tensor, not 1\.5"),
        (
            lambda outputs, target: outputs,
            ValueError,
            r"one number, not a tensor of shape \(8, 2\)",
        ),
    ],
)
def test_a_loss_that_is_no_scalar_is_refused_by_name(
    loss_fn: Any, error: type[Exception], message: str
) -> None:
    step = TrainStep(nn.Linear(4, 2), loss_fn)
    with pytest.raises(error, match=message):
        step.train_step((torch.rand(8, 4), torch.zeros(8, dtype=torch.long)))


def test_a_batch_goes_to_the_device_of_the_first_parameter_that_there_is_now() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Identity(), nn.Linear(2, 2)), nn.Linear(2, 2))
    step = TrainStep(model, F.mse_loss)
    batch = (torch.ones(1, 2), torch.ones(1, 2))
    assert step.split_batch(batch)[0].device.type == "cpu"
    model[1][0] = nn.Linear(2, 2, device="meta")
    assert step.split_batch(batch)[0].device.type == "meta"
    model[1][0].weight = None
    model[1][0].bias = None
    assert step.split_batch(batch)[0].device.type == "cpu"
    assert TrainStep(nn.ReLU(), F.mse_loss).split_batch(batch)[0].device.type == "cpu"
