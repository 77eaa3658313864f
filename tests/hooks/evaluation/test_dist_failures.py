"""DistEvalHook: a failure on one rank ends all, with an error that names rank and cause."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.workers import run_workers

from .dist_support import BEGIN, SCORING

FAILURES = """
class Failing(Step):
    def __init__(self, at=None):
        super().__init__()
        self.at = at

    def predict_step(self, batch):
        if self.at == rank:
            raise ArithmeticError("no such output")
        return super().predict_step(batch)

class Lambdas(Step):
    def predict_step(self, batch):
        results = list(super().predict_step(batch))
        return [lambda: None] * len(results) if rank == 1 else results

class Twice(Step):
    def predict_step(self, batch):
        results = list(super().predict_step(batch))
        return results * 2 if rank == 1 else results

class Endless:
    dataset = Points(4)

    def __iter__(self):
        while True:
            yield {"x": torch.zeros(2, 2), "y": torch.zeros(2, 1)}

def no_dict(outputs, targets):
    return 0.5

def fails(outputs, targets):
    raise OSError("no space left")

def run(model, loader, **arguments):
    runner = make_runner(model, max_epochs=1)
    runner.register_hook(DistEvalHook(loader, **arguments))
    error = error_of(lambda: runner.run([make_loader(1)], [("train", 1)]))
    return [error, [module.training for module in model.modules()]]

four = loader_of(Points(4))
found = {
    "model": run(Failing(1), four),
    "endless": run(Failing(1), Endless()),
    "lambdas": run(Lambdas(), four),
    "lambdas, gpu_collect": run(Lambdas(), four, gpu_collect=True),
    "twice": run(Twice(), four),
    "twice, metrics": run(Twice(), four, metrics=no_dict),
    "whole set each": run(Step(), DataLoader(Points(4), 2)),
    "no dict": run(Step(), four, metrics=no_dict),
    "evaluate": run(Step(), four, metrics=fails),
    "key": run(Step(), four, save_best="mAP"),
    "rule": run(Step(), loader_of(Points(4, scores=[{"score": 1}])), save_best="auto"),
    "arguments": run(Step(), four, interval=1 + rank),
    "sizes": run(Step(), loader_of(Points(4 + rank))),
}
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    program = BEGIN + SCORING + FAILURES
    return run_workers(program, tmp_path_factory.mktemp("failures"), 2)


@pytest.mark.parametrize(
    ("case", "failing", "message"),
    [
        ("model", 1, "ArithmeticError: no such output"),
        ("endless", 1, "ArithmeticError: no such output"),
        ("lambdas", 1, "pickle"),
        ("lambdas, gpu_collect", 1, "pickle"),
        ("twice", 0, "ValueError: the ranks have [2, 4] results for 4 samples, where [2, 2] are"),
        ("twice, metrics", 0, "ValueError: the ranks have [2, 4] results for 4 samples"),
        ("whole set each", 0, "ValueError: each of 2 ranks has results for all 4 samples"),
        ("no dict", 0, "TypeError: evaluation must return a dict of scores, not float"),
        ("evaluate", 0, "OSError: no space left"),
        ("key", 0, "save_best='mAP' is not among the scores: acc."),
        ("rule", 0, "ValueError: EvalHook: is a greater or a smaller 'score' better?"),
    ],
)
def test_a_failure_on_one_rank_ends_all_and_names_rank_and_cause(
    failures: list[dict[str, Any]], case: str, failing: int, message: str
) -> None:
    (own, own_modes), (other, other_modes) = (
        failures[each][case] for each in (failing, 1 - failing)
    )
    assert message in own
    assert "RuntimeError: " in other
    assert f"failed on rank {failing}: " in other
    assert message in other
    assert all(own_modes)
    assert all(other_modes)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("arguments", r"must be the same on all ranks.*\(None, 1, .*\(None, 2, "),
        ("sizes", r"must be the same on all ranks.*, 4\), .*, 5\)"),
    ],
)
def test_ranks_that_differ_are_refused_on_all(
    failures: list[dict[str, Any]], case: str, message: str
) -> None:
    for found in failures:
        assert re.search(message, found[case][0])


DYING = """
class Dying(TinyModel):
    def predict_step(self, batch):
        if rank == 1:
            (folder / "1.json").write_text("{}")
            os._exit(0)
        return [0.0, 0.0]

class Endless:
    dataset = Points(4)

    def __iter__(self):
        while True:
            yield {}

runner = make_runner(Dying(), max_epochs=1)
runner.register_hook(DistEvalHook(Endless()))
found["error"] = error_of(lambda: runner.run([make_loader(1)], [("train", 1)]))
(folder / "0.json").write_text(json.dumps(found))
os._exit(0)  # the group cannot be ended in the usual way
"""


def test_a_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    assert "RankError: rank 1 has died" in run_workers(BEGIN + DYING, tmp_path)[0]["error"]
