"""Random configurations of EvalHook, and what a run does with one: the same for MMCV and hookrun.

Left out is where MMCV is wrong, and hookrun does otherwise:

* scores that are 0.0 or NaN: MMCV never saves the first, and keeps the second as the best;
* an evaluation before training with an interval: MMCV does it only where the next epoch has one,
  and names a best checkpoint of it after that epoch. Here it has no scores, and the interval is 1.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from tests.support import Points, TinyModel, make_loader

COUNT = 20
_RULES = {  # of save_best: rules, greater_keys and less_keys for which a score is comparable
    "acc": [{}, {"rule": "less"}],
    "loss": [{}, {"rule": "greater"}],
    "bbox_mAP": [{}, {"greater_keys": ["mAP", "AR"]}],
    "auto": [{}, {"rule": "greater"}, {"rule": "less"}],
    "score": [{"rule": "less"}, {"greater_keys": "score"}, {"less_keys": ["score", "other"]}],
}


def draw(seed: int) -> dict[str, Any]:
    """A configuration: plain values that JSON can hold."""
    rng = random.Random(seed)
    kind = rng.choice(["epochs", "epochs", "iters in epochs", "iters"])
    batches, length = rng.randint(1, 3), rng.randint(3, 9)
    counted = length * batches if kind == "iters in epochs" else length
    arguments: dict[str, Any] = {"interval": rng.randint(1, 4), "by_epoch": kind == "epochs"}
    if rng.random() < 0.5:
        arguments["start"] = rng.randint(0, counted + 1)
    save_best = [None, *_RULES][seed % 6]
    if save_best is not None:
        arguments |= {"save_best": save_best, **rng.choice(_RULES[save_best])}
    done = rng.choice([0, 0, rng.randint(1, length - 1)])
    before = "start" in arguments and done * (counted // length) >= arguments["start"]
    if before:
        arguments["interval"] = 1
    keys = ["acc", "loss"] if save_best in (None, "auto", "acc", "loss") else [save_best, "acc"]
    scores = [{key: rng.randint(1, 30) / 10 for key in keys} for _ in range(counted + 2)]
    if before or rng.random() < 0.2:
        scores[0 if before else rng.randrange(3)] = {}
    best = save_best not in (None, "auto") and done > 0 and rng.random() < 0.7
    return {
        "kind": kind,
        "batches": batches,
        "length": length,
        "done": done,
        "best": rng.randint(1, 30) / 10 if best else None,
        "out_dir": rng.random() < 0.3,
        "arguments": arguments,
        "scores": scores,
    }


def run(library: Any, configuration: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What happens in a run: the evaluations, the best after each, and the files at the end.

    Args:
        library: ``mmcv.runner`` or ``hookrun``.
        configuration: see `draw`.
        folder: an empty one.
    """
    by_iter, length = configuration["kind"] == "iters", configuration["length"]
    arguments, done = dict(configuration["arguments"]), configuration["done"]
    work_dir = folder / "run"
    best_folder = folder / "out" / "run" if configuration["out_dir"] else work_dir
    best_folder.mkdir(parents=True)
    work_dir.mkdir(exist_ok=True)
    if configuration["out_dir"]:
        arguments["out_dir"] = str(folder / "out")
    meta: dict[str, Any] = {}
    if configuration["best"] is not None:
        unit = "epoch" if arguments["by_epoch"] else "iter"
        old = best_folder / f"best_{arguments['save_best']}_{unit}_{done}.pth"
        old.write_text("of the run that is resumed")
        meta["hook_msgs"] = {"best_score": configuration["best"], "best_ckpt": str(old)}
    model = TinyModel()
    logger = logging.getLogger("evaluations")
    logger.setLevel(logging.ERROR)
    kind = library.IterBasedRunner if by_iter else library.EpochBasedRunner
    runner = kind(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=str(work_dir),
        logger=logger,
        meta=meta,
        **{"max_iters" if by_iter else "max_epochs": length},
    )
    runner._iter = done * (1 if by_iter else configuration["batches"])
    runner._epoch = 0 if by_iter else done
    noted: list[list[Any]] = []

    class Scored(Points):
        def evaluate(self, results: Any, logger: Any = None) -> dict[str, float]:
            # How IterBasedRunner counts passes through the data is not EvalHook's.
            noted.append([None if by_iter else runner.epoch, runner.iter, len(results)])
            scores: dict[str, float] = configuration["scores"][len(noted) - 1]
            return scores

    class Watch(library.Hook):  # type: ignore[misc,name-defined]
        def _note(self, runner: Any) -> None:
            messages = runner.meta.get("hook_msgs", {})
            if noted and len(noted[-1]) == 3:
                file = os.path.basename(messages.get("best_ckpt", ""))
                noted[-1] += [messages.get("best_score"), file]

        before_train_epoch = before_train_iter = after_train_iter = after_train_epoch = _note

    runner.register_hook(library.EvalHook(DataLoader(Scored(5), 2), **arguments))
    runner.register_hook(Watch(), priority="LOW")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        runner.run([make_loader(configuration["batches"])], [("train", 1)])
    return {
        "evaluations": noted,
        "files": sorted(each.name for each in best_folder.glob("best_*")),
        "elsewhere": sorted(each.name for each in work_dir.glob("best_*")),
    }
