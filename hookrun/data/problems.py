"""What a user is told where a resumed run may not go on in the order of the one that was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from .order_search import unwrapped

SAMPLER_CURE = (
    "hookrun.ResumableSampler always goes on in its order, and so does a sampler that keeps its "
    "random state in attributes or gives it by state_dict()"
)


class Problem(NamedTuple):
    """Why a loader may go on in another order, and what makes it go on exactly."""

    what: str
    cure: str = SAMPLER_CURE


def warning_of(loader: Any, problems: Sequence[Problem]) -> str:
    """The sentence that tells of these problems of a loader."""
    causes = "; ".join(dict.fromkeys(each.what for each in problems))
    cures = "; ".join(dict.fromkeys(each.cure for each in problems))
    return (
        f"the data loader {type(unwrapped(loader)).__name__} may go on in another order than in "
        f"the run that was saved: {causes} ({cures})"
    )
