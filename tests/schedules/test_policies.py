"""The policies themselves: C++ against their definition, and the ends of their range."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun.schedules import (
    STRATEGIES,
    WARMUP_KINDS,
    WSD,
    CosineAnnealing,
    CosineRestart,
    Cyclic,
    Exp,
    Fixed,
    FlatCosineAnnealing,
    Inv,
    LinearAnnealing,
    MultiStep,
    OneCycle,
    Policy,
    Poly,
    Sequential,
    Step,
    Target,
    Warmup,
)

bases = st.floats(1e-6, 10.0)
parts = st.floats(0.0, 1.0)
factors = st.floats(0.05, 1.5)
steps = st.integers(0, 300)
totals = st.integers(1, 200)
counts = st.integers(1, 50)
strategies = st.sampled_from(STRATEGIES)
targets = st.builds(Target, st.floats(0.0, 2.0), st.booleans())
marks = st.lists(counts, min_size=1, max_size=5).map(lambda gaps: tuple(sorted(gaps)))

restarts = st.lists(st.tuples(counts, factors), min_size=1, max_size=4).flatmap(
    lambda pairs: st.builds(
        CosineRestart,
        st.just(tuple(period for period, _ in pairs)),
        st.just(tuple(weight for _, weight in pairs)),
        targets,
    )
)
simple = st.one_of(
    st.just(Fixed()),
    st.builds(Step, counts, factors, st.floats(-1.0, 1.0)),
    st.builds(MultiStep, marks, factors),
    st.builds(Exp, st.floats(0.5, 1.01)),
    st.builds(Inv, parts, st.floats(-1.0, 3.0)),
    st.builds(Poly, st.floats(0.0, 4.0), parts),
    st.builds(CosineAnnealing, targets),
    st.builds(LinearAnnealing, targets),
    st.builds(FlatCosineAnnealing, parts, targets),
    restarts,
    st.builds(Cyclic, factors, parts, counts, st.floats(0.0, 0.99), strategies, parts),
    st.builds(OneCycle, parts, factors, parts, strategies, st.booleans(), st.integers(0, 300)),
    st.builds(WSD, st.integers(0, 100), parts, strategies, targets),
)


def in_sequence(policies: st.SearchStrategy[Policy]) -> st.SearchStrategy[Policy]:
    return st.lists(policies, min_size=2, max_size=4).flatmap(
        lambda parts: st.builds(
            Sequential,
            st.just(tuple(parts)),
            st.lists(counts, min_size=len(parts) - 1, max_size=len(parts) - 1).map(
                lambda gaps: tuple(sorted(gaps))
            ),
        )
    )


any_policy = st.one_of(simple, in_sequence(simple))


@given(any_policy, bases, steps, totals)
@settings(max_examples=1000)
def test_native_is_the_definition_to_the_last_bit(
    policy: Policy, base: float, step: int, total: int
) -> None:
    native = policy.native()
    assert native(base, step, total) == policy(base, step, total)
    assert native.needs_total == policy.needs_total


@given(st.sampled_from(WARMUP_KINDS), counts, st.floats(0.001, 1.0), steps)
def test_native_warmup_is_the_definition_to_the_last_bit(
    kind: str, iters: int, ratio: float, step: int
) -> None:
    warmup = Warmup(kind, iters, ratio)
    assert warmup.native().factor(step) == warmup.factor(step)


@given(any_policy, bases, st.integers(0, 1_000), totals)
def test_every_value_is_finite(policy: Policy, base: float, step: int, total: int) -> None:
    assert math.isfinite(policy.native()(base, step, total))


ANNEALING = [
    CosineAnnealing(Target(0.02)),
    LinearAnnealing(Target(0.2, relative=True)),
    FlatCosineAnnealing(0.5, Target(0.02)),
    Poly(0.9, 0.02),
    *[WSD(3, 0.0, strategy, Target(0.02)) for strategy in STRATEGIES],
    CosineRestart((4, 6), (1.0, 0.5), Target(0.02)),
    Sequential((Fixed(), CosineAnnealing(Target(0.02))), (4,)),
]


@pytest.mark.parametrize("policy", ANNEALING, ids=repr)
def test_annealing_stays_at_its_target_past_the_end(policy: Policy) -> None:
    total, base = 10, 0.1
    assert policy(base, 0, total) == pytest.approx(base, rel=1e-15)
    assert policy(base, total - 1, total) > 0.02
    for step in (total, total + 1, 10 * total):
        assert policy(base, step, total) == pytest.approx(0.02, rel=1e-15)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_ends_with_the_last_step(strategy: str, three_phase: bool) -> None:
    policy = OneCycle(0.3, 25.0, 1e-4, strategy, three_phase)
    for step in (9, 10, 1000):
        assert policy(0.1, step, 10) == pytest.approx(1e-5, rel=1e-12)


@pytest.mark.parametrize("total", [1, 2, 10])
def test_one_cycle_without_a_climb_begins_at_the_peak(total: int) -> None:
    policy = OneCycle(1.0 / total, 25.0, 1e-4, "cos", three_phase=False)
    assert policy(0.1, 0, total) == pytest.approx(2.5)


def test_cycles_go_on_past_the_end() -> None:
    policy = Cyclic(10.0, 1e-4, 2, 0.4, "cos", 1.0)
    values = [policy(0.1, step, 10) for step in range(30)]
    assert values[:5] * 6 == pytest.approx(values)


def test_a_cycle_that_never_climbs_shrinks_from_its_peak() -> None:
    policy = Cyclic(peak=3.0, end=0.5, times=2, up=0.0, strategy="linear", gamma=0.5)
    assert policy(1.0, 0, 8) == 3.0
    assert policy(1.0, 4, 8) == 2.0  # halfway back to the base value of 1


def test_one_step_runs() -> None:
    for policy in ANNEALING[:4]:
        assert policy(0.1, 0, 1) == pytest.approx(0.1, rel=1e-15)
    assert WSD(3, 0.0, "linear", Target(0.0))(0.1, 0, 1) == 0.1


def test_wsd_by_steps_and_by_ratio_agree() -> None:
    by_steps, by_ratio = (WSD(n, r, "cos", Target(0.0)) for n, r in ((25, 0.0), (0, 0.25)))
    assert [by_steps(1.0, step, 100) for step in range(101)] == [
        by_ratio(1.0, step, 100) for step in range(101)
    ]


def test_a_sequence_gives_each_policy_a_run_of_its_own() -> None:
    policy = Sequential((CosineAnnealing(Target(0.0)), LinearAnnealing(Target(0.0))), (4,))
    first = [CosineAnnealing(Target(0.0))(0.1, step, 4) for step in range(4)]
    second = [LinearAnnealing(Target(0.0))(0.1, step, 6) for step in range(6)]
    assert [policy(0.1, step, 10) for step in range(10)] == first + second
