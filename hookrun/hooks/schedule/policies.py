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
