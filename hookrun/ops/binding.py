"""When a step is bound, so that later ones need not read anew what has not changed."""

from __future__ import annotations

import os
from typing import Any

_MOST_UNBOUND = 64


class Binding:
    """How plans of one optimizer's steps have fared, and so when the next is made.

    Where plans fail again and again, ever more steps are left unbound before the next is made, up
    to 64. Where the environment variable ``HOOKRUN_STEPS`` is ``unbound``, none is made.
    """

    def __init__(self) -> None:
        self._allowed = os.environ.get("HOOKRUN_STEPS") != "unbound"
        self._failures = 0
        self._wait = 0
        self._own_step: Any = None
        #: Why the latest step was not bound; None if it was.
        self.reason: str | None = "it is the first" if self._allowed else "HOOKRUN_STEPS=unbound"

    def is_due(self) -> bool:
        """Whether to make a plan after the unbound step that was just taken."""
        if not self._allowed:
            return False
        self._wait -= 1
        return self._wait <= 0

    def made(self, optimizer: Any) -> None:
        """A plan was made of this optimizer's steps."""
        self._own_step = type(optimizer).step

    def is_replaced(self, optimizer: Any) -> bool:
        """Whether someone has replaced the class's ``step`` since; the plan sees the object's."""
        return type(optimizer).step is not self._own_step

    def held(self) -> None:
        """A plan took the latest step."""
        self._failures = 0
        self.reason = None

    def failed(self, reason: str) -> None:
        """A plan did not hold, or could not be made."""
        self.reason = reason
        self._failures += 1
        self._wait = min(2**self._failures, _MOST_UNBOUND)
