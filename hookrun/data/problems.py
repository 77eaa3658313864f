"""Warnings where a resumed run may see its data in another order than the saved run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .order_search import unwrapped

SAMPLER_FIX = (
    "hookrun.ResumableSampler always goes on in the same order, and so does a sampler that keeps "
    "its random state in attributes or returns it from state_dict()"
)


class Problem(NamedTuple):
    """Why a loader may go on in another order, and how to make it go on exactly."""

    what: str
    fix: str = SAMPLER_FIX


def warning_of(loader: Any, problems: Sequence[Problem]) -> str:
    """The text of the warning for these problems of a loader."""
    causes = "; ".join(dict.fromkeys(each.what for each in problems))
    fixes = "; ".join(dict.fromkeys(each.fix for each in problems))
    return (
        f"the data loader {type(unwrapped(loader)).__name__} may go on in another order than in "
        f"the run that was saved: {causes} ({fixes})"
    )
