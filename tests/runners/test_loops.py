"""The native loop does what the Python loop does, in ordinary runs and in odd ones."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hookrun import ClosureHook, Hook, LogBuffer, OptimizerHook
from tests.support import Recorder, TinyModel, make_loader

from .variants import EPOCH_VARIANTS, ITER_VARIANTS, LOOPS, limits

PAIRS = [
    pytest.param((EPOCH_VARIANTS["native"][0], EPOCH_VARIANTS["run_iter"][0]), id="epoch"),
    pytest.param((ITER_VARIANTS["native"][0], ITER_VARIANTS["train and val"][0]), id="iter"),
]


class Broken(Exception):
    """Raised by the tests."""


class Loader:
    """A loader without a length."""

    def __init__(self, batches: int = 3) -> None:
        self.batches = list(make_loader(batches))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class LyingLoader(Loader):
    def __init__(self, batches: int, claimed: int) -> None:
        super().__init__(batches)
        self.claimed = claimed

    def __len__(self) -> int:
        return self.claimed


def observe(
    make_runner: Any,
    runner_type: type,
    prepare: Callable[[Any], Any] = lambda runner: None,
    loader: Any = None,
    model: Any = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Everything that a run leaves behind: for comparing loops."""
    runner = make_runner(runner_type, model=model or TinyModel(), **limits(runner_type))
    recorder = Recorder()
    runner.register_hook(OptimizerHook())
    runner.register_hook(recorder, priority="LOWEST")
    prepare(runner)
    error: BaseException | None = None
    try:
        runner.run([loader or make_loader(3)], [("train", 1)], **kwargs)
    except BaseException as raised:
        error = raised
    runner.log_buffer.average()
    return {
        "events": recorder.events,
        "counters": (runner.epoch, runner.iter, runner.inner_iter),
        "limits": (runner.max_epochs, runner.max_iters),
        "weights": [p.tolist() for p in runner.model.parameters()],
        "log": repr(runner.log_buffer.output),
        "samples": runner.log_buffer.n_history,
        "loss": getattr(runner, "outputs", {}).get("loss", torch.zeros(())).item(),
        "error": (type(error), str(error), getattr(error, "__notes__", [])) if error else None,
        "has batch": hasattr(runner, "data_batch"),
        "training": runner.model.training,
        "firing": runner.current_event,
    }


def set_at(event: str, **attributes: Any) -> Callable[[Any], None]:
    """Prepares a hook that sets attributes of the runner at the second time the event fires."""

    def prepare(runner: Any) -> None:
        fired = []

        def change(runner: Any) -> None:
            fired.append(event)
            if len(fired) == 2:
                for name, value in attributes.items():
                    setattr(runner, name, value)

        runner.register_hook(ClosureHook(event, change))

    return prepare


def raise_at(event: str, error: BaseException) -> Callable[[Any], None]:
    def prepare(runner: Any) -> None:
        def fail(runner: Any) -> None:
            if runner.iter == 1:
                raise copy.copy(error)

        runner.register_hook(ClosureHook(event, fail))

    return prepare


class BadOutputs(TinyModel):
    """Returns something wrong at the second step."""

    def __init__(self, wrong: Any) -> None:
        super().__init__()
        self.wrong, self.steps = wrong, 0

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
        self.steps += 1
        if self.steps < 2:
            return super().train_step(data_batch)
        if isinstance(self.wrong, BaseException):
            raise copy.copy(self.wrong)
        return self.wrong(super().train_step(data_batch)) if callable(self.wrong) else self.wrong


def replace_model(runner: Any) -> None:
    set_at("before_train_iter", model=TinyModel(seed=5))(runner)


def replace_optimizer(runner: Any) -> None:
    optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.5)
    set_at("before_train_iter", optimizer=optimizer)(runner)


def replace_log_buffer(runner: Any) -> None:
    set_at("after_train_iter", log_buffer=LogBuffer())(runner)


class DoublingBuffer(LogBuffer):
    """Overrides what the native loop would do itself."""

    def update(self, vars: dict[str, Any], count: float = 1) -> None:
        super().update({name: value * 2 for name, value in vars.items()}, count)


def replace_by_doubling_buffer(runner: Any) -> None:
    set_at("after_train_iter", log_buffer=DoublingBuffer())(runner)


PREPARATIONS: dict[str, Callable[[Any], Any]] = {
    "nothing odd": lambda runner: None,
    "model replaced": replace_model,
    "optimizer replaced": replace_optimizer,
    "log buffer replaced": replace_log_buffer,
    "log buffer of a subclass": replace_by_doubling_buffer,
    "epochs cut short": set_at("after_train_epoch", _max_epochs=2),
    "epochs cut to what has passed": set_at("after_train_iter", _max_epochs=1),
    "iterations cut short": set_at("after_train_iter", _max_iters=3),
    "iterations cut to what has passed": set_at("after_train_iter", _max_iters=1),
    "iteration set": set_at("after_train_iter", _iter=3),
    "epoch set": set_at("after_train_iter", _epoch=1),
    "inner iteration set": set_at("before_train_iter", _inner_iter=7),
    "mode set": set_at("after_train_iter", mode="val"),
    "batch replaced": set_at("before_train_iter", data_batch=None),
    "outputs replaced": set_at("before_train_iter", outputs={}),
    "a hook fails before": raise_at("before_train_iter", Broken("before")),
    "a hook fails after": raise_at("after_train_iter", Broken("after")),
    "a hook stops an iterator": raise_at("after_train_iter", StopIteration("hook")),
    "Ctrl-C in a hook": raise_at("after_train_iter", KeyboardInterrupt()),
    "a hook exits": raise_at("before_train_iter", SystemExit(3)),
}


@pytest.mark.parametrize("types", PAIRS)
@pytest.mark.parametrize("prepare", PREPARATIONS.values(), ids=PREPARATIONS)
def test_both_loops_agree_on_what_hooks_do(make_runner: Any, types: Any, prepare: Any) -> None:
    native, python = (observe(make_runner, each, prepare) for each in types)
    assert native == python
    assert native["events"]


@pytest.mark.parametrize("types", PAIRS)
@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [1, 2],
        Broken("step"),
        KeyboardInterrupt(),
        StopIteration("step"),
        lambda good: {"log_vars": {"a": 1.0}},
        lambda good: {"loss": good["loss"]},
        lambda good: {**good, "log_vars": None},
        lambda good: {**good, "log_vars": {"a": "text"}},
        lambda good: {**good, "log_vars": {"a": torch.ones(2)}},
        lambda good: {**good, "num_samples": "two"},
        lambda good: {**good, "num_samples": torch.tensor(4)},
        lambda good: {"loss": good["loss"], "log_vars": {"a": 3}},
    ],
    ids=[
        "None",
        "list",
        "exception",
        "Ctrl-C",
        "StopIteration",
        "no loss",
        "no log_vars",
        "log_vars None",
        "log_vars text",
        "log_vars vector",
        "num_samples text",
        "num_samples tensor",
        "no num_samples",
    ],
)
def test_both_loops_agree_on_what_steps_return(make_runner: Any, types: Any, wrong: Any) -> None:
    native, python = (observe(make_runner, each, model=BadOutputs(wrong)) for each in types)
    assert native == python


def failing_loader(error: BaseException) -> Any:
    class FailingLoader(Loader):
        def __iter__(self) -> Iterator[Any]:
            yield self.batches[0]
            raise copy.copy(error)

    return FailingLoader()


LOADERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: list(make_loader(3)),
    "no length": lambda: Loader(3),
    "fewer than it says": lambda: LyingLoader(2, claimed=3),
    "more than it says": lambda: LyingLoader(4, claimed=3),
    "a generator": lambda: (batch for batch in make_loader(8)),
    "an exception": lambda: failing_loader(Broken("loader")),
    "Ctrl-C": lambda: failing_loader(KeyboardInterrupt()),
    "empty, without a length": lambda: Loader(0),
    "empty, against its word": lambda: LyingLoader(0, claimed=3),
}


@pytest.mark.parametrize("types", PAIRS)
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_both_loops_agree_on_odd_loaders(make_runner: Any, types: Any, loader: Any) -> None:
    native, python = (observe(make_runner, each, loader=loader()) for each in types)
    assert native == python


@pytest.mark.parametrize("variant", LOOPS)
def test_a_loader_that_gives_nothing_ends_the_run(make_runner: Any, variant: Any) -> None:
    found = observe(make_runner, variant[0], loader=Loader(0))
    kind, message, _ = found["error"]
    assert kind is ValueError
    assert "Loader gives no batches" in message
    assert "after_run" not in [name for name, *_ in found["events"]]


@pytest.mark.parametrize("variant", LOOPS[:2])
def test_a_generator_that_is_exhausted_ends_the_run(make_runner: Any, variant: Any) -> None:
    found = observe(make_runner, variant[0], loader=(batch for batch in make_loader(3)))
    assert found["error"][0] is ValueError
    assert "a generator can be gone through only once" in found["error"][1]
    assert found["counters"][:2] == (1, 3)


@pytest.mark.parametrize("variant", LOOPS)
def test_keyword_arguments_reach_the_step(make_runner: Any, variant: Any) -> None:
    seen = []

    class Model(TinyModel):
        def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> Any:
            seen.append((optimizer, kwargs))
            return super().train_step(data_batch)

    runner = make_runner(variant[0], model=Model(), **limits(variant[0], epochs=1, batches=2))
    runner.run([make_loader(2)], [("train", 1)], scale=2, train=True)
    assert seen == [(runner.optimizer, {"scale": 2, "train": True})] * 2


@pytest.mark.parametrize("variant", LOOPS)
def test_a_step_set_on_the_model_itself_is_called(make_runner: Any, variant: Any) -> None:
    model = TinyModel()
    runner = make_runner(variant[0], model=model, **limits(variant[0], epochs=1, batches=2))
    calls = []

    def train_step(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        return {"loss": None}

    model.train_step = train_step
    runner.run([make_loader(2)], [("train", 1)])
    assert len(calls) == 2


@pytest.mark.parametrize("variant", LOOPS)
@pytest.mark.parametrize("error", [Broken("x"), StopIteration(1), KeyboardInterrupt()])
def test_an_exception_from_a_hook_keeps_its_identity_and_traceback_and_gets_a_note(
    make_runner: Any, variant: Any, error: BaseException
) -> None:
    class FailingHook(Hook):
        def after_train_iter(self, runner: Any) -> None:
            if runner.iter == 4:
                raise error

    runner = make_runner(variant[0], **limits(variant[0]))
    runner.register_hook(FailingHook(), priority=55)
    with pytest.raises(type(error)) as caught:
        runner.run([make_loader(3)], [("train", 1)])
    assert caught.value is error
    assert error.__notes__[-1] == (
        "raised by hook FailingHook (priority 55) in after_train_iter, at epoch 1, iteration 4 "
        "(counted from 0)"
    )
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert functions[-1] == "after_train_iter"
    assert "run" in functions


@pytest.mark.parametrize("variant", LOOPS)
def test_an_exception_from_a_step_gets_no_note(make_runner: Any, variant: Any) -> None:
    found = observe(make_runner, variant[0], model=BadOutputs(Broken("step")))
    assert found["error"] == (Broken, "step", [])


@pytest.mark.parametrize("variant", LOOPS)
def test_outputs_that_are_no_dict_are_refused(make_runner: Any, variant: Any) -> None:
    found = observe(make_runner, variant[0], model=BadOutputs(7))
    kind, message, _ = found["error"]
    assert kind is TypeError
    assert "BadOutputs.train_step() must return a dict with the key 'loss'" in message
    assert "returned int" in message


@pytest.mark.parametrize("variant", LOOPS)
def test_no_loss_is_said_where_the_optimizer_hook_needs_it(make_runner: Any, variant: Any) -> None:
    found = observe(make_runner, variant[0], model=BadOutputs(lambda good: {"log_vars": {}}))
    kind, message, notes = found["error"]
    assert kind is KeyError
    assert "OptimizerHook needs outputs['loss']" in message
    assert "OptimizerHook" in notes[0]


class OwnIterator:
    """A loader that is its own iterator, and begins anew when it is asked for one."""

    def __init__(self) -> None:
        self.batches = list(make_loader(3))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        self.left = list(self.batches)
        return self

    def __next__(self) -> Any:
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


@pytest.mark.parametrize("variant", LOOPS)
def test_a_loader_that_is_its_own_iterator_gives_each_batch_once(
    make_runner: Any, variant: Any
) -> None:
    loader = OwnIterator()
    seen = []
    runner = make_runner(variant[0], **limits(variant[0], epochs=2, batches=3))
    where = {id(batch): number for number, batch in enumerate(loader.batches)}
    hook = ClosureHook("before_train_iter", lambda r: seen.append(where[id(r.data_batch)]))
    runner.register_hook(hook)
    runner.run([loader], [("train", 1)])
    assert seen == [0, 1, 2, 0, 1, 2]
