"""``hookrun doctor``: the machine, the back ends, and what is missing."""

from __future__ import annotations

from .failures import Debug


def run(debug: Debug = False) -> None:
    """Show the native module, CPU, torch, Triton and GPU, the back end of each op, and what is
    missing.
    """
    from .doctor_report import report

    print("\n".join(report()))
