"""OptimizerHook: torch's own step, clipping and norm, without making the host wait."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from hookrun import HOOKS, ClosureHook, IterBasedRunner, OptimizerHook, TextLoggerHook
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


def by_hand(batches: int, clip: dict[str, Any] | None) -> tuple[nn.Module, list[float]]:
    """The same training in plain torch; gives the model and the norms before clipping."""
    model, norms = TinyModel(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in make_loader(batches):
        optimizer.zero_grad()
        model.train_step(batch)["loss"].backward()
        if clip is not None:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), **clip)))
        optimizer.step()
    return model, norms


@pytest.mark.parametrize("fused", ["auto", True, False])
@pytest.mark.parametrize(
    "clip",
    [None, {"max_norm": 0.1}, {"max_norm": 0.5, "norm_type": 1}, {"max_norm": 1e9}],
)
def test_steps_and_norms_are_those_of_torch(
    make_runner: MakeRunner, clip: dict[str, Any] | None, fused: bool | str
) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_optimizer_hook({"grad_clip": clip, "fused": fused})
    runner.run([make_loader(5)], TRAIN)
    model, norms = by_hand(5, clip)
    close = {"rtol": 0, "atol": 0} if fused is False else {"rtol": 2e-6, "atol": 1e-6}
    for ours, theirs in zip(runner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **close)
    logged = runner.log_buffer.val_history.get("grad_norm", [])
    torch.testing.assert_close(torch.tensor(logged), torch.tensor(norms), **close)
    assert set(runner.log_buffer.n_history.get("grad_norm", [2.0])) == {2.0}  # samples


def test_the_host_reads_nothing_between_logs(
    make_runner: MakeRunner, host_reads: list[str]
) -> None:
    runner = make_runner(IterBasedRunner, max_iters=20)
    runner.register_training_hooks(
        {"policy": "fixed"},
        optimizer_config={"grad_clip": {"max_norm": 1.0}},
        checkpoint_config={"interval": 100, "save_last": False},
        log_config={"interval": 10, "hooks": [{"type": "TextLoggerHook"}]},
        custom_hooks_config=[{"type": "EMAHook", "priority": 45}],
    )
    reads_before: list[int] = []
    count = ClosureHook("before_train_iter", lambda _: reads_before.append(len(host_reads)))
    runner.register_hook(count)
    batches = list(make_loader(20))
    host_reads.clear()
    runner.run([batches], TRAIN)
    assert reads_before == [0] * 10 + [1] * 10
    assert host_reads == ["tolist", "tolist"]


def test_parameters_out_of_the_graph_are_named(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Idle(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.zeros(2, 3))
            self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)

    runner = make_runner(model=Idle(), max_epochs=1)
    runner.register_optimizer_hook({"detect_anomalous_params": True})
    runner.run([make_loader(1)], TRAIN)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["parameter idle of shape (2, 3) takes no part in the loss"]


def test_each_set_of_parameters_out_of_the_graph_is_told_once_in_a_run(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Branches(TinyModel):
        """Which uses the branches of the given names, step by step."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
            self.used = ["", "", "ab", "a", "", "a", "ab"]
            self.calls = 0

        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            loss = super().train_step(data_batch)["loss"]
            for name in self.used[self.calls % len(self.used)]:
                loss = loss * getattr(self, name)
            self.calls += 1
            return {"loss": loss}

    def called() -> list[str]:
        lines = [r.getMessage().split()[1] for r in caplog.records if r.levelname == "WARNING"]
        caplog.clear()
        return lines

    runner = make_runner(IterBasedRunner, model=Branches(), max_iters=7)
    runner.register_optimizer_hook({"detect_anomalous_params": True})
    runner.run([make_loader(7)], TRAIN)
    assert called() == ["a", "b", "b"]
    runner._max_iters = 8
    runner.run([make_loader(7)], TRAIN)
    assert called() == ["a", "b"]


def test_a_shared_or_looping_graph_is_walked_once(make_runner: MakeRunner) -> None:
    class Deep(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            value = self.fc(data_batch["x"])
            for _ in range(60):  # 2**60 paths
                value = (value + value) / 2
            return {"loss": value.mean()}

    runner = make_runner(model=Deep(), max_epochs=1)
    runner.register_optimizer_hook({"detect_anomalous_params": True})
    runner.run([make_loader(1)], TRAIN)


def test_a_missing_loss_is_an_error_that_lists_what_there_is(make_runner: MakeRunner) -> None:
    class NoLoss(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            return {"los": 1.0, "num_samples": 2}

    runner = make_runner(model=NoLoss())
    runner.register_hook(OptimizerHook())
    with pytest.raises(KeyError, match=r"needs outputs\['loss'\].*\['los', 'num_samples'\]"):
        runner.run([make_loader()], TRAIN)


@pytest.mark.parametrize("optimizer", [None, {}])
def test_no_optimizer_is_refused_before_training(make_runner: MakeRunner, optimizer: Any) -> None:
    runner = make_runner(optimizer=optimizer)
    runner.register_hook(OptimizerHook())
    with pytest.raises(ValueError, match="the runner has no optimizer"):
        runner.run([make_loader()], TRAIN)


@pytest.mark.parametrize("fused", ["auto", False])
def test_several_optimizers_step_together(make_runner: MakeRunner, fused: bool | str) -> None:
    clip = {"max_norm": 0.5}
    model = TinyModel()
    optimizers = {
        name: torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
        for name, parameter in model.fc.named_parameters()
    }
    runner = make_runner(model=model, optimizer=optimizers, max_epochs=1)
    runner.register_optimizer_hook({"grad_clip": clip, "fused": fused})
    runner.run([make_loader(5)], TRAIN)
    expected, norms = by_hand(5, clip)  # one optimizer of all parameters
    torch.testing.assert_close(model.fc.weight, expected.fc.weight)
    torch.testing.assert_close(model.fc.bias, expected.fc.bias)
    logged = runner.log_buffer.val_history["grad_norm"]
    torch.testing.assert_close(torch.tensor(logged), torch.tensor(norms))


def test_gradients_that_step_elsewhere_count_in_the_norm(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    runner.optimizer = torch.optim.SGD([runner.model.fc.weight], lr=0.1)
    runner.register_optimizer_hook({"grad_clip": {"max_norm": 1e-3}})
    runner.run([make_loader(1)], TRAIN)
    model = TinyModel()
    model.train_step(next(iter(make_loader(1))))["loss"].backward()
    norm = nn.utils.get_total_norm([model.fc.weight.grad, model.fc.bias.grad])
    assert runner.log_buffer.val_history["grad_norm"] == [pytest.approx(float(norm))]
    moved = (runner.model.fc.weight - model.fc.weight).detach().norm()
    assert float(moved) == pytest.approx(1e-4 * float(model.fc.weight.grad.norm() / norm), rel=1e-3)


class Odd(TinyModel):
    """Whose step returns this loss."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.odd = loss

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        return {"loss": self.odd(self.fc(data_batch["x"])), "num_samples": 2}


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda y: None, TypeError, "needs a tensor.*returned None"),
        (lambda y: y.mean().item(), TypeError, "not loss.item"),
        (lambda y: y, ValueError, r"one number.*shape \(2, 1\).*mean\(\) or sum\(\)"),
        (lambda y: y.mean().detach(), ValueError, "depends on no parameter"),
    ],
)
def test_bad_losses(
    make_runner: MakeRunner, loss: Any, error: type[Exception], message: str
) -> None:
    runner = make_runner(model=Odd(loss), max_epochs=1)
    runner.register_hook(OptimizerHook())
    with pytest.raises(error, match=f"(?s)OptimizerHook.*{message}"):
        runner.run([make_loader(1)], TRAIN)


@pytest.mark.parametrize("max_iters", [10, 150])
def test_a_parameter_that_was_replaced_is_an_error(make_runner: MakeRunner, max_iters: int) -> None:
    def replace(runner: Any) -> None:
        if runner.iter == 3:
            runner.model.fc = nn.Linear(2, 1)

    runner = make_runner(IterBasedRunner, max_iters=max_iters)
    runner.register_optimizer_hook({})
    runner.register_hook(ClosureHook("before_train_iter", replace))
    with pytest.raises(ValueError, match=r"'fc\.weight' is another tensor than when the run began"):
        runner.run([make_loader(4)], TRAIN)
    assert runner.iter == min(max_iters - 1, 100)


@pytest.mark.parametrize("fused", ["auto", False])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_step_that_is_not_finite_is_skipped_if_asked(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, fused: bool | str, optimizer: type
) -> None:
    batches = list(make_loader(6))
    bad = [
        {**batch, "y": batch["y"] * (float("nan") if i in (0, 3) else 1.0)}
        for i, batch in enumerate(batches)
    ]
    ends = []
    for data in (bad, [batch for i, batch in enumerate(batches) if i not in (0, 3)]):
        model = TinyModel()
        runner = make_runner(
            model=model, optimizer=optimizer(model.parameters(), lr=0.1), max_epochs=1
        )
        hook = OptimizerHook(skip_nonfinite=True, fused=fused)
        runner.register_hook(hook, "ABOVE_NORMAL")
        runner.run([data], TRAIN)
        ends.append((model.fc.weight, hook.skipped_steps))
    assert torch.equal(ends[0][0], ends[1][0])
    assert [skipped for _, skipped in ends] == [2, 0]
    messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [line[:12] for line in messages] == ["iteration 1:", "iteration 4:"]
    assert "(2 so far)" in messages[1]


def test_a_step_that_is_not_finite_is_taken_otherwise(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_optimizer_hook({})
    runner.run([[{**next(iter(make_loader(1))), "y": torch.tensor(float("inf"))}]], TRAIN)
    assert not torch.isfinite(runner.model.fc.weight).any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fused": "yes"}, ValueError, "fused must be True, False or 'auto', not 'yes'"),
        ({"fused": None}, ValueError, "fused must be"),
        ({"skip_nonfinite": 1}, TypeError, "skip_nonfinite must be True or False, not 1"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"OptimizerHook: {message}"):
        OptimizerHook(**arguments)


def test_fused_true_refuses_optimizers_that_step_themselves(make_runner: MakeRunner) -> None:
    model = TinyModel()
    runner = make_runner(model=model, optimizer=torch.optim.Adagrad(model.parameters()))
    runner.register_hook(OptimizerHook(fused=True))
    with pytest.raises(TypeError, match="fused=True, but the optimizer is a Adagrad"):
        runner.run([make_loader(1)], TRAIN)


def test_two_optimizer_hooks_are_refused(make_runner: MakeRunner) -> None:
    runner = make_runner()
    runner.register_optimizer_hook({})
    for name in HOOKS:
        if issubclass(HOOKS.get(name), OptimizerHook):
            with pytest.raises(ValueError, match="OptimizerHook steps the optimizer already"):
                runner.register_optimizer_hook({"type": name})


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda hook: pickle.loads(pickle.dumps(hook))])
def test_a_copy_of_a_hook_begins_without_the_run(make_runner: MakeRunner, copied: Any) -> None:
    hook = OptimizerHook({"max_norm": 1.0}, skip_nonfinite=True)
    runner = make_runner(max_epochs=1)
    runner.register_hook(hook, "ABOVE_NORMAL")
    copies = []
    runner.register_hook(ClosureHook("after_train_iter", lambda _: copies.append(copied(hook))))
    runner.run([make_loader(1)], TRAIN)
    again = make_runner(max_epochs=1)
    del copies[0].priority
    again.register_hook(copies[0], "ABOVE_NORMAL")
    again.run([make_loader(1)], TRAIN)
    assert torch.equal(again.model.fc.weight, runner.model.fc.weight)


def test_the_callers_dict_stays_as_it_is(make_runner: MakeRunner) -> None:
    config: dict[str, Any] = {"grad_clip": {"max_norm": 1.0}}
    runner = make_runner(max_epochs=1)
    runner.register_optimizer_hook(config)
    runner.run([make_loader(1)], TRAIN)
    assert config == {"grad_clip": {"max_norm": 1.0}}


def test_parameters_without_gradients_give_no_norm() -> None:
    assert OptimizerHook({"max_norm": 1.0}).clip_grads(TinyModel().parameters()) is None


def test_an_overridden_clip_grads_is_used(make_runner: MakeRunner) -> None:
    calls = []

    class Mine(OptimizerHook):
        def clip_grads(self, params: Any) -> Any:
            calls.append(len(list(params)))
            return 3.0

    runner = make_runner(max_epochs=1)
    runner.register_hook(Mine({"max_norm": 1.0}), "ABOVE_NORMAL")
    runner.run([make_loader(2)], TRAIN)
    assert calls == [2, 2]
    assert runner.log_buffer.val_history["grad_norm"] == [3.0, 3.0]


def test_after_train_iter_of_mmcv_style_subclasses_is_used(make_runner: MakeRunner) -> None:
    class Mine(OptimizerHook):
        def after_train_iter(self, runner: Any) -> None:
            runner.optimizer.zero_grad()
            runner.outputs["loss"].backward()
            runner.optimizer.step()

    runner = make_runner(max_epochs=1)
    runner.register_hook(Mine(), "ABOVE_NORMAL")
    runner.run([make_loader(5)], TRAIN)
    model, _ = by_hand(5, None)
    assert torch.equal(runner.model.fc.weight, model.fc.weight)


def test_methods_can_be_called_on_a_mock_that_never_saw_before_run() -> None:
    model = TinyModel()
    loss = model.fc(torch.ones(1, 2)).sum()
    runner = MagicMock(model=model, outputs={"loss": loss, "num_samples": 3})
    OptimizerHook({"max_norm": 0.5}).after_train_iter(runner)
    runner.optimizer.zero_grad.assert_called_once_with()
    runner.optimizer.step.assert_called_once_with()
    (logged, count), _ = runner.log_buffer.update.call_args
    assert logged["grad_norm"].item() == pytest.approx(3**0.5)
    assert count == 3


def test_the_norm_is_written_to_the_log(make_runner: MakeRunner) -> None:
    lines = []

    class Keep(TextLoggerHook):
        def _dump_log(self, entry: Any, runner: Any) -> None:
            lines.append(entry)

    runner = make_runner(max_epochs=1)
    runner.register_optimizer_hook({"grad_clip": {"max_norm": 1.0}})
    runner.register_hook(Keep(interval=2), "VERY_LOW")
    runner.run([make_loader(2)], TRAIN)
    _, norms = by_hand(2, {"max_norm": 1.0})
    assert lines[0]["grad_norm"] == pytest.approx(sum(norms) / 2)


def test_a_stand_in_for_a_runner_needs_no_counters() -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outputs = {"loss": model.fc(torch.ones(1, 2)).sum()}
    before = model.fc.bias.detach().clone()
    hook = OptimizerHook()
    hook.after_train_iter(SimpleNamespace(model=model, optimizer=optimizer, outputs=outputs))
    torch.testing.assert_close(model.fc.bias, before - 0.1)
