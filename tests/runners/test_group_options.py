"""Options of parameter groups on a resume: those of the file and those given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import ClosureHook, Hook
from tests.support import TinyModel, make_loader

from .group_options_support import (
    BATCHES,
    CYCLE,
    KINDS,
    SGD,
    STEP,
    MakeOptimizer,
    file_of,
    group_of,
    optimizer,
    prepare,
    train,
    warnings_in,
)

DIFFERENCES = {
    "lr": ("SGD", SGD, {"lr": 0.02}),
    "weight_decay": ("SGD", SGD, {"weight_decay": 0.01}),
    "momentum": ("SGD", SGD, {"momentum": 0.5}),
    "dampening": ("SGD", SGD, {"dampening": 0.1}),
    "nesterov": ("SGD", SGD, {"nesterov": True}),
    "maximize": ("SGD", SGD, {"maximize": True}),
    "betas": ("Adam", {"lr": 0.1}, {"betas": (0.8, 0.9)}),
    "eps": ("AdamW", {"lr": 0.1}, {"eps": 1e-6}),
    "amsgrad": ("AdamW", {"lr": 0.1}, {"amsgrad": True}),
    "alpha": ("RMSprop", {"lr": 0.1}, {"alpha": 0.5}),
    "rho": ("Adadelta", {"lr": 0.1}, {"rho": 0.5}),
    "tensor lr": ("Adam", {"lr": torch.tensor(0.1)}, {"lr": torch.tensor(0.02)}),
    "number, tensor": ("Adam", {"lr": 0.1}, {"lr": torch.tensor(0.02)}),
}


@pytest.mark.parametrize("option", DIFFERENCES)
def test_other_options_than_the_files_are_named_in_one_warning(
    make_runner: Any, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    algorithm, theirs, changed = DIFFERENCES[option]
    number = list(DIFFERENCES).index(option)
    kind, hooks_first = KINDS[number % 2], number % 4 < 2
    ours = {**theirs, **changed}
    first = train(make_runner, optimizer(algorithm, **theirs), 1, kind)
    then = group_of(first)
    name, value = next(iter(changed.items()))
    resume = {"kind": kind, "resume": file_of(first), "hooks_first": hooks_first}

    runner = prepare(make_runner, optimizer(algorithm, **ours), 2, **resume)
    assert len(warnings_in(caplog)) == 1
    for text in (f"{name} of group 0 (", " in the file", "param_groups='given'"):
        assert text in caplog.text
    assert str(file_of(first)) in caplog.text
    assert group_of(runner) == then
    runner.run([make_loader(BATCHES)], [("train", 1)])
    assert len(warnings_in(caplog)) == 1

    caplog.clear()
    runner = prepare(make_runner, optimizer(algorithm, **ours), 2, **resume, param_groups="given")
    assert warnings_in(caplog) == []
    assert group_of(runner) == {**then, name: value}
    parts = (each.optimizer.state_dict()["state"] for each in (runner, first))
    assert repr(next(parts)) == repr(next(parts))


def test_differences_of_many_groups_and_optimizers_are_counted_up(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def optimizers(lrs: list[float], eps: float) -> MakeOptimizer:
        def make(model: Any) -> dict[str, Any]:
            pairs = zip(model.parameters(), lrs, strict=True)
            layers = [{"params": [parameter], "lr": lr} for parameter, lr in pairs]
            return {
                "a": torch.optim.SGD(layers[:4], lr=1.0),
                "b": torch.optim.Adam(layers[4:], eps=eps),
            }

        return make

    def model() -> Any:
        model = TinyModel()
        model.more = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1))
        return model

    first = train(make_runner, optimizers([0.1] * 6, 1e-8), 1, model=model())
    lrs = [0.2, 0.2, 0.1, 0.2, 0.1, 0.1]
    prepare(make_runner, optimizers(lrs, 1e-6), 2, resume=file_of(first), model=model())
    (text,) = warnings_in(caplog)
    assert "lr of groups 0-1, 3 of optimizer 'a' (0.1 in the file, 0.2 given)" in text
    assert "eps of groups 0-1 of optimizer 'b' (1e-08 in the file, 1e-06 given)" in text


def change(**values: float) -> Callable[[], Hook]:
    """A hook that changes options as the run goes, as many do by hand."""

    def halve(runner: Any) -> None:
        for group in runner.optimizer.param_groups:
            for name in values:
                group[name] *= 0.5

    return lambda: ClosureHook("after_train_iter", halve)


class Counting(torch.optim.SGD):
    """Counts its steps in its groups, as schedule-free optimizers do."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)
        self.defaults["k"] = 0
        for group in self.param_groups:
            group["k"] = 0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] += 1
        return super().step(closure)


def with_torch_scheduler(model: nn.Module) -> Any:
    made = torch.optim.SGD(model.parameters(), **SGD)
    made.scheduler = torch.optim.lr_scheduler.OneCycleLR(made, 1.0, total_steps=20)  # type: ignore[attr-defined]
    return made


SAME: dict[str, dict[str, Any]] = {
    "no schedule": {},
    "fixed": {"lr": {"policy": "fixed"}},
    "step": {"lr": STEP},
    "cosine": {"lr": {"policy": "CosineAnnealing", "min_lr": 0}},
    "warm-up": {"lr": {**STEP, "warmup": "linear", "warmup_iters": 3}},
    "cyclic": {"lr": {"policy": "Cyclic", "by_epoch": False}},
    "one cycle": {"lr": {**CYCLE, "max_lr": 1.0}, "momentum": CYCLE},
    "momentum": {"momentum": STEP},
    "both": {"lr": STEP, "momentum": {"policy": "CosineAnnealing", "min_momentum": 0.5}},
    "betas": {"make": optimizer("Adam", lr=0.1), "momentum": STEP},
    "one cycle of betas": {"make": optimizer("Adam", lr=0.1), "momentum": CYCLE},
    "tensor": {
        "make": lambda model: torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1)),
        "lr": STEP,
    },
    "lr by hand": {"hooks": (change(lr=0.5),)},
    "weight decay by hand": {
        "make": optimizer("SGD", **SGD, weight_decay=0.1),
        "hooks": (change(weight_decay=0.5),),
    },
    "set after resuming": {"set_after": lambda each: each.param_groups[0].update(lr=0.05)},
    "a counter in the group": {"make": lambda model: Counting(model.parameters(), lr=0.1)},
    "a scheduler of torch": {
        "make": with_torch_scheduler,
        "hooks": (lambda: ClosureHook("after_train_iter", lambda r: r.optimizer.scheduler.step()),),
    },
    "two optimizers": {
        "make": lambda model: {
            "a": torch.optim.SGD([model.fc.weight], lr=0.1),
            "b": torch.optim.Adam([model.fc.bias], lr=0.01),
        },
        "lr": STEP,
        "momentum": None,
    },
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SAME)
def test_the_same_script_resumes_without_a_warning_and_as_if_it_had_not_stopped(
    make_runner: Any, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    arguments = {"make": optimizer("SGD", **SGD), **SAME[name]}
    make = arguments.pop("make")
    number = list(SAME).index(name)
    kind, hooks_first = KINDS[number % 2], number % 4 < 2
    whole = train(make_runner, make, 4, kind, **{**arguments, "set_after": None})
    for epoch in (1, 2):  # the second time from a file of a run that was resumed itself
        arguments.update(resume=file_of(whole, epoch), hooks_first=hooks_first)
        again = train(make_runner, make, 4, kind, **arguments)
        if not name.startswith(("set", "a scheduler")):  # the others are the run that went on
            assert again.rates.seen == whole.rates.seen[epoch * BATCHES :]
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("value", ["giben", "File", "run", None, True, 3])
def test_a_wrong_choice_is_refused_before_anything_is_read(make_runner: Any, value: Any) -> None:
    near = {"giben": "Did you mean 'given'", "File": "Did you mean 'file'"}.get(value, "")
    with pytest.raises(ValueError, match=rf"param_groups must be 'file' or 'given', not.*{near}"):
        make_runner().resume("/nowhere.pth", param_groups=value)


def test_options_that_a_file_does_not_have_stay_as_given(make_runner: Any) -> None:
    first = train(make_runner, optimizer("SGD", **SGD), 1)
    file = file_of(first)
    checkpoint = torch.load(file)
    for name in ("nesterov", "weight_decay"):
        del checkpoint["optimizer"]["param_groups"][0][name]
    del checkpoint["hookrun"]["group_options"]
    torch.save(checkpoint, file)
    given = optimizer("SGD", **SGD, nesterov=True, weight_decay=0.5)
    group = group_of(prepare(make_runner, given, 2, resume=file))
    assert (group["nesterov"], group["weight_decay"]) == (True, 0.5)


@pytest.mark.parametrize("schedule", [s for s in SAME if "hand" not in s and "set" not in s])
def test_files_that_do_not_say_what_they_began_with(
    make_runner: Any, caplog: pytest.LogCaptureFixture, schedule: str
) -> None:
    arguments = {"make": optimizer("SGD", **SGD), **SAME[schedule]}
    make = arguments.pop("make")
    first = train(make_runner, make, 2, **arguments)
    file = file_of(first)
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["hookrun"]
    torch.save(checkpoint, file)
    train(make_runner, make, 2, resume=file, **arguments)
    warned = warnings_in(caplog)
    if schedule == "one cycle":  # its start is not what the optimizer was made with
        assert len(warned) == 1
        assert "lr of group 0 (0.04 in the file, 0.1 given)" in warned[0]
    else:
        assert warned == []


@pytest.mark.parametrize(
    "record",
    [3, {}, {"given": 3, "set_later": {}, "scheduled": []}, {"given": {"": [1]}, "scheduled": []}],
)
def test_a_record_that_is_none_is_refused(make_runner: Any, record: Any) -> None:
    first = train(make_runner, optimizer("SGD", **SGD), 1)
    checkpoint = torch.load(file_of(first))
    checkpoint["hookrun"]["group_options"] = record
    torch.save(checkpoint, file_of(first))
    runner = make_runner()
    with pytest.raises(ValueError, match=r"hookrun\.group_options"):
        runner.resume(file_of(first))
    assert runner.iter == 0
