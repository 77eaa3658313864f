"""The systems that hookrun is compared with, each given the same work; see ``README.md``.

A peer is a module with ``event(scenario)``, ``training_run(iterations, schedule, work_dir)`` and
``whole_training(work, loader, work_dir)``; those of whole trainings only have the last. Importing
it fails where its package is not installed.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from types import ModuleType

PEERS = {"MMCV": "run_mmcv", "MMEngine": "run_mmengine", "Ignite": "run_ignite"}
ALL_PEERS = PEERS | {"Lightning": "run_lightning", "HF Trainer": "run_hf_trainer"}


def load_peers(
    modules: Mapping[str, str] = PEERS,
) -> tuple[dict[str, ModuleType], dict[str, str]]:
    """The peers that are installed, by name, and why the others are missing."""
    found, missing = {}, {}
    for name, module in modules.items():
        try:
            found[name] = importlib.import_module(f"{__name__}.{module}")
        except ImportError as error:
            missing[name] = str(error)
            warnings.warn(
                f"{name} is left out of the comparison: {error}. benchmarks/peers/install.py "
                "installs it",
                stacklevel=2,
            )
    return found, missing
