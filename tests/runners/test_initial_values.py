"""What schedules start from in a resumed run: what the file has, what is given, what is set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EMAHook, Fp16OptimizerHook, Hook
from tests.support import TinyModel, make_loader

from .group_options_support import (
    BATCHES,
    CYCLE,
    KINDS,
    SGD,
    STEP,
    file_of,
    group_of,
    optimizer,
    train,
    warnings_in,
)

SCHEDULES: list[Any] = [
    {"lr": STEP},
    {"lr": {"policy": "CosineAnnealing", "min_lr_ratio": 0.1}},
    {"lr": {"policy": "Poly", "power": 2.0}},
    {"lr": {**STEP, "warmup": "exp", "warmup_iters": 3}},
    {"lr": {"policy": "Exp", "gamma": 0.5, "by_epoch": False}},
    {"lr": {"policy": "Cyclic", "by_epoch": False}},
    {"momentum": STEP},
    {"momentum": {"policy": "Cyclic", "by_epoch": False}},
    {"lr": STEP, "momentum": {**STEP, "by_epoch": False}},
    {},
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", ["set", "given", "set in between"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_schedules_go_on_from_what_is_set_or_given(
    make_runner: Any, schedule: dict[str, Any], how: str
) -> None:
    betas = len(how) % 2 == len(str(schedule)) % 3 % 2
    algorithm = "Adam" if betas else "SGD"
    old = {"lr": 0.1, **({"betas": (0.9, 0.99)} if betas else {"momentum": 0.9})}
    new = {"lr": 0.03, **({"betas": (0.6, 0.99)} if betas else {"momentum": 0.6})}
    kind = KINDS[len(str(schedule)) % 2]

    def set_new(each: Any) -> None:
        for group in each.param_groups:
            group.update(new)

    expected = train(make_runner, optimizer(algorithm, **new), 3, kind, **schedule)
    first = train(make_runner, optimizer(algorithm, **old), 3, kind, **schedule)
    if how == "set in between":
        runner = first
        runner.resume(file_of(first))
        runner.rates.seen.clear()
        set_new(runner.optimizer)
        runner.run([make_loader(BATCHES)], [("train", 1)])
    else:
        given = how == "given"
        runner = train(
            make_runner,
            optimizer(algorithm, **(new if given else old)),
            3,
            kind,
            resume=file_of(first),
            param_groups="given" if given else "file",
            set_after=None if given else set_new,
            hooks_first=len(str(schedule)) % 2 == 0,
            **schedule,
        )
    assert runner.rates.seen == expected.rates.seen[BATCHES:]


def test_what_is_set_between_two_runs_counts(make_runner: Any) -> None:
    runner = train(make_runner, optimizer("SGD", **SGD), 2, lr=STEP)
    runner.optimizer.param_groups[0]["lr"] = 8.0
    runner._max_epochs = 3
    runner.rates.seen.clear()
    runner.run([make_loader(BATCHES)], [("train", 1)])
    assert runner.current_lr() == [2.0]
    # What is loaded into the optimizer in between brings its own initial values.
    state = torch.load(file_of(runner))["optimizer"]
    runner.optimizer.load_state_dict(state)
    assert runner.optimizer.param_groups[0]["initial_lr"] == 0.1
    runner._max_epochs = 4
    runner.run([make_loader(BATCHES)], [("train", 1)])
    assert runner.current_lr() == [0.1 / 8]


def test_a_start_that_is_set_itself_counts_most(make_runner: Any) -> None:
    first = train(make_runner, optimizer("SGD", **SGD), 1, lr=STEP)
    again = train(
        make_runner,
        optimizer("SGD", **SGD),
        2,
        resume=file_of(first),
        set_after=lambda each: each.param_groups[0].update(lr=0.3, initial_lr=0.2),
        lr=STEP,
    )
    assert again.current_lr() == [0.1]


@pytest.mark.parametrize(
    ("schedule", "stays", "initial"),
    [
        ({"lr": STEP}, r"learning rate.*\(0\.\d+ in group 0, initially 0.1\)", {"lr": 0.1}),
        ({"lr": {"policy": "CosineAnnealing", "min_lr": 0}}, "learning rate", {"lr": 0.1}),
        ({"lr": {**CYCLE, "max_lr": 1.0}}, "learning rate.*initially 0.04", {}),
        ({"momentum": STEP}, r"momentum.*\(0\.\d+ in group 0, initially 0.9\)", {"momentum": 0.9}),
        ({"momentum": CYCLE}, "momentum.*initially 0.9", {"momentum": 0.9}),
        ({"lr": {**STEP, "warmup": "linear", "warmup_iters": 9}}, "learning rate", {"lr": 0.1}),
    ],
)
def test_a_schedule_that_is_dropped_leaves_no_value_in_silence(
    make_runner: Any,
    caplog: pytest.LogCaptureFixture,
    schedule: dict[str, Any],
    stays: str,
    initial: dict[str, float],
) -> None:
    kind = KINDS[len(stays) % 2]
    make = optimizer("SGD", **SGD)
    first = train(make_runner, make, 3, kind, **schedule)
    file = file_of(first, 2)
    left = {name: torch.load(file)["optimizer"]["param_groups"][0][name] for name in SGD}
    again = train(make_runner, make, 3, kind, resume=file)
    (text,) = warnings_in(caplog)
    assert re.search(f"had a schedule of the {stays}", text)
    assert {name: group_of(again)[name] for name in SGD} == left

    caplog.clear()
    again = train(make_runner, make, 3, kind, resume=file, param_groups="given")
    assert {name: group_of(again)[name] for name in SGD} == SGD
    settle = lambda each: each.param_groups[0].update(SGD)  # noqa: E731
    train(make_runner, make, 3, kind, resume=file, set_after=settle)
    assert warnings_in(caplog) == []
    # A schedule of another kind, or one that comes back later, starts from the initial value.
    if initial:
        name = next(iter(initial))
        other = {name: {"policy": "Step", "step": 100}}
        for source in (file, file_of(again, 3)):
            later = train(make_runner, make, 4, kind, resume=source, **other)
            assert group_of(later)[name] == initial[name]


def test_what_was_set_in_an_earlier_run_and_is_not_set_again_is_named(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither does a script that sets it each time warn, nor one that sets nothing at all."""
    make = optimizer("SGD", **SGD, weight_decay=0.1)
    set_some = lambda each: each.param_groups[0].update(lr=0.05, weight_decay=0.2)  # noqa: E731
    train(make_runner, make, 1, resume="auto", set_after=set_some)  # there is nothing yet
    train(make_runner, make, 2, resume="auto", set_after=set_some)
    last = train(make_runner, make, 3, resume="auto", set_after=set_some)
    assert warnings_in(caplog) == []
    again = train(make_runner, make, 4, resume=file_of(last, 3))
    (text,) = warnings_in(caplog)
    assert "lr of group 0 (0.05 in the file, 0.1 given)" in text
    assert "weight_decay of group 0 (0.2 in the file, 0.1 given)" in text
    assert again.current_lr() == [0.05]
    caplog.clear()
    again = train(make_runner, make, 4, resume=file_of(last, 3), param_groups="given")
    assert (again.current_lr(), warnings_in(caplog)) == ([0.1], [])


class Failing(Hook):
    def load_state_dict(self, state: Any) -> None:
        raise KeyError("this hook cannot")

    def state_dict(self) -> dict[str, Any]:
        return {"value": 1}


@pytest.mark.parametrize("param_groups", ["file", "given"])
def test_a_resume_that_fails_leaves_all_options_as_they_were(
    make_runner: Any, tmp_path: Path, param_groups: str
) -> None:
    first = train(make_runner, optimizer("SGD", **SGD), 2, lr=STEP, hooks=(Failing,))
    file = file_of(first).rename(tmp_path / "failing.pth")
    runner = train(make_runner, optimizer("SGD", **SGD, weight_decay=0.5), 2, lr=STEP)
    runner.optimizer.param_groups[0]["lr"] = 8.0
    before, record = group_of(runner), runner.group_options.state_dict()
    runner.register_hook(Failing())
    with pytest.raises(ValueError, match="this hook cannot"):
        runner.resume(file, param_groups=param_groups)
    assert group_of(runner) == before
    assert runner.group_options.state_dict() == record
    runner._max_epochs = 3
    runner.run([make_loader(BATCHES)], [("train", 1)])
    assert runner.current_lr() == [2.0]


@pytest.mark.parametrize("param_groups", ["file", "given"])
def test_fp32_masters_keep_the_options_that_count(make_runner: Any, param_groups: str) -> None:
    def make(weight_decay: float, resume: Any = None) -> Any:
        model = TinyModel().half()
        adam = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=weight_decay)
        runner = make_runner(model=model, optimizer=adam, max_epochs=1 if resume is None else 2)
        runner.register_hook(Fp16OptimizerHook(loss_scale=2.0), priority=40)
        runner.register_checkpoint_hook({"interval": 1})
        if resume is not None:
            runner.resume(resume, param_groups=param_groups)
            runner.optimizer.param_groups[0]["eps"] = 1e-4
        batches = [{name: value.half() for name, value in each.items()} for each in make_loader(2)]
        runner.run([batches], [("train", 1)])
        return runner

    runner = make(0.5, resume=file_of(make(0.0)))
    group = runner.optimizer.param_groups[0]
    assert group["weight_decay"] == (0.5 if param_groups == "given" else 0.0)
    assert group["eps"] == 1e-4


def test_a_run_that_emahook_resumes_is_scheduled_from_the_files_rate(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ema = lambda **arguments: lambda: EMAHook(**arguments)  # noqa: E731
    first = train(make_runner, optimizer("SGD", **SGD), 1, lr=STEP, hooks=(ema(),))
    resuming = ema(resume_from=str(file_of(first)))
    make = optimizer("SGD", lr=0.3, momentum=0.9)
    again = train(make_runner, make, 2, lr=STEP, hooks=(resuming,))
    assert again.rates.seen[0] == ([0.05], [0.9])
    assert "lr of group 0 (0.1 in the file, 0.3 given)" in caplog.text


@pytest.mark.sampled(2)
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [each for each in SCHEDULES if "lr" in each], ids=str)
def test_a_fixed_rate_after_another_schedule_is_the_initial_one(
    make_runner: Any,
    caplog: pytest.LogCaptureFixture,
    schedule: dict[str, Any],
    kind: type,
    by_epoch: bool,
) -> None:
    """From the first iteration on, whatever the runner counts."""
    first = train(make_runner, optimizer("SGD", **SGD), 2, kind, **schedule)
    fixed = {"policy": "fixed", "by_epoch": by_epoch}
    momentum = {"momentum": schedule["momentum"]} if "momentum" in schedule else {}
    again = train(
        make_runner, optimizer("SGD", **SGD), 4, kind, file_of(first, 2), lr=fixed, **momentum
    )
    assert [rates for rates, _ in again.rates.seen] == [[0.1]] * 4
    assert not [text for text in warnings_in(caplog) if "schedule" in text]
