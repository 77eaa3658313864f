"""DistEvalHook: the metrics of one process, rank 0's decisions, and failures that end all ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, DistributedSampler

from hookrun import DistEvalHook, EvalHook
from hookrun.core import HOOKS
from tests.distributed.workers import run_workers
from tests.support import Points, TinyModel, make_loader

BEGIN = """
import copy, os, signal, time
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from hookrun import DistEvalHook, EpochBasedRunner, Hook, IterBasedRunner, TrainStep
from tests.support import Points, TinyModel, make_loader

def loader_of(dataset, batch_size=2, shuffle=False):
    sampler = DistributedSampler(dataset, shuffle=shuffle)
    return DataLoader(dataset, batch_size, sampler=sampler)

def make_runner(model=None, kind=EpochBasedRunner, **arguments):
    return kind(model or TinyModel(), work_dir=str(folder / "run"), **arguments)

def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""

SCORING = """
class Scored(Points):
    def evaluate(self, results, logger=None, **arguments):
        found["arguments"] = arguments
        distances = [abs(float(r) - float(y)) for r, y in zip(results, self.y, strict=True)]
        weighted = sum(n * each for n, each in enumerate(distances))  # depends on the order
        return {"weighted": weighted, "mae": sum(distances) / len(distances)}

def mae(outputs, targets):
    places = torch.arange(len(outputs))
    distances = (outputs - targets).abs().flatten()
    return {"weighted": float(distances @ places.float()), "mae": float(distances.mean())}

class Step(TinyModel):
    def predict_step(self, batch):
        return self.fc(batch["x"])

    def split_batch(self, batch):
        return batch, batch["y"]

class Keep(Hook):
    def __init__(self):
        self.outputs = []

    def after_train_epoch(self, runner):
        self.outputs.append({k: v for k, v in runner.log_buffer.output.items() if k != "loss"})

def evaluate(size, **arguments):
    runner = make_runner(Step(), max_epochs=2)
    keep = Keep()
    hook = DistEvalHook(loader_of(Scored(size)), **arguments)
    runner.register_hook(hook)
    runner.register_hook(keep)
    runner.run([make_loader(1)], [("train", 1)])
    return keep.outputs
"""

ONE_PROCESS_IS_REFERENCE = """
found["results"] = {
    f"{size} {name}": evaluate(size, **arguments)
    for size in sizes
    for name, arguments in {
        "files": {"metric": "bbox"},
        "group": {"gpu_collect": True},
        "metrics": {"metrics": mae},
    }.items()
}
found["left"] = sorted(os.listdir(folder / "run")) if (folder / "run").is_dir() else []
"""


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_ranks_give_the_metrics_of_one_process(tmp_path: Path, world_size: int) -> None:
    sizes = [1, 2, 5, 7, 12]
    program = BEGIN + SCORING + f"sizes = {sizes}\n" + ONE_PROCESS_IS_REFERENCE
    found = run_workers(program, tmp_path, world_size)
    for size in sizes:
        dataset, model = Points(size), TinyModel()
        distances = (model.fc(dataset.x) - dataset.y).abs().flatten().tolist()
        expected = {
            "weighted": sum(n * each for n, each in enumerate(distances)),
            "mae": sum(distances) / size,
        }
        for kind in ("files", "group", "metrics"):
            outputs = found[0]["results"][f"{size} {kind}"]
            assert len(outputs) == 2
            for output in outputs:
                samples = math.ceil(size / world_size)
                assert output.pop("eval_iter_num") == math.ceil(samples / 2)
                assert output == pytest.approx(expected, rel=1e-5), (size, kind)
    assert found[0]["arguments"] == {}
    assert found[0]["left"] == []  # nothing of .eval_hook stays


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
        ("key", 0, "save_best='mAP' is not among the scores. Known: acc."),
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
    assert "RuntimeError" in run_workers(BEGIN + DYING, tmp_path)[0]["error"]


DECISIONS = """
class Unlike(Points):
    '''Whose scores differ from rank to rank: only those of rank 0 count.'''

    def evaluate(self, results, logger=None):
        found.setdefault("evaluated", []).append(len(results))
        return dict(zip(("acc", "loss"), self.scores[len(found["evaluated"]) - 1]))

scores = [(0.1, 3.0), (0.5, 2.0), (0.5, 1.0), (float("nan"), 0.0)]
own = scores if rank == 0 else scores[::-1]
runner = make_runner(max_epochs=len(scores))
hook = DistEvalHook(loader_of(Unlike(5, scores=own)), save_best=save_best)
runner.register_hook(hook)

class Take(Hook):
    def take_scores(self, runner, scores):
        found.setdefault("taken", []).append(list(scores.values()))

runner.register_hook(Take())
runner.run([make_loader(1)], [("train", 1)])
saved = sorted(path.name for path in (folder / "run").glob("best*"))
messages = runner.meta["hook_msgs"]
found |= {"saved": saved, "messages": messages, "key": hook.key_indicator}
if rank == 0:
    file = torch.load(folder / "run" / saved[0])
    found["states"] = sorted(file["hookrun"]["ranks"])
"""


@pytest.mark.parametrize("save_best", ["acc", "auto"])
def test_rank_0_evaluates_and_decides_for_all(tmp_path: Path, save_best: str) -> None:
    program = BEGIN + f"save_best = {save_best!r}\n" + DECISIONS
    found = run_workers(program, tmp_path)
    assert found[0]["evaluated"] == [5] * 4
    assert "evaluated" not in found[1]
    assert found[0]["saved"] == ["best_acc_epoch_2.pth"]
    assert found[0]["states"] == [0, 1]  # the random states of all ranks are in the file
    assert found[0]["messages"] == found[1]["messages"]
    assert found[0]["messages"]["best_score"] == 0.5
    assert [each["key"] for each in found] == ["acc", "acc"]
    for each in found:
        assert each["taken"][:3] == [[0.1, 3.0], [0.5, 2.0], [0.5, 1.0]]


STATISTICS = """
import torch.distributed as dist

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.BatchNorm1d(2, dtype=torch.float64)
        self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.InstanceNorm1d(2, affine=True)])
        self.tracked = nn.InstanceNorm1d(2, track_running_stats=True)
        self.free = nn.BatchNorm1d(2, track_running_stats=False)
        self.other = nn.Linear(2, 1)
        for each in (self.wide, self.norms[0], self.tracked):
            each.running_mean.fill_(rank)
            each.running_var.fill_(rank + 1)

    def train(self, mode=True):
        super().train(mode)
        self.free.eval()
        return self

    def train_step(self, batch, optimizer, **kwargs):
        return {"loss": self.other(batch["x"]).sum()}

    def predict_step(self, batch):
        found["seen"] = [m.tolist() for n, m in self.named_buffers() if "running" in n]
        found["modes"] = [m.training for m in self.modules()]
        return list(self.other(batch["x"]))

counts, original = [], dist.broadcast
dist.broadcast = lambda tensor, *rest, **more: (
    counts.append([str(tensor.dtype), tensor.numel()]), original(tensor, *rest, **more))[1]
for broadcast in (True, False):
    model = Normed()
    runner = make_runner(model, max_epochs=1)
    runner.register_hook(
        DistEvalHook(loader_of(Points(4)), broadcast_bn_buffer=broadcast, gpu_collect=True))
    counts.clear()
    runner.run([make_loader(1)], [("train", 1)])
    floats = [each for each in counts if "float" in each[0]]
    found[str(broadcast)] = [found.pop("seen"), floats]
    found["after"] = [m.training for m in model.modules()]
"""


def test_running_statistics_are_rank_0s_by_one_broadcast_per_dtype(tmp_path: Path) -> None:
    found = run_workers(BEGIN + STATISTICS, tmp_path)
    for rank, each in enumerate(found):
        seen, broadcasts = each["True"]
        assert seen == [[0.0, 0.0], [1.0, 1.0]] * 3
        assert sorted(broadcasts) == [["torch.float32", 8], ["torch.float64", 4]]
        assert each["False"] == [[[float(rank)] * 2, [rank + 1.0] * 2] * 3, []]
        assert not any(each["modes"])
        assert each["after"] == [True] * 6 + [False, True]


UNEVEN = """
from torch.nn.parallel import DistributedDataParallel

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x, y=None, return_loss=True):
        return self.fc(self.norm(x))

class Wrapped(DistributedDataParallel):
    def train_step(self, batch, optimizer, **kwargs):
        return {"loss": self(batch["x"]).square().sum()}

class Own:
    '''A sampler that does not pad: rank 1 of a set of one has no sample.'''

    def __iter__(self):
        return iter(range(rank, 1, world_size))

    def __len__(self):
        return len(range(rank, 1, world_size))

def train(evaluate):
    torch.manual_seed(0)
    model = Wrapped(Normed())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = make_runner(model, optimizer=optimizer, max_epochs=2)
    runner.register_optimizer_hook({})
    dataset = Points(1)
    if evaluate:
        runner.register_hook(DistEvalHook(DataLoader(dataset, sampler=Own())))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(rank))
    batches = [{"x": part} for part in x.split(2)]
    runner.run([batches], [("train", 1)])
    found["lengths"] = [len(each) for each in dataset.evaluated]
    return [p.tolist() for p in model.parameters()]

found["same"] = train(False) == train(True)
"""


def test_ranks_without_a_batch_and_training_in_ddp_goes_on_as_without(tmp_path: Path) -> None:
    found = run_workers(BEGIN + UNEVEN, tmp_path)
    assert [each["same"] for each in found] == [True, True]
    assert [each["lengths"] for each in found] == [[1, 1], []]


def test_without_a_process_group_it_says_what_to_do(make_runner: Callable[..., Any]) -> None:
    runner = make_runner()
    runner.register_hook(DistEvalHook(make_loader()))
    with pytest.raises(RuntimeError, match=r"needs a process group.*init_process_group.*EvalHook"):
        runner.run([make_loader(1)], [("train", 1)])


@pytest.mark.parametrize(
    ("loader", "arguments", "error", "message"),
    [
        ([1], {"metrics": max}, TypeError, "dataset has a length, not list"),
        (3, {}, TypeError, "must be a loader of batches, not int"),
        (make_loader(), {"gpu_collect": 1}, TypeError, "gpu_collect must be a bool"),
        (make_loader(), {"broadcast_bn_buffer": "yes"}, TypeError, "broadcast_bn_buffer must be"),
        (make_loader(), {"interval": 0}, ValueError, "interval must be a positive int"),
        (
            DataLoader(Points(), sampler=DistributedSampler(Points(), 2, 0, shuffle=True)),
            {},
            ValueError,
            r"sampler that shuffles.*DistributedSampler\(dataset, shuffle=False\)",
        ),
    ],
)
def test_bad_arguments(
    loader: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DistEvalHook(loader, **arguments)


def test_misspelt_arguments_are_found_among_its_own() -> None:
    loader = make_loader()
    loader.dataset.evaluate = lambda results, logger=None: {}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"'gpu_colect'.*Did you mean 'gpu_collect'"):
        DistEvalHook(loader, gpu_colect=True)


@pytest.mark.parametrize("distributed", [False, True])
def test_the_config_of_a_training_script(
    make_runner: Callable[..., Any], tmp_path: Path, distributed: bool
) -> None:
    config = {"interval": 2, "metric": "bbox", "save_best": "acc"}
    runner, loader = make_runner(max_epochs=2), make_loader()
    runner.register_hook((DistEvalHook if distributed else EvalHook)(loader, **config), "LOW")
    kind = type(runner.hooks[0]).__name__
    assert HOOKS.get(kind) is type(runner.hooks[0])
    runner.register_hook({"type": kind, "dataloader": loader, **config}, priority="LOW")
    assert [(hook.interval, hook.eval_kwargs) for hook in runner.hooks] == [
        (2, {"metric": "bbox"})
    ] * 2
