"""Fail where hookrun has become slower, by ratios measured in one run.

    python benchmarks/check.py FOLDER            # of results that were measured just now
    make bench-check                             # measures them first

A figure fails where hookrun takes more than ``MARGIN`` above its recorded multiple of the floor, or
where torch by hand has gained as much on it. Ratios of small differences vary; so a figure that
fails should be measured again with more rounds before anyone looks for a cause.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headlines import best_of_torch, times_hookrun
from report import FOLDER, newest_results

MARGIN = 0.3


def worse(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[str]:
    """What has become worse of a figure by more than the margin, in words."""
    subject = recorded["subject"]
    before, now = (each["systems"][subject]["times_floor"] for each in (recorded, measured))
    if before is not None and now is not None and now > before * (1 + MARGIN):
        yield f"takes {now:.2f} times the floor, recorded are {before:.2f}"
    system = best_of_torch(recorded)
    if system is None or system not in measured["systems"]:
        return
    before, now = (times_hookrun(each, system) for each in (recorded, measured))
    if before is not None and now is not None and now < before / (1 + MARGIN):
        yield f"{system} takes {now:.2f} times hookrun's time, recorded are {before:.2f}"


def check(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> tuple[list[str], int]:
    """What has become worse of all figures that both have, and how many these are."""
    shared = [key for key in measured if key in recorded and "systems" in recorded[key]]
    faults = [
        f"{recorded[key]['title']}: {fault}"
        for key in shared
        for fault in worse(recorded[key], measured[key])
    ]
    return faults, len(shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the results that were measured just now")
    parser.add_argument("--recorded", type=Path, default=FOLDER / "results")
    arguments = parser.parse_args()
    recorded = newest_results(arguments.recorded)["figures"]
    faults, count = check(recorded, newest_results(arguments.folder)["figures"])
    print(f"{count} figures, {len(faults)} worse than recorded by more than {MARGIN:.0%}")
    if faults:
        sys.exit("\n".join(faults))
    if not count:
        sys.exit("nothing was compared: the results have no figure in common")


if __name__ == "__main__":
    main()
