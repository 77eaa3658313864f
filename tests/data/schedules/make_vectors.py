"""Makes vectors.npz: what MMCV 1.7.2 sets over runs with random schedules.

Run it from the repository's root with a Python that has MMCV:

    python tests/data/schedules/make_vectors.py
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

SCHEDULES_PER_KIND = 250
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from tests.schedules.drawing import (  # noqa: E402
    LR_KINDS,
    MOMENTUM_KINDS,
    draw_hook,
    draw_run,
)
from tests.schedules.driving import record_calls  # noqa: E402


def mmcv_hook(config: dict[str, Any], module: Any) -> Any:
    """MMCV's hook of the config; its ratios must be tuples, which JSON does not have."""
    arguments = dict(config)
    if isinstance(arguments.get("target_ratio"), list):
        arguments["target_ratio"] = tuple(arguments["target_ratio"])
    return getattr(module, arguments.pop("type"))(**arguments)


def main() -> None:
    hooks = importlib.import_module("mmcv.runner.hooks")
    version = importlib.import_module("mmcv").__version__
    assert version == "1.7.2", version
    rng = random.Random(172)
    cases, values = [], []
    for momentum, kinds in ((False, LR_KINDS), (True, MOMENTUM_KINDS)):
        for kind in kinds:
            for _ in range(SCHEDULES_PER_KIND):
                run = draw_run(rng, momentum)
                config = draw_hook(rng, run, kind, momentum)
                hook = mmcv_hook(config, hooks.momentum_updater if momentum else hooks.lr_updater)
                recorded = record_calls(hook, run, momentum)
                cases.append({"config": config, "run": run.as_json(), "momentum": momentum})
                values.extend(value for row in recorded for value in row)
    np.savez_compressed(
        HERE / "vectors.npz",
        cases=np.frombuffer(json.dumps(cases).encode(), dtype=np.uint8),
        values=np.asarray(values, dtype=np.float64),
    )
    print(f"{len(cases)} schedules, {len(values)} values")


if __name__ == "__main__":
    main()
