"""Policies that a learning-rate hook and a momentum hook make of arguments of the same names."""

from __future__ import annotations

from typing import Any

from hookrun import schedules
from hookrun.schedules import Policy

from .. import _arguments as check


def step_policy(hook: Any, minimum: str) -> Policy:
    """Multiply by ``hook.gamma`` at every ``hook.step``-th step, or at those it lists.

    Args:
        minimum: the name of the argument that limits the value.
    """
    gamma, lowest = check.positive(hook, "gamma"), check.minimum(hook, minimum)
    if isinstance(hook.step, int):
        return schedules.Step(check.count(hook, "step"), gamma, lowest)
    return schedules.MultiStep(check.counts(hook, "step", increasing=True), gamma, lowest)


def cyclic_policy(hook: Any) -> Policy:
    """Cycles through ``hook.target_ratio``."""
    return schedules.Cyclic(
        *check.peak_and_end(hook, "target_ratio"),
        times=check.count(hook, "cyclic_times"),
        up=check.part(hook, "step_ratio_up", below_one=True),
        strategy=check.choice(hook, "anneal_strategy", ("cos", "linear")),
        gamma=check.positive(hook, "gamma", high=1.0),
    )


def check_cycles_fit(hook: Any, total: int | None) -> None:
    """Refuse more cycles than the run has iterations (None: not known).

    Raises:
        ValueError: they do not fit.
    """
    if total is not None and hook.cyclic_times > total:
        raise check.wrong(hook, "cyclic_times", f"at most {total}, the iterations of the run")


def by_iteration_only(hook: Any) -> None:
    """Refuse to count epochs.

    Raises:
        ValueError: ``by_epoch`` is true.
    """
    if hook.by_epoch:
        raise check.wrong(hook, "by_epoch", "False, since the policy counts iterations")
