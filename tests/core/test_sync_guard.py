"""SyncGuard: reads of tensors are reported with the hook, the event and the line."""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hookrun import (
    ClosureHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    HostSyncError,
    IterBasedRunner,
    LoggerHook,
    OptimizerHook,
    SyncGuard,
)
from tests.support import Points, TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


def test_everything_is_as_before_afterwards() -> None:
    def attributes() -> list[dict[str, Any]]:
        return [dict(vars(torch.Tensor)), dict(vars(torch))]

    before = attributes()
    item = torch.Tensor.item
    with SyncGuard(device="cpu"):
        assert torch.Tensor.item is not item
    with pytest.raises(KeyError), SyncGuard(device="cpu"):
        raise KeyError
    assert torch.Tensor.item is item
    assert attributes() == before
    assert torch.tensor(2.0).item() == 2.0


def test_a_read_outside_of_a_run() -> None:
    with SyncGuard(device="cpu") as guard:
        torch.ones(1).item()
    (sync,) = guard.report.syncs
    assert (sync.hook, sync.event, sync.iteration) == (None, None, None)
    assert sync.source == "torch.ones(1).item()"
    assert "the code made the host wait for the device: Tensor.item" in str(sync)


class Planted(Hook):
    def after_train_iter(self, runner: Any) -> None:
        self.noted = runner.outputs["loss"].item()


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
def test_a_planted_read_is_found_each_time(
    make_runner: MakeRunner,
    runner_type: type,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if backend == "reference":
        monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    runner = make_runner(runner_type, **limits(runner_type))
    runner.register_optimizer_hook({})
    runner.register_hook(Planted())
    runner.run([make_loader(3)], TRAIN, sync_guard=True)
    report = runner.sync_guard.report
    assert len(report) == 6
    assert [sync.iteration for sync in report] == [0, 1, 2, 3, 4, 5]
    line = line_of(Planted, ".item()")
    assert {(s.hook, s.event, s.call, s.file, s.line) for s in report} == {
        ("Planted", "after_train_iter", "Tensor.item", __file__, line)
    }
    head, columns, row = str(report).splitlines()
    assert head == "host syncs between log intervals: 6"
    assert columns.split() == ["times", "hook", "event", "call", "line"]
    assert row.split()[:4] == ["6", "Planted", "after_train_iter", "Tensor.item"]
    assert row.endswith(f'{__file__}:{line}  self.noted = runner.outputs["loss"].item()')
    assert caplog.records[-1].levelname == "WARNING"
    assert caplog.records[-1].getMessage() == str(report)


def limits(runner_type: type) -> dict[str, int]:
    return {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 6}


def run_with(make_runner: MakeRunner, *hooks: Hook, **arguments: Any) -> list[Any]:
    """What a guard sees of a run of two iterations with these hooks."""
    runner = make_runner(IterBasedRunner, max_iters=2, **arguments)
    for hook in hooks:
        runner.register_hook(hook)
    runner.run([list(make_loader(2))], TRAIN, sync_guard=SyncGuard(device="cpu"))
    return list(runner.sync_guard.report)


def read_loss(runner: Any) -> None:
    float(runner.outputs["loss"].detach())


class Reader:
    def __call__(self, runner: Any) -> None:
        read_loss(runner)

    def method(self, runner: Any) -> None:
        read_loss(runner)


@pytest.mark.parametrize(
    "function",
    [
        read_loss,
        lambda _: read_loss(_),
        functools.partial(read_loss),
        Reader(),
        Reader().method,
    ],
    ids=["function", "lambda", "partial", "object", "method"],
)
def test_functions_set_on_hooks_are_found(make_runner: MakeRunner, function: Any) -> None:
    found = run_with(make_runner, ClosureHook("after_train_iter", function))
    assert [(sync.hook, sync.event) for sync in found] == [("ClosureHook", "after_train_iter")] * 2
    assert {sync.source for sync in found} == {'float(runner.outputs["loss"].detach())'}


def test_the_innermost_hook_is_named(make_runner: MakeRunner) -> None:
    class Outer(Hook):
        def before_train_iter(self, runner: Any) -> None:
            runner.call_hook("my_event")

    class Inner(Hook):
        def my_event(self, runner: Any) -> None:
            bool(runner.model.fc.bias > 0)

    found = run_with(make_runner, Inner(), Outer())
    assert [(sync.hook, sync.event) for sync in found] == [("Inner", "before_train_iter")] * 2


def test_subclasses_of_shipped_hooks_are_watched(make_runner: MakeRunner) -> None:
    class MyOptimizerHook(OptimizerHook):
        def after_train_iter(self, runner: Any) -> None:
            super().after_train_iter(runner)
            runner.outputs["loss"].tolist()

    class MyLogger(LoggerHook):
        def after_train_iter(self, runner: Any) -> None:
            runner.model.fc.bias.cpu()
            super().after_train_iter(runner)

        def log(self, runner: Any) -> None:
            self.logged = runner.model.fc.bias.item()

    logger = MyLogger(interval=1)
    found = run_with(make_runner, MyOptimizerHook(), logger)
    assert [sync.call for sync in found] == ["Tensor.tolist", "Tensor.cpu"] * 2
    assert [sync.hook for sync in found] == ["MyOptimizerHook", "MyLogger"] * 2
    assert isinstance(logger.logged, float)  # at log time


def test_averages_asked_for_between_logs_are_found(make_runner: MakeRunner) -> None:
    class Impatient(Hook):
        def after_train_iter(self, runner: Any) -> None:
            runner.log_buffer.average()

    found = run_with(make_runner, Impatient())
    assert [(sync.hook, sync.call) for sync in found] == [("Impatient", "Tensor.tolist")] * 2


def test_reads_in_the_models_step_are_found(make_runner: MakeRunner) -> None:
    class Reading(TinyModel):
        def train_step(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().train_step(*args, **kwargs)
            outputs["log_vars"]["loss"] = outputs["loss"].item()
            return outputs

    found = run_with(make_runner, model=Reading())
    assert [(sync.hook, sync.event, sync.iteration) for sync in found] == [
        (None, None, 0),
        (None, None, 1),
    ]
    assert found[0].source == 'outputs["log_vars"]["loss"] = outputs["loss"].item()'


def test_a_model_that_a_hook_holds_is_not_the_hook(make_runner: MakeRunner) -> None:
    class Reading(TinyModel):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            x.sum().item()
            return super().forward(x)

        def train_step(self, data_batch: Any, *args: Any, **kwargs: Any) -> Any:
            self(data_batch["x"])
            return super().train_step(data_batch)

    class Holding(Hook):
        def before_run(self, runner: Any) -> None:
            self.model = runner.model

    found = run_with(make_runner, Holding(), model=Reading())
    assert [sync.hook for sync in found] == [None, None]


def test_reads_during_backward_are_found(make_runner: MakeRunner) -> None:
    model = TinyModel()
    model.fc.bias.register_hook(lambda grad: print(end=str(bool(grad.isnan()))[:0]))
    found = run_with(make_runner, OptimizerHook(), model=model)
    assert [(sync.hook, sync.call) for sync in found] == [("OptimizerHook", "Tensor.__bool__")] * 2
    assert {sync.file for sync in found} == {__file__}


def test_where_a_run_waits_in_any_case_is_not_reported(make_runner: MakeRunner) -> None:
    class Setup(Hook):
        def before_run(self, runner: Any) -> None:
            runner.model.fc.bias.item()

        def after_run(self, runner: Any) -> None:
            runner.model.fc.bias.item()

    class Measured(Points):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            assert self.x[index].norm().item() >= 0
            return super().__getitem__(index)

    model = TinyModel()
    optimizer = torch.optim.Adam(model.parameters())
    runner = make_runner(model=model, optimizer=optimizer, max_epochs=2)
    runner.register_training_hooks(
        {"policy": "step", "step": 1},
        {"grad_clip": {"max_norm": 1.0}},
        {"interval": 1},
        {"interval": 1, "hooks": [{"type": "TextLoggerHook"}]},
    )
    runner.register_hook(EvalHook(make_loader(2), save_best="acc"))
    runner.register_hook(Setup())
    loader = DataLoader(Measured(6), batch_size=2, shuffle=True)
    runner.run([loader], TRAIN, sync_guard=SyncGuard("raise", "cpu"))
    assert not runner.sync_guard.report


def test_other_threads_are_left_alone() -> None:
    with SyncGuard(device="cpu") as guard:
        thread = threading.Thread(target=torch.ones(1).item)
        thread.start()
        thread.join()
    assert not guard.report


def test_raise_ends_the_run_at_the_read(make_runner: MakeRunner) -> None:
    runner = make_runner(max_epochs=2)
    runner.register_hook(Planted())
    with pytest.raises(
        HostSyncError,
        match=r"Planted in after_train_iter made the host wait .* at iteration 0 .*Tensor\.item",
    ) as caught:
        runner.run([make_loader(3)], TRAIN, sync_guard=SyncGuard("raise", "cpu"))
    assert line_of(Planted, ".item()") in [entry.lineno + 1 for entry in caught.traceback]
    assert runner.iter == 0
    assert torch.ones(1).item() == 1.0  # watched no more


def test_warnings_stand_at_the_read() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with SyncGuard("warn", "cpu"):
            torch.ones(1).item()
            torch.ones(1).tolist()
    assert [str(each.message).count("made the host wait") for each in caught] == [1, 1]
    assert {each.filename for each in caught} == {__file__}
    assert caught[0].lineno + 1 == caught[1].lineno


def test_counts_stay_exact_beyond_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hookrun.core.sync_guard._MAX_KEPT", 2)
    x = torch.ones(1)
    with SyncGuard(device="cpu") as guard:
        for _ in range(5):
            x.item()
    assert len(guard.report) == 5
    assert len(guard.report.syncs) == 2


def test_guards_can_be_entered_again_and_nested() -> None:
    guard = SyncGuard(device="cpu")
    for _ in range(2):
        with guard, SyncGuard(device="cpu") as inner:
            torch.ones(1).item()
        assert len(inner.report) == 1
    assert len(guard.report) == 2
    with guard, pytest.raises(RuntimeError, match="entered already"), guard:
        pass


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_guards_can_be_exited_in_any_order(order: tuple[int, ...]) -> None:
    names = ("item", "__bool__", "__getitem__")
    before = [vars(torch.Tensor).get(name) for name in names]
    where = torch.where
    guards = [SyncGuard(device="cpu") for _ in range(3)]
    for guard in guards:
        guard.__enter__()
    for index in order:
        torch.ones(1).item()
        guards[index].__exit__(None, None, None)
    torch.ones(1).item()
    assert [len(guards[index].report) for index in order] == [1, 2, 3]
    assert [vars(torch.Tensor).get(name) for name in names] == before
    assert torch.where is where


def test_bad_arguments(make_runner: MakeRunner) -> None:
    with pytest.raises(ValueError, match=r"action must be one of .* not 'error'"):
        SyncGuard("error")
    with pytest.raises(ValueError, match="watches 'cuda' or 'cpu', not 'meta'"):
        SyncGuard(device="meta")
    with pytest.raises(TypeError, match="sync_guard is True, False or a SyncGuard, not 'yes'"):
        make_runner().run([make_loader(1)], TRAIN, sync_guard="yes")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_cuda_device() -> None:
    with pytest.raises(ValueError, match="no CUDA device"):
        SyncGuard(device="cuda")


@pytest.mark.gpu
def test_on_a_gpu_torch_tells(make_runner: MakeRunner) -> None:
    runner = make_runner(model=TinyModel().cuda(), max_epochs=2)
    runner.register_optimizer_hook({})
    runner.register_hook(Planted())
    runner.register_hook(ClosureHook("before_train_iter", lambda _: torch.cuda.synchronize()))
    batches = [{key: value.cuda() for key, value in batch.items()} for batch in make_loader(3)]
    mode = torch.cuda.get_sync_debug_mode()
    runner.run([batches], TRAIN, sync_guard=True)
    found = [(sync.hook, sync.event, sync.line) for sync in runner.sync_guard.report]
    assert found.count(("Planted", "after_train_iter", line_of(Planted, ".item()"))) == 6
    assert sum(hook == "ClosureHook" for hook, *_ in found) == 6
    assert len(found) == 12
    assert torch.cuda.get_sync_debug_mode() == mode
    runner = make_runner(model=TinyModel().cuda(), max_epochs=1)
    runner.register_hook(Planted())
    with pytest.raises(HostSyncError, match="Planted"):
        runner.run([batches], TRAIN, sync_guard=SyncGuard("raise"))
