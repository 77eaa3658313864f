"""Policies that are none are refused where they are made, in Python and in C++ alike."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import Hook, LrUpdaterHook, _native
from hookrun.schedules import Target, Warmup, policies
from tests.support import make_loader

ZERO = Target(0.0)
BAD: list[tuple[str, tuple[Any, ...], str]] = [
    ("Step", (0, 0.1), "period"),
    ("Step", (-3, 0.1), "period"),
    ("Step", (3, math.nan), "gamma"),
    ("MultiStep", ((5, 2), 0.1), "milestones"),
    ("MultiStep", ((-1,), 0.1), "milestones"),
    ("MultiStep", ((1,), math.inf), "gamma"),
    ("Exp", (math.nan,), "gamma"),
    ("Inv", (-1.0, 0.5), "gamma"),
    ("Inv", (1.0, math.inf), "power"),
    ("Poly", (-1.0, 0.0), "power"),
    ("Poly", (1.0, math.nan), "end"),
    ("FlatCosineAnnealing", (1.5, ZERO), "start_percent"),
    ("FlatCosineAnnealing", (math.nan, ZERO), "start_percent"),
    ("CosineRestart", ((4, 0), (1.0, 1.0), ZERO), "periods"),
    ("CosineRestart", ((4, 5), (1.0,), ZERO), "weight"),
    ("CosineRestart", ((4,), (1.0, 1.0), ZERO), "weight"),
    ("Cyclic", (10.0, 0.1, 0, 0.4, "cos", 1.0), "times"),
    ("Cyclic", (10.0, 0.1, 1, math.inf, "cos", 1.0), "up"),
    ("Cyclic", (10.0, 0.1, 1, 0.4, "sine", 1.0), "cos"),
    ("OneCycle", (-0.1, 10.0, 0.1, "cos", False, 0), "pct_start"),
    ("OneCycle", (0.3, 10.0, 0.1, "cos", False, -1), "total_steps"),
    ("OneCycle", (0.3, math.nan, 0.1, "cos", False, 5), "peak"),
    ("WSD", (-1, 0.1, "cos", ZERO), "decay_steps"),
    ("WSD", (0, 1e300, "cos", ZERO), "decay_ratio"),
]


def make_native(name: str, arguments: tuple[Any, ...]) -> _native.Policy:
    """The policy in C++, where a target is two arguments, always the last ones."""
    flat = [part for each in arguments for part in (each if isinstance(each, Target) else (each,))]
    policy: _native.Policy = getattr(_native.policies, name)(*flat)
    return policy


@pytest.mark.parametrize(("name", "arguments", "names"), BAD)
def test_what_makes_no_schedule_is_refused(
    name: str, arguments: tuple[Any, ...], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        getattr(policies, name)(*arguments)
    with pytest.raises(ValueError, match=names):
        make_native(name, arguments)


def test_parts_of_a_sequence_that_do_not_fit_are_refused() -> None:
    part = policies.Exp(0.5)
    for parts, milestones in [
        ((), ()),
        ((part,), (3,)),
        ((part, part), (3, 2)),
        ((part,) * 3, (5, 2)),
    ]:
        with pytest.raises(ValueError, match=r"milestones|policies"):
            policies.Sequential(parts, milestones)
        with pytest.raises(ValueError, match="milestones"):
            _native.policies.Sequential([each.native() for each in parts], milestones)
    with pytest.raises((TypeError, ValueError)):
        _native.policies.Sequential([None], [])  # type: ignore[list-item]


@pytest.mark.parametrize(("iters", "ratio"), [(-1, 0.1), (5, 0.0), (5, math.nan), (5, 1.5)])
def test_a_warm_up_that_is_none_is_refused(iters: int, ratio: float) -> None:
    for make in (Warmup, _native.make_warmup):
        with pytest.raises(ValueError, match=r"iters|ratio"):
            make("linear", iters, ratio)


def test_steps_that_no_run_has_are_refused() -> None:
    policy = policies.CosineAnnealing(ZERO).native()
    for step, total in [(2**62, 1), (1, 2**62), (-(2**63), 2**63 - 1)]:
        with pytest.raises(ValueError, match="step"):
            policy(0.1, step, total)


def test_a_hook_whose_own_policy_is_none_ends_the_run_with_that(make_runner: Any) -> None:
    class Zero(LrUpdaterHook):
        def make_policy(self) -> policies.Policy:
            return policies.Step(0, 0.1)

    runner = make_runner()
    runner.register_hook(Zero(by_epoch=False))
    with pytest.raises(ValueError, match="period must be at least 1, not 0"):
        runner.run([make_loader(2)], [("train", 1)])


@pytest.mark.parametrize("last", [2**40, 2**62, sys.maxsize, 10**30])
def test_a_period_for_ever(make_runner: Any, last: int) -> None:
    rates = []

    class See(Hook):
        def after_train_iter(self, runner: Any) -> None:
            rates.append(runner.current_lr()[0])

    runner = make_runner(max_epochs=1)
    runner.register_lr_hook(
        {
            "policy": "CosineRestart",
            "periods": [2, last],
            "restart_weights": [1, 1],
            "min_lr": 0.0,
            "by_epoch": False,
        }
    )
    runner.register_hook(See())
    runner.run([make_loader(5)], [("train", 1)])
    assert rates == pytest.approx([0.1, 0.05, 0.1, 0.1, 0.1])


counts = st.integers(-3, 12) | st.sampled_from([2**31, 2**61, 2**63 - 1, 10**30])
reals = st.floats(-2.0, 3.0) | st.sampled_from([math.nan, math.inf, -math.inf])
targets = st.builds(Target, st.floats(0.0, 2.0), st.booleans())
strategies = st.sampled_from(["cos", "linear", "1-sqrt"])
FIELDS: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "Step": (counts, reals, reals),
    "MultiStep": (st.lists(counts, max_size=4).map(tuple), reals, reals),
    "Exp": (reals,),
    "Inv": (reals, reals),
    "Poly": (reals, reals),
    "FlatCosineAnnealing": (reals, targets),
    "CosineRestart": (
        st.lists(counts, max_size=3).map(tuple),
        st.lists(st.floats(0.0, 2.0), max_size=3).map(tuple),
        targets,
    ),
    "Cyclic": (reals, reals, counts, reals, strategies, reals),
    "OneCycle": (reals, reals, reals, strategies, st.booleans(), counts),
    "WSD": (counts, reals, strategies, targets),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("examples", [50, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FIELDS)
def test_random_policies_are_refused_by_both_or_equal(name: str, examples: int) -> None:
    @settings(max_examples=examples)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        compare_random(name, data)

    check()


def compare_random(name: str, data: st.DataObject) -> None:
    arguments = data.draw(st.tuples(*FIELDS[name]))
    try:
        policy = getattr(policies, name)(*arguments)
    except ValueError:
        with pytest.raises((ValueError, TypeError), match=name):  # a count beyond C++'s: TypeError
            make_native(name, arguments)
        return
    native = policy.native()
    if native is None:  # a cycle of more steps than C++ counts
        assert name == "OneCycle"
        assert arguments[-1] >= 2**63
        return
    for step in data.draw(st.lists(counts.filter(lambda step: 0 <= step < 2**40), min_size=3)):
        total = data.draw(counts.filter(lambda total: 0 <= total < 2**62))
        try:
            expected = policy(0.1, step, total)
        except (OverflowError, ZeroDivisionError):
            continue  # where C++ has an infinity
        assert native(0.1, step, total) == pytest.approx(expected, rel=1e-9, nan_ok=True)
