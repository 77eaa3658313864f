"""Makes ``mmcv_trainings.npz`` beside it: what MMCV's hooks do in a hundred steps.

HOOKRUN_MMCV=SITE_PACKAGES_OF_MMCV python -m tests.data.make_mmcv_trainings
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tests.hooks.trainings import CASES, KINDS, train
from tests.oracle import import_mmcv

HERE = Path(__file__).parent


def run(library: Any, kind: str, case: str, by_epoch: bool) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as work_dir, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notes, _ = train(library, kind, case, by_epoch, work_dir)
    return {
        "losses": np.asarray(notes.losses),
        "lrs": np.asarray(notes.lrs),
        "weights": notes.weights[-1].astype("f4"),  # after a hundred steps
        "averages": notes.averages[-1].astype("f4"),
    }


def main() -> None:
    library = import_mmcv("mmcv.runner")
    library.hooks.ClosureHook = import_mmcv("mmcv.runner.hooks.closure").ClosureHook
    time.sleep = lambda seconds: None  # MMCV rests after each epoch
    arrays: dict[str, np.ndarray] = {}
    for kind in KINDS:
        for case in CASES:
            by_epoch, by_iter = (run(library, kind, case, by) for by in (True, False))
            for what, values in by_epoch.items():
                assert np.array_equal(values, by_iter[what])  # its two runners train alike
                arrays[f"{kind} {case} {what}"] = values
    np.savez_compressed(HERE / "mmcv_trainings.npz", **arrays)


if __name__ == "__main__":
    main()
