"""Metrics that are updated batch by batch: torchmetrics and others, one rank and several."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hookrun import EvalHook, Hook, TrainStep
from hookrun.hooks.evaluation.metrics import StreamingMetrics, stream, streaming_metrics
from tests.distributed.workers import run_workers
from tests.support import Points, TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Mae:
    """A metric in its plainest form."""

    def __init__(self) -> None:
        self.reset()
        self.resets = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total += float((outputs - targets).abs().sum())
        self.count += len(outputs)

    def compute(self) -> float:
        return self.total / self.count

    def reset(self) -> None:
        self.total, self.count = 0.0, 0
        self.resets = getattr(self, "resets", 0) + 1


class Range(Mae):
    """Several values in a dict."""

    def compute(self) -> Any:
        return {"mean": super().compute(), "count": self.count}


class Step(TinyModel):
    """Its batches have their targets under another name."""

    def predict_step(self, batch: Any) -> Tensor:
        return self.fc(batch["x"])

    def split_batch(self, batch: Any) -> tuple[Any, Any]:
        return batch, batch["y"]


class Keep(Hook):
    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []

    def after_train_epoch(self, runner: Any) -> None:
        output = dict(runner.log_buffer.output)
        self.outputs.append({k: v for k, v in output.items() if k not in ("loss", "eval_iter_num")})


def scores_of(make_runner: MakeRunner, metrics: Any, **arguments: Any) -> dict[str, Any]:
    """The scores of one evaluation of seven points in batches of two; asserts that two agree."""
    runner, keep = make_runner(model=Step(), max_epochs=2), Keep()
    loader = DataLoader(Points(7), 2)
    runner.register_hook(EvalHook(loader, metrics=metrics, **arguments))
    runner.register_hook(keep)
    runner.run([make_loader(1)], TRAIN)
    first, second = keep.outputs
    assert first == second
    return first


def expected_mae() -> float:
    points = Points(7)
    return (Step().fc(points.x) - points.y).abs().mean().item()


def test_a_metric_is_named_by_its_class_or_its_own_names(make_runner: MakeRunner) -> None:
    mae = pytest.approx(expected_mae())
    assert scores_of(make_runner, Mae()) == {"Mae": mae}
    assert scores_of(make_runner, Range()) == {"mean": mae, "count": 7}
    several = {"mae": Mae(), "range": Range()}
    assert scores_of(make_runner, several) == {"mae": mae, "range_mean": mae, "range_count": 7}


def test_torchmetrics(make_runner: MakeRunner) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    mae = pytest.approx(expected_mae())
    one = torchmetrics.MeanAbsoluteError()
    assert scores_of(make_runner, one, save_best="MeanAbsoluteError", rule="less") == {
        "MeanAbsoluteError": mae
    }
    collection = torchmetrics.MetricCollection(
        {"mae": torchmetrics.MeanAbsoluteError(), "mse": torchmetrics.MeanSquaredError()}
    )
    both = scores_of(make_runner, collection, save_best="auto")
    assert both == {"mae": mae, "mse": pytest.approx(torch_mse())}
    assert scores_of(make_runner, {"val": collection}) == {f"val_{k}": v for k, v in both.items()}


def torch_mse() -> float:
    points = Points(7)
    return (Step().fc(points.x) - points.y).square().mean().item()


@pytest.mark.parametrize("joined", [False, True])
def test_no_outputs_are_kept(joined: bool) -> None:
    """The bytes of outputs that live at once are those of one batch, whatever their number."""
    alive = peak = 0

    def forget(size: int) -> None:
        nonlocal alive
        alive -= size

    class Wide(nn.Module):
        def predict_step(self, batch: Any) -> Tensor:
            nonlocal alive, peak
            outputs = batch[0].expand(-1, 1000).clone()
            alive += outputs.nbytes
            peak = max(peak, alive)
            weakref.finalize(outputs, forget, outputs.nbytes)
            return outputs

    peaks = []
    for batches in (4, 40):
        loader = [(torch.ones(8, 1), torch.ones(8, 1))] * batches
        peak = 0
        if joined:
            from hookrun.hooks.evaluation.testing import collect_predictions

            collect_predictions(Wide(), loader)
        else:
            stream(Wide(), loader, StreamingMetrics(Mae()))
        peaks.append(peak)
        assert alive == 0
    batch = 8 * 1000 * 4
    assert peaks == ([4 * batch, 40 * batch] if joined else [batch, batch])


def test_each_evaluation_starts_anew_and_leaves_nothing(make_runner: MakeRunner) -> None:
    metric = Mae()
    metric.update(torch.ones(5), torch.zeros(5))
    assert scores_of(make_runner, metric) == {"Mae": pytest.approx(expected_mae())}
    assert metric.count == 0


def test_train_steps_and_dicts_with_a_target(make_runner: MakeRunner) -> None:
    model = TrainStep(nn.Flatten(0), nn.functional.mse_loss)
    pairs = [(torch.ones(2, 1), torch.zeros(2)), (torch.ones(1, 1), torch.ones(1))]
    assert stream(model, pairs, StreamingMetrics(Mae())) == {"Mae": pytest.approx(2 / 3)}
    with pytest.raises(ValueError, match="yields no batches"):
        stream(model, [], StreamingMetrics(Mae()))


class NoReset:
    def update(self, outputs: Any, targets: Any) -> None: ...

    def compute(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (NoReset(), r"metrics must be callable, or have update.*NoReset lacks reset"),
        (Mae, r"is the class Mae: give an object of it"),
        ({}, r"dict of metrics, which is empty"),
        ({"mae": Mae(), "own": max}, r"each of several metrics must.*\['own'\] have not"),
        ({"mae": 3}, r"mae must be callable, not 3"),
        ("acc", r"metrics must be callable, not 'acc'"),
    ],
)
def test_what_is_no_metric_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        EvalHook(make_loader(), metrics=metrics)


def test_a_function_stays_a_function() -> None:
    assert streaming_metrics(lambda outputs, targets: {}) is None
    with pytest.raises(ValueError, match=r"smaller 'Maelstrom' better"):
        EvalHook(make_loader(), metrics={"Maelstrom": Mae()}, save_best="auto")


PROGRAM = """
from torch.utils.data import DataLoader, DistributedSampler
import torch.distributed as dist
from hookrun import DistEvalHook, EpochBasedRunner, EvalHook
from tests.hooks.evaluation.test_metrics import Keep, Mae, Range, Step
from tests.support import Points, make_loader

class Summed(Mae):
    '''Reduces its state over the ranks itself.'''

    def sync(self):
        sums = torch.tensor([self.total, float(self.count)], dtype=torch.float64)
        dist.all_reduce(sums)
        self.total, self.count = float(sums[0]), int(sums[1])

class Order(Mae):
    '''Depends on the order of the samples.'''

    def update(self, outputs, targets):
        for output in outputs.flatten().tolist():
            self.count += 1
            self.total += self.count * output

def evaluate(metrics, size, hook_type=DistEvalHook, batch_size=2, shuffle=False):
    runner, keep = EpochBasedRunner(Step(), work_dir=str(folder / "run"), max_epochs=2), Keep()
    dataset = Points(size)
    sampler = DistributedSampler(dataset, shuffle=shuffle) if hook_type is DistEvalHook else None
    loader = DataLoader(dataset, batch_size, sampler=sampler)
    runner.register_hook(hook_type(loader, metrics=metrics))
    runner.register_hook(keep)
    runner.run([make_loader(1)], [("train", 1)])
    return keep.outputs[-1]

gathered, original = [], dist.gather_object
def count(value, *rest, **more):
    gathered.append(len(value))
    return original(value, *rest, **more)
dist.gather_object = count

found["results"] = []
for size in (1, 2, 5, 7, 12):
    gathered.clear()
    reduced = {"sum": Summed()}
    if with_torchmetrics:
        import torchmetrics

        reduced["mae"] = torchmetrics.MeanAbsoluteError()
        reduced["off"] = torchmetrics.MeanAbsoluteError(sync_on_compute=False)
    of_size = evaluate(reduced, size, shuffle=True)
    assert not gathered  # no outputs are sent
    of_size |= evaluate({"order": Order(), "range": Range()}, size)
    found["results"].append([size, of_size])
if with_torchmetrics:
    found["alone"] = evaluate(torchmetrics.MeanAbsoluteError(), 7, EvalHook)
for name, metrics in {"each": Summed(), "rank 0": Mae()}.items():
    loader = DataLoader(Points(4), 2)  # no sampler
    runner = EpochBasedRunner(Step(), work_dir=str(folder / "run"), max_epochs=1)
    runner.register_hook(DistEvalHook(loader, metrics=metrics))
    try:
        runner.run([make_loader(1)], [("train", 1)])
    except ValueError as error:
        found[name] = str(error)
"""


@pytest.mark.parametrize(
    ("world_size", "with_torchmetrics"),  # importing it takes each rank seconds
    [(2, True), (3, False), pytest.param(3, True, marks=pytest.mark.long)],
)
def test_several_ranks_give_the_metrics_of_one_process(
    tmp_path: Path, world_size: int, with_torchmetrics: bool
) -> None:
    if with_torchmetrics:
        pytest.importorskip("torchmetrics")
    program = f"with_torchmetrics = {with_torchmetrics}\n" + PROGRAM
    found = run_workers(program, tmp_path, world_size)
    model = Step()
    for size, results in found[0]["results"]:
        points = Points(size)
        outputs = model.fc(points.x).flatten().detach()
        mae = pytest.approx(float((outputs - points.y.flatten()).abs().mean()), rel=1e-5)
        order = float(outputs @ torch.arange(1.0, size + 1)) / size
        assert results == {
            "sum": mae,
            **({"mae": mae, "off": mae} if with_torchmetrics else {}),
            "order": pytest.approx(order, rel=1e-4, abs=1e-5),
            "range_mean": mae,
            "range_count": size,
        }
    for each in found:
        if with_torchmetrics:
            assert each["alone"] == {"MeanAbsoluteError": pytest.approx(expected_mae())}
        for case in ("each", "rank 0"):
            assert f"each of {world_size} ranks has results for all 4 samples" in each[case]
