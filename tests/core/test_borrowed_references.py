"""Values that are taken out of their dict, list or runner while native code uses them."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hookrun import Hook, IterTimerHook, LogBuffer, _native
from hookrun.ops import ema_update_, grad_norm
from tests.support import TinyModel, make_loader


class Key(str):
    """A key of a dict with the hash of ``meets``; once armed, it acts when they are compared."""

    def __new__(cls, meets: str, action: Callable[[], Any]) -> Key:
        self = super().__new__(cls, "something else")
        self.meets, self.action, self.armed = meets, action, False
        return self

    def __hash__(self) -> int:
        return hash(self.meets)

    def __eq__(self, other: object) -> bool:
        if self.armed:
            self.armed = False
            self.action()
        return False


class Number:
    """Something that is a number once it has done something."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action

    def __float__(self) -> float:
        self.action()
        return 1.0

    __index__ = None


def train(make_runner: Any, step: Callable[[Any, Any], Any], *hooks: Hook) -> Any:
    model = TinyModel()
    model.train_step = step  # type: ignore[method-assign]
    runner = make_runner(model=model, max_epochs=1)
    for hook in hooks:
        runner.register_hook(hook, priority="HIGHEST")
    runner.run([make_loader(3)], [("train", 1)])
    return runner


@pytest.mark.parametrize("meets", ["log_vars", "num_samples"])
@pytest.mark.parametrize("drop", ["log_vars", "everything"])
def test_a_key_that_empties_the_outputs_when_it_is_compared(
    make_runner: Any, meets: str, drop: str
) -> None:
    def step(batch: Any, optimizer: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = {}

        def empty() -> None:
            if drop == "everything":
                outputs.clear()
            else:
                outputs.pop("log_vars")
            gc.collect()

        key = Key(meets, empty)
        outputs.update({key: 0, "loss": 0.0, "log_vars": {"loss": 1.0}})
        key.armed = True
        return outputs

    train(make_runner, step)


def test_a_sample_count_that_drops_the_values(make_runner: Any) -> None:
    def step(batch: Any, optimizer: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = {"loss": 0.0, "log_vars": {"loss": float("1.5")}}
        outputs["num_samples"] = Number(outputs.clear)
        return outputs

    runner = train(make_runner, step)
    runner.log_buffer.average()
    assert runner.log_buffer.output["loss"] == 1.5


def test_a_value_that_empties_the_values_when_it_is_read() -> None:
    buffer = LogBuffer()
    values: dict[str, Any] = {}
    values["first"] = torch.tensor(1.0)
    values["odd"] = Number(values.clear)
    values["last"] = torch.tensor(2.0)
    with contextlib.suppress(TypeError):  # for the odd one
        buffer.update(values)
        buffer.average()
    gc.collect()


def test_a_buffer_replaced_while_it_takes_a_time(make_runner: Any) -> None:
    class Replaces(LogBuffer):
        def _defer(self, name: str, value: Any, count: float) -> None:
            runner.log_buffer = LogBuffer()
            gc.collect()
            super()._defer(name, value, count)

    class Defers(Hook):
        def before_train_iter(self, runner: Any) -> None:
            runner.log_buffer.update({"time": torch.tensor(1.0)})  # later times queue behind it

    runner = make_runner(max_epochs=1)
    runner.log_buffer = Replaces()
    runner.register_hook(Defers())
    runner.register_hook(IterTimerHook())
    runner.run([make_loader(3)], [("train", 1)])


def test_an_output_replaced_while_averages_are_put_into_it() -> None:
    buffer = LogBuffer()
    buffer.update({"loss": 1.0})

    class Output(dict[str, Any]):
        def update(self, *args: Any, **kwargs: Any) -> None:
            buffer.output = {}
            gc.collect()
            super().update(*args, **kwargs)

    buffer.output = Output()
    buffer.average()
    del buffer.output
    with pytest.raises(AttributeError, match="output"):
        _native.LogBuffer.average(buffer)


class Rate(torch.Tensor):
    """A learning rate that does something when it is filled."""

    action: Callable[[], Any] = staticmethod(lambda: None)

    def fill_(self, value: Any) -> Any:
        type(self).action()
        return super().fill_(value)


@pytest.mark.parametrize("policy", ["CosineAnnealing", "Poly"])
def test_a_rate_that_asks_for_the_rates_or_clears_its_group_when_it_is_filled(
    make_runner: Any, policy: str
) -> None:
    model = TinyModel()
    groups = [{"params": [each], "lr": 0.1} for each in model.parameters()]
    runner = make_runner(model=model, optimizer=torch.optim.SGD(groups, lr=0.1), max_epochs=1)
    runner.register_lr_hook({"policy": policy, "min_lr": 0.0, "by_epoch": False})
    (hook,) = runner.hooks
    group = runner.optimizer.param_groups[0]
    group["lr"] = torch.tensor(0.1).as_subclass(Rate)
    seen = []

    def act() -> None:
        seen.append(hook._latest)
        hook._base.clear()
        group.pop("lr", None)
        gc.collect()

    Rate.action = staticmethod(act)
    runner.run([make_loader(4)], [("train", 1)])
    assert seen


def test_betas_that_leave_their_group_when_they_are_read(make_runner: Any) -> None:
    model = TinyModel()
    runner = make_runner(model=model, optimizer=torch.optim.Adam(model.parameters()), max_epochs=1)
    runner.register_momentum_hook(
        {"policy": "CosineAnnealing", "min_momentum": 0.1, "by_epoch": False}
    )
    group = runner.optimizer.param_groups[0]

    class Betas:
        def __iter__(self) -> Any:
            group.pop("betas", None)
            gc.collect()
            return iter((0.9, 0.999))

    class Put(Hook):
        def before_train_iter(self, runner: Any) -> None:
            group["betas"] = Betas()

    runner.register_hook(Put(), priority=0)
    runner.run([make_loader(3)], [("train", 1)])
    assert len(group["betas"]) == 2


def test_a_listener_released_by_a_custom_event_may_change_the_table(make_runner: Any) -> None:
    runner = make_runner()
    registered: list[Hook] = []

    class Released:
        def __call__(self, runner: Any) -> None: ...

        def __del__(self) -> None:
            for _ in range(20):
                registered.append(Hook())
                runner.register_hook(registered[-1])

    class Gives(Hook):
        @property
        def odd(self) -> Any:
            return Released()

    for _ in range(5):
        runner.register_hook(Gives())
    runner.call_hook("odd")
    runner._hooks.clear()
    gc.collect()
    runner.call_hook("odd")
    assert len(registered) >= 100


@pytest.mark.parametrize("op", [lambda a, b: ema_update_(a, b, 0.5), lambda a, b: grad_norm(a)])
def test_lists_emptied_by_another_thread_while_a_kernel_reads_them(op: Any) -> None:
    stop = threading.Event()
    lists: list[list[torch.Tensor]] = []

    def empty() -> None:
        while not stop.is_set():
            for each in lists:
                each.clear()

    thread = threading.Thread(target=empty)
    thread.start()
    try:
        for _ in range(200):
            a, b = ([torch.zeros(5000) for _ in range(20)] for _ in range(2))
            lists[:] = [a, b]
            with contextlib.suppress(ValueError):  # one of them was empty already
                op(a, b)
            lists.clear()
    finally:
        stop.set()
        thread.join()
