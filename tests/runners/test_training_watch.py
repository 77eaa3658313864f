"""A run that cannot train, or trains nothing, says so; one that trains in its own way does not."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import (
    CheckpointHook,
    EMAHook,
    EpochBasedRunner,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    IterBasedRunner,
    OptimizerHook,
    TrainStep,
)
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
KINDS = pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def run(make_runner: MakeRunner, kind: type, *hooks: Any, iters: int = 4, **arguments: Any) -> Any:
    limit = {"max_epochs": 1} if issubclass(kind, EpochBasedRunner) else {"max_iters": iters}
    runner = make_runner(kind, **limit, **arguments)
    for hook in hooks:
        runner.register_hook(hook)
    runner.run([make_loader(iters)], [("train", 1)])
    for optimizer in [runner.optimizer] if not isinstance(runner.optimizer, dict) else []:
        assert optimizer is None or not optimizer._optimizer_step_post_hooks
    return runner


class Schedules(Hook):
    """A hook that has nothing to do with training."""

    def after_train_iter(self, runner: Any) -> None: ...


@KINDS
@pytest.mark.parametrize("iters", [1, 3, 10, 25])
@pytest.mark.parametrize("handle_signals", [True, False])
def test_a_run_in_which_nothing_trains_is_told_once(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    iters: int,
    handle_signals: bool,
) -> None:
    run(make_runner, kind, Schedules(), iters=iters, handle_signals=handle_signals)
    (text,) = warnings_of(caplog)
    assert f"nothing has been trained in {min(iters, 10)} iterations" in text
    assert "optimizer_config=dict()" in text


@KINDS
def test_it_is_told_in_the_python_loop_too(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    class Own(kind):  # type: ignore[misc, valid-type]
        def train(self, *args: Any, **kwargs: Any) -> None:
            super().train(*args, **kwargs)

    run(make_runner, Own, iters=12)
    assert "nothing has been trained in 1" in warnings_of(caplog)[0]


class Steps(TinyModel):
    """Trains in train_step, once every so many iterations."""

    def __init__(self, every: int = 1, keep_gradients: bool = False) -> None:
        super().__init__()
        self.every, self.keep_gradients, self.count = every, keep_gradients, 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs = super().train_step(data_batch)
        outputs["loss"].backward()
        self.count += 1
        if self.count % self.every == 0:
            optimizer.step()
            if not self.keep_gradients:
                optimizer.zero_grad()
        return {"loss": outputs["loss"].detach()}


class WritesByItself(TinyModel):
    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        with torch.no_grad():
            self.fc.weight -= 0.01
        return super().train_step(data_batch)


class StepsInAHook(Hook):
    def after_train_iter(self, runner: Any) -> None:
        runner.optimizer.zero_grad()
        runner.outputs["loss"].backward()
        runner.optimizer.step()


class Late(Hook):
    """Steps at the end of the epoch only."""

    def after_train_iter(self, runner: Any) -> None:
        runner.outputs["loss"].backward()


@KINDS
@pytest.mark.parametrize(
    ("make_model", "make_hook"),
    [
        (TinyModel, OptimizerHook),
        (Steps, None),
        (lambda: Steps(every=5), None),
        (lambda: Steps(every=50), None),
        (lambda: Steps(keep_gradients=True), None),
        (WritesByItself, None),
        (TinyModel, StepsInAHook),
        (TinyModel, Late),
        (TinyModel, lambda: Schedules()),
    ],
)
def test_what_trains_in_its_own_way_is_not_told(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    make_model: Callable[[], Any],
    make_hook: Callable[[], Hook] | None,
) -> None:
    hooks = [] if make_hook is None else [make_hook()]
    if isinstance(hooks[0] if hooks else None, Schedules):
        hooks.append(OptimizerHook())
    run(make_runner, kind, *hooks, iters=15, model=make_model())
    assert warnings_of(caplog) == []


@KINDS
def test_a_run_without_an_optimizer_or_without_iterations_is_not_told(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, kind: type
) -> None:
    run(make_runner, kind, optimizer=None)
    model = TinyModel()
    done = make_runner(
        kind, model=model, **{"max_epochs" if kind is EpochBasedRunner else "max_iters": 0}
    )
    done.run([make_loader(2)], [("train", 1)])
    assert warnings_of(caplog) == []


def of_a_copy(model: Any) -> Any:
    return copy.deepcopy(model).parameters()


def rebuilt(model: Any) -> Any:
    parameters = list(model.parameters())
    model.fc = torch.nn.Linear(2, 1)
    return parameters


@pytest.mark.sampled(2)
@KINDS
@pytest.mark.parametrize("parameters_of", [of_a_copy, rebuilt])
@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["bare", "compiled"])
def test_an_optimizer_of_other_parameters_is_told(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    parameters_of: Callable[[Any], Any],
    wrap: Callable[[Any], Any],
) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(parameters_of(model), lr=0.1)
    run(make_runner, kind, OptimizerHook(), model=wrap(model), optimizer=optimizer)
    messages = [text for text in warnings_of(caplog) if "none of the model's parameters" in text]
    assert len(messages) == 1


def test_of_several_optimizers_the_one_is_named(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyModel()
    optimizers = {
        "good": torch.optim.SGD(model.parameters(), lr=0.1),
        "other": torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1),
    }
    run(make_runner, EpochBasedRunner, OptimizerHook(), model=model, optimizer=optimizers)
    assert any("the optimizer 'other' has none" in text for text in warnings_of(caplog))
    assert not any("'good'" in text for text in warnings_of(caplog))


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("hook", [OptimizerHook, "Fp16OptimizerHook"])
def test_the_models_own_parameters_and_masters_of_them_are_not_told(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, hook: Any, runs: int
) -> None:
    inner = torch.nn.Linear(2, 1)
    model = TrainStep(inner, torch.nn.functional.mse_loss)
    runner = make_runner(
        model=model, optimizer=torch.optim.SGD(inner.parameters(), lr=0.1), max_epochs=runs
    )
    runner.register_hook(hook() if callable(hook) else {"type": hook, "loss_scale": 1.0})
    runner.register_hook(EMAHook(), priority=49)
    batches = [(torch.ones(2, 2), torch.ones(2, 1)) for _ in range(3)]
    for epochs in range(1, runs + 1):
        runner._max_epochs = epochs
        runner.run([batches], [("train", 1)])
    assert not any("none of the model" in text for text in warnings_of(caplog))


class Lends(Hook):
    """Lends other weights of its own, which here are the same."""

    @contextlib.contextmanager
    def applied(self) -> Any:
        yield


@KINDS
@pytest.mark.parametrize("by", ["epoch", "iteration"])
@pytest.mark.parametrize("hook", [EMAHook, Lends, lambda: EMAHook(interval=3, debias=True)])
def test_averages_of_what_is_not_trained_are_no_training(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    by: str,
    hook: Callable[[], Hook],
) -> None:
    saving = CheckpointHook(interval=1, by_epoch=by == "epoch")
    run(make_runner, kind, hook(), saving, iters=12)
    messages = [text for text in warnings_of(caplog) if "nothing has been trained in 1" in text]
    assert len(messages) == 1


@KINDS
@pytest.mark.parametrize("make_model", [Steps, lambda: Steps(every=50), WritesByItself])
def test_averages_of_what_is_trained_by_itself_are_not_told(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    make_model: Callable[[], Any],
) -> None:
    run(make_runner, kind, EMAHook(), iters=12, model=make_model())
    assert warnings_of(caplog) == []


def frozen(model: Any) -> Any:
    model.other = torch.nn.Linear(2, 1).requires_grad_(False)
    return model.other.parameters()


def unused(model: Any) -> Any:
    model.other = torch.nn.Linear(2, 1)
    return model.other.parameters()


HOOKS = {
    "plain": OptimizerHook,
    "torch's calls": lambda: OptimizerHook(fused=False, grad_clip={"max_norm": 1.0}),
    "windows": lambda: GradientCumulativeOptimizerHook(2),
    "fp16": lambda: Fp16OptimizerHook(loss_scale=8.0),
    "fp16 windows": lambda: GradientCumulativeFp16OptimizerHook(2, loss_scale=8.0),
}


@KINDS
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("parameters_of", [frozen, unused])
def test_an_optimizer_of_what_has_no_gradient_is_told_once(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    hook: str,
    parameters_of: Callable[[Any], Any],
) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(parameters_of(model), lr=0.1)
    run(make_runner, kind, HOOKS[hook](), model=model, optimizer=optimizer)
    (text,) = warnings_of(caplog)
    assert "no parameter of the optimizer has a gradient at the first step" in text


@KINDS
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("parameters_of", [frozen, unused])
def test_one_that_has_some_gradients_is_not_told(
    make_runner: MakeRunner,
    caplog: pytest.LogCaptureFixture,
    kind: type,
    hook: str,
    parameters_of: Callable[[Any], Any],
) -> None:
    model = TinyModel()
    others = list(parameters_of(model))
    sgd = torch.optim.SGD([*others, *model.fc.parameters()], lr=0.1)
    run(make_runner, kind, HOOKS[hook](), model=model, optimizer=sgd)
    sgds = {
        "one": torch.optim.SGD(others, lr=0.1),
        "other": torch.optim.SGD(model.fc.parameters(), lr=0.1),
    }
    run(make_runner, kind, HOOKS[hook](), model=model, optimizer=sgds)
    assert warnings_of(caplog) == []
