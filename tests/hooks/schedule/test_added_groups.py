"""Parameter groups that are added, replaced or taken out in mid-run follow the schedules too."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import (
    ClosureHook,
    CyclicLrUpdaterHook,
    CyclicMomentumUpdaterHook,
    EpochBasedRunner,
    IterBasedRunner,
    LinearAnnealingLrUpdaterHook,
    LinearAnnealingMomentumUpdaterHook,
    OneCycleLrUpdaterHook,
    OneCycleMomentumUpdaterHook,
    OptimizerHook,
    StepLrUpdaterHook,
    StepMomentumUpdaterHook,
)
from tests.hooks.schedule.lr_support import EPOCHS, HOOK_MAKERS, LENGTH, SETTINGS, in_python
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
BATCHES = list(make_loader(LENGTH))
LR_HOOKS: dict[str, Callable[..., Any]] = {
    **HOOK_MAKERS,
    "Cyclic": lambda **kw: CyclicLrUpdaterHook(**{**kw, "by_epoch": False}),
    "OneCycle": lambda **kw: OneCycleLrUpdaterHook(max_lr=1.0, **{**kw, "by_epoch": False}),
    "subclass": lambda **kw: Overriding(min_lr_ratio=0.1, **kw),
}
MOMENTUM_HOOKS: dict[str, Callable[..., Any]] = {
    "Step": lambda **kw: StepMomentumUpdaterHook(step=[1, 2], gamma=0.9, **kw),
    "LinearAnnealing": lambda **kw: LinearAnnealingMomentumUpdaterHook(min_momentum=0.2, **kw),
    "Cyclic": lambda **kw: CyclicMomentumUpdaterHook(**{**kw, "by_epoch": False}),
    "OneCycle": lambda **kw: OneCycleMomentumUpdaterHook(**{**kw, "by_epoch": False}),
}
# The event at which a group is added, and the number of its firing.
MOMENTS = [
    ("before_train_epoch", 1),
    ("before_train_iter", 0),
    ("before_train_iter", 5),
    ("after_train_iter", 2),
    ("after_train_iter", 3),
    ("after_train_epoch", 0),
]


class Overriding(LinearAnnealingLrUpdaterHook):
    def get_lr(self, runner: Any, base_lr: float) -> float:
        return super().get_lr(runner, base_lr) / 2


def make_groups(*settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"params": [torch.nn.Parameter(torch.ones(1))], **each} for each in settings]


FIRST, ADDED = {"lr": 0.1, "momentum": 0.9}, {"lr": 0.03, "momentum": 0.5}


def at(runner: Any, event: str, number: int, act: Callable[[], object]) -> None:
    """Act once, when the event fires for the numbered time."""
    left = [number]

    def count(_: Any) -> None:
        if left[0] == 0:
            act()
        left[0] -= 1

    runner.register_hook(ClosureHook(event, count))


def train(make_runner: MakeRunner, hook: Any, optimizer: Any, kind: type = EpochBasedRunner) -> Any:
    limit = {"max_epochs": EPOCHS} if kind is EpochBasedRunner else {"max_iters": EPOCHS * LENGTH}
    runner = make_runner(kind, optimizer=optimizer, **limit)
    runner.register_hook(hook, priority="VERY_HIGH")
    runner.seen = []
    optimizers = optimizer.values() if isinstance(optimizer, dict) else [optimizer]

    def look(_: Any) -> None:
        groups = [group for each in optimizers for group in each.param_groups]
        runner.seen.append(
            [(group["lr"], group.get("momentum", group.get("betas", [0])[0])) for group in groups]
        )

    runner.register_hook(ClosureHook("after_train_iter", look), priority="HIGHEST")
    return runner


def run(runner: Any) -> Any:
    runner.run([BATCHES], [("train", 1)])
    return runner.seen


def check_moments(
    make_runner: MakeRunner,
    make_hook: Callable[[], Any],
    kind: type,
    moments: Sequence[tuple[str, int]],
) -> None:
    """A group that is added follows the values of one that was there from the start."""
    there = run(train(make_runner, make_hook(), sgd(FIRST, ADDED), kind))
    for event, number in moments:
        optimizer = sgd(FIRST)
        hook = make_hook()
        runner = train(make_runner, hook, optimizer, kind)
        add = functools.partial(optimizer.add_param_group, *make_groups(ADDED))
        at(runner, event, number, add)
        seen = run(runner)
        added = next(i for i, values in enumerate(seen) if len(values) == 2)
        if hook.by_epoch:
            first = -(-added // LENGTH) * LENGTH  # the next epoch, if it has not just begun
            if event == "before_train_iter" and first == added:
                first += LENGTH
        else:
            first = added + (event == "before_train_iter")
        for values in seen[added:first]:  # not seen yet
            assert values[1] == (ADDED["lr"], ADDED["momentum"])
        assert seen[first:] == there[first:]
        assert [values[0] for values in seen] == [values[0] for values in there]


def sgd(*groups: dict[str, Any]) -> torch.optim.SGD:
    return torch.optim.SGD(make_groups(*groups), lr=0.1)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("policy", LR_HOOKS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("reference", [False, True])
def test_learning_rates_of_added_groups(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    setting: str,
    reference: bool,
) -> None:
    if reference:
        in_python(monkeypatch)
    moments = MOMENTS if policy in ("Step", "OneCycle", "subclass") else MOMENTS[2:4]
    make = lambda: LR_HOOKS[policy](**SETTINGS[setting])  # noqa: E731
    check_moments(make_runner, make, EpochBasedRunner, moments)


@pytest.mark.parametrize("policy", LR_HOOKS)
def test_learning_rates_of_added_groups_in_runs_by_iteration(
    make_runner: MakeRunner, policy: str
) -> None:
    make = lambda: LR_HOOKS[policy](by_epoch=False, warmup="exp", warmup_iters=6)  # noqa: E731
    check_moments(make_runner, make, IterBasedRunner, MOMENTS[1:5])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("policy", MOMENTUM_HOOKS)
@pytest.mark.parametrize("setting", ["by epoch", "by iteration", "by iteration, warm"])
@pytest.mark.parametrize("reference", [False, True])
def test_momenta_of_added_groups(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    setting: str,
    reference: bool,
) -> None:
    if reference:
        in_python(monkeypatch)
    make = lambda: MOMENTUM_HOOKS[policy](**SETTINGS[setting])  # noqa: E731
    check_moments(make_runner, make, EpochBasedRunner, MOMENTS)


@pytest.mark.parametrize("by_epoch", [True, False])
def test_betas_of_added_groups_and_groups_in_a_dict_of_optimizers(
    make_runner: MakeRunner, by_epoch: bool
) -> None:
    def adam(*betas: float) -> torch.optim.Adam:
        return torch.optim.Adam(make_groups(*({"betas": (each, 0.99)} for each in betas)))

    hook = lambda: StepMomentumUpdaterHook(step=2, gamma=0.5, by_epoch=by_epoch)  # noqa: E731
    there = run(train(make_runner, hook(), {"a": sgd(FIRST), "b": adam(0.8, 0.4)}))
    optimizers = {"a": sgd(FIRST), "b": adam(0.8)}
    runner = train(make_runner, hook(), optimizers)
    group = make_groups({"betas": (0.4, 0.99)})[0]
    at(runner, "after_train_iter", 4, lambda: optimizers["b"].add_param_group(group))
    assert run(runner)[5:] == there[5:]
    assert optimizers["b"].param_groups[1]["betas"][1] == 0.99


@pytest.mark.parametrize("by_epoch", [True, False])
def test_an_optimizer_that_is_added_to_the_dict(make_runner: MakeRunner, by_epoch: bool) -> None:
    hook = StepLrUpdaterHook(step=1, gamma=0.5, by_epoch=by_epoch)
    runner = train(make_runner, hook, {"a": sgd(FIRST)})
    new = sgd({"lr": 0.5, "momentum": 0.0})
    at(runner, "after_train_iter", 4, lambda: runner.optimizer.update(b=new))
    run(runner)
    assert new.param_groups[0]["lr"] == 0.5 * 0.5 ** (2 if by_epoch else 11)
    assert hook.base_lr == {"a": [0.1], "b": [0.5]}


class TestGroupsThatChange:
    @pytest.mark.parametrize("by_epoch", [True, False])
    @pytest.mark.parametrize("reference", [False, True])
    def test_replaced_removed_moved(
        self,
        make_runner: MakeRunner,
        monkeypatch: pytest.MonkeyPatch,
        by_epoch: bool,
        reference: bool,
    ) -> None:
        if reference:
            in_python(monkeypatch)
        optimizer = sgd({"lr": 1.0}, {"lr": 2.0}, {"lr": 4.0})
        groups = optimizer.param_groups
        hook = StepLrUpdaterHook(step=10**6, by_epoch=by_epoch)
        runner = train(make_runner, hook, optimizer)
        new = [*make_groups({"lr": 8.0}), *make_groups({"lr": 16.0})]

        def replace(group: dict[str, Any], *positions: int) -> None:
            del groups[positions[0]]
            optimizer.add_param_group(group)
            groups.insert(positions[0], groups.pop())

        def everything() -> None:
            groups.clear()
            optimizer.add_param_group(new[1])

        at(runner, "after_train_iter", 1, lambda: groups.pop(0))
        at(runner, "after_train_iter", 3, groups.reverse)
        at(runner, "after_train_iter", 5, lambda: replace(new[0], 0))
        at(runner, "after_train_iter", 7, everything)
        seen = [[rate for rate, _ in values] for values in run(runner)]
        assert seen[1] == [1.0, 2.0, 4.0]
        assert seen[3] == [2.0, 4.0]
        assert seen[5] == [4.0, 2.0]
        assert seen[7] == [8.0, 2.0]
        assert seen[9] == [16.0]
        assert hook.base_lr == [16.0]

    @pytest.mark.parametrize("by_epoch", [True, False])
    def test_a_loaded_state_keeps_base_values_that_were_changed_by_hand(
        self, make_runner: MakeRunner, by_epoch: bool
    ) -> None:
        optimizer = sgd({"lr": 1.0})
        hook = StepLrUpdaterHook(step=10**6, by_epoch=by_epoch)
        runner = train(make_runner, hook, optimizer)
        state = copy.deepcopy(optimizer.state_dict())
        at(runner, "after_train_iter", 1, lambda: hook.base_lr.__setitem__(0, 0.5))
        at(runner, "after_train_iter", 4, lambda: optimizer.load_state_dict(state))
        rates = [rate for ((rate, _),) in run(runner)]
        assert rates[8 if by_epoch else 5 :] == [0.5] * (4 if by_epoch else 7)

    def test_base_values_that_were_given_with_the_group_count(
        self, make_runner: MakeRunner
    ) -> None:
        optimizer = sgd({"lr": 1.0})
        hook = StepLrUpdaterHook(step=10**6, by_epoch=False)
        runner = train(make_runner, hook, optimizer)

        def add() -> None:
            optimizer.add_param_group(*make_groups({"lr": 0.1}))
            hook.base_lr = [*hook.base_lr, 0.7]  # as was needed before

        at(runner, "after_train_iter", 1, add)
        assert [rate for rate, _ in run(runner)[-1]] == [1.0, 0.7]

    def test_an_initial_lr_of_its_own_counts(self, make_runner: MakeRunner) -> None:
        optimizer = sgd({"lr": 1.0})
        runner = train(make_runner, StepLrUpdaterHook(step=1, by_epoch=False), optimizer)
        group = make_groups({"lr": 0.1, "initial_lr": 10.0})[0]
        at(runner, "after_train_iter", 1, lambda: optimizer.add_param_group(group))
        assert run(runner)[2][1][0] == pytest.approx(10.0 * 0.1**2)

    def test_a_tensor_that_is_the_default_begins_as_it_was_given(
        self, make_runner: MakeRunner
    ) -> None:
        given = torch.tensor(0.1)
        optimizer = torch.optim.SGD(make_groups({}), lr=given)
        runner = train(make_runner, StepLrUpdaterHook(step=1, gamma=0.5, by_epoch=False), optimizer)
        at(runner, "after_train_iter", 3, lambda: optimizer.add_param_group(*make_groups({})))
        run(runner)
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first is given
        assert second is not given
        assert first == second == pytest.approx(0.1 * 0.5**11)

    def test_a_group_without_momentum_is_refused(self, make_runner: MakeRunner) -> None:
        optimizer = sgd(FIRST)
        runner = train(make_runner, StepMomentumUpdaterHook(step=1), optimizer)
        (raw,) = make_groups({"lr": 0.1})
        at(runner, "after_train_iter", 1, lambda: optimizer.param_groups.append(raw))
        with pytest.raises(ValueError, match="'momentum' or 'betas'"):
            run(runner)


class TestListsOfOneCycle:
    def test_a_group_that_the_list_lacks_starts_from_its_own_rate(
        self, make_runner: MakeRunner, tmp_path: Path
    ) -> None:
        def hook() -> OneCycleLrUpdaterHook:
            return OneCycleLrUpdaterHook(max_lr=[1.0], div_factor=10, pct_start=0.5)

        there = run(
            train(
                make_runner,
                OneCycleLrUpdaterHook(max_lr=[1.0, 0.3], div_factor=10, pct_start=0.5),
                sgd(FIRST, ADDED),
            )
        )
        seen, rest = stopped_and_resumed(make_runner, tmp_path, hook)
        for values, expected in zip(seen[3:], there[3:], strict=True):
            assert [rate for rate, _ in values] == pytest.approx([rate for rate, _ in expected])
        assert rest == seen[7:]

    def test_momenta(self, make_runner: MakeRunner, tmp_path: Path) -> None:
        def hook() -> OneCycleMomentumUpdaterHook:
            return OneCycleMomentumUpdaterHook(base_momentum=[0.6], max_momentum=0.9)

        optimizer = sgd(FIRST)
        runner = train(make_runner, OneCycleMomentumUpdaterHook([0.6], [0.9]), optimizer)
        at(runner, "after_train_iter", 2, lambda: optimizer.add_param_group(*make_groups(ADDED)))
        run(runner)
        group = optimizer.param_groups[1]
        assert group["max_momentum"] == 0.5
        assert group["base_momentum"] == pytest.approx(0.5 * 0.6 / 0.9)
        seen, rest = stopped_and_resumed(make_runner, tmp_path, hook)
        assert rest == seen[7:]


def stopped_and_resumed(
    make_runner: MakeRunner, folder: Path, make_hook: Callable[[], Any], save_at: int = 7
) -> tuple[list[Any], list[Any]]:
    """The values of a run to which a group is added, and those of its resumption."""

    def prepared(optimizer: Any) -> Any:
        runner = train(make_runner, make_hook(), optimizer)

        def add(_: Any) -> None:
            if runner.iter == 2 and len(optimizer.param_groups) == 1:
                optimizer.add_param_group(*make_groups(ADDED))

        runner.register_hook(ClosureHook("after_train_iter", add))
        return runner

    runner = prepared(sgd(FIRST))

    def save(_: Any) -> None:
        if runner.iter + 1 == save_at:
            runner.save_checkpoint(folder, filename_tmpl="saved.pth")

    runner.register_hook(ClosureHook("after_train_iter", save), priority="LOWEST")
    seen = run(runner)
    again = prepared(sgd(FIRST, {"lr": 77.0, "momentum": 0.7}))
    again.resume(folder / "saved.pth")
    return seen, run(again)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("save_at", [3, 4, 6, 8])
@pytest.mark.parametrize("setting", ["by epoch", "by epoch, warm", "by iteration, warm"])
def test_a_run_and_its_resumption_agree(
    make_runner: MakeRunner, tmp_path: Path, setting: str, save_at: int
) -> None:
    for make in (LR_HOOKS["Step"], LR_HOOKS["OneCycle"], *MOMENTUM_HOOKS.values()):
        options = {k: v for k, v in SETTINGS[setting].items() if k != "warmup_by_epoch"}
        hook = lambda make=make, options=options: make(**options)  # noqa: E731
        seen, rest = stopped_and_resumed(make_runner, tmp_path, hook, save_at)
        assert rest == seen[save_at:]


def test_added_parameters_are_trained(make_runner: MakeRunner) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD([model.fc.bias], lr=0.1, momentum=0.9)
    runner = make_runner(model=model, optimizer=optimizer, max_epochs=EPOCHS)
    runner.register_hook(OptimizerHook())
    runner.register_lr_hook({"policy": "poly", "by_epoch": False})
    before = model.fc.weight.detach().clone()
    at(
        runner,
        "before_train_epoch",
        1,
        lambda: optimizer.add_param_group({"params": [model.fc.weight], "lr": 0.01}),
    )
    runner.run([make_loader(LENGTH)], [("train", 1)])
    assert not torch.equal(model.fc.weight, before)


def test_hooks_do_not_keep_parameters_after_the_run(make_runner: MakeRunner) -> None:
    hook = StepLrUpdaterHook(step=1)
    run(train(make_runner, hook, sgd(FIRST)))
    assert hook._known is None
    assert hook.base_lr == [0.1]
