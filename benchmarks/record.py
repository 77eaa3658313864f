"""The results file: one JSON per machine and date, figures merged by key."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
DISTRIBUTIONS = (
    "hookrun",
    "torch",
    "triton",
    "numpy",
    "mmcv",
    "mmengine",
    "pytorch-ignite",
    "lightning",
    "transformers",
    "accelerate",
)


class Record:
    """The figures of this machine and day, written to its file as they come.

    Args:
        folder: of the results files.
        gpu: the GPU that was measured, with its ``name``, which the file is named after; None if it
            was the processor.
    """

    def __init__(self, folder: Path = RESULTS, gpu: Mapping[str, Any] | None = None) -> None:
        self.now = datetime.now(UTC)
        self.gpu = gpu
        name = _slug(cpu_name() if gpu is None else gpu["name"])
        self.path = folder / f"{name}-{self.now:%Y-%m-%d}.json"
        self.figures: dict[str, Any] = {}

    def add(self, key: str, figure: Mapping[str, Any]) -> None:
        """Write a figure; one of the same key from an earlier run of the day is replaced."""
        measured = {"commit": commit(), "measured": self.now.isoformat(timespec="seconds")}
        self.figures[key] = {**figure, **measured}
        self._save()

    def _save(self) -> None:
        """Write the file, whole or not at all."""
        known = json.loads(self.path.read_text())["figures"] if self.path.exists() else {}
        document = {
            "machine": machine() | ({} if self.gpu is None else {"gpu": dict(self.gpu)}),
            "versions": versions(),
            "figures": dict(sorted({**known, **self.figures}.items())),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        os.replace(partial, self.path)


def cpu_name() -> str:
    """The processor's model name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform(terse=True)}


def versions() -> dict[str, str | None]:
    """The versions of Python and of what is compared; None where it is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in DISTRIBUTIONS}


def commit() -> str:
    """The commit that was measured, marked where hookrun's sources differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    sources = ("hookrun", "csrc", "kernels", "benchmarks/*.py")
    changed = _git("status", "--porcelain", "--", *sources) if head else ""
    return (head or "unknown") + ("+changes" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT.parent), *arguments]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
