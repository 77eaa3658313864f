"""DistributedTrainStep, registered wrappers, and evaluation through DDP, without exchanges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hookrun import (
    MODULE_WRAPPERS,
    DistributedTrainStep,
    EpochBasedRunner,
    IterBasedRunner,
    is_module_wrapper,
)
from hookrun.distributed import plain_name, unwrap_model
from tests.distributed.nesting import Net, Own
from tests.distributed.workers import run_workers
from tests.support import group_of_one

STEPS = """
from torch import nn
from hookrun import DistributedTrainStep
from tests.distributed.nesting import Own, batches

class Odd(Own):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(self.norm(x))

    def train_step(self, batch, optimizer=None, fail=False, **kwargs):
        assert optimizer == "optimizer" and kwargs == {"note": 1}
        if fail:
            raise KeyError("of the model")
        return super().train_step(batch)

(batch, *_) = batches()

def gradients(model, through_forward=False):
    model.zero_grad()
    if through_forward:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    else:
        loss = model.train_step(batch, "optimizer", note=1)["loss"]
    loss.backward()
    return {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}

def same(ours, theirs):
    return all(
        one is theirs[name] if one is None else torch.equal(one, theirs[name])
        for name, one in ours.items()
    )

for options in ({"find_unused_parameters": True}, {"static_graph": True}):
    model, ddp = DistributedTrainStep(Odd(), **options), nn.parallel.DistributedDataParallel
    torch_ddp = ddp(Odd(), **options)
    for _ in range(3):
        assert same(gradients(model), gradients(torch_ddp, through_forward=True)), options

model = DistributedTrainStep(Odd(), find_unused_parameters=True)
fired = []
for name, module in model.named_modules():
    module.register_forward_hook(lambda *_, name=name: fired.append(name))
gradients(model)
found["fired"] = list(fired)
found["inside"] = [type(model.module).__name__, "module" in vars(model)]
with model.no_sync():
    own = gradients(model)["module.head.weight"]
parts = [torch.empty_like(own) for _ in range(world_size)]
dist.all_gather(parts, own)
found["no_sync"] = not torch.equal(*parts)
try:
    model.train_step(batch, "optimizer", fail=True, note=1)
except KeyError as error:
    found["error"] = [str(error), "module" in vars(model)]

# The buffers of rank 0 come with the next training step, and not before.
gradients(model)
norm = model.module.norm
norm.running_mean.fill_(rank)
with torch.no_grad():
    model.eval().val_step(batch, "optimizer", note=1)
found["after val_step"] = norm.running_mean[0].item()
gradients(model)
found["after train_step"] = norm.running_mean[0].item()
"""


def test_steps_go_through_ddp(tmp_path: Path) -> None:
    for rank, found in enumerate(run_workers(STEPS, tmp_path)):
        # Each module once: that of the model is fired by its own forward, DDP's by the step.
        assert found["fired"] == ["module.norm", "module.body.0", "module.body.1", *LATER]
        assert found["inside"] == ["Odd", False]
        assert found["no_sync"]
        assert found["error"] == ["'of the model'", False]
        assert found["after val_step"] == rank
        assert found["after train_step"] == 0.0


LATER = ["module.body", "module.head", "module", ""]

# Rank 0 evaluates, and rank 1 does not; then both train.
ALONE = """
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from hookrun import EvalHook, IterBasedRunner, OptimizerHook, TrainStep, DistributedTrainStep
from tests.distributed.nesting import Net, Own, batches
from torch.utils.data import DataLoader

class Set(list):
    def evaluate(self, results, logger=None):
        return {"count": len(results)}

class Called(Own):
    def forward(self, x=None, return_loss=True, **batch):
        return super().forward(x)

def alone(model, loader):
    seen.append(rank)
    with torch.no_grad():
        inputs = [batch["x"] if isinstance(batch, dict) else batch[0] for batch in loader]
        return [model(each) for each in inputs]

seen = []
pairs = DataLoader(Set((x, 0) for x in torch.ones(4, 4)))
dicts = DataLoader(Set({"x": x, "target": 0} for x in torch.ones(4, 4)))
mean = lambda outputs, target: {"mean": outputs.mean().item()}
class Streaming:
    reset = lambda self: None
    update = lambda self, outputs, target: None
    compute = lambda self: {"mean": 1.0}

cases = [
    (lambda: TrainStep(DDP(Net()), F.cross_entropy), pairs, {}),
    (lambda: TrainStep(DDP(Net()), F.cross_entropy), pairs, {"metrics": mean}),
    (lambda: TrainStep(DDP(Net()), F.cross_entropy), pairs, {"metrics": Streaming()}),
    (lambda: TrainStep(DDP(Net()), F.cross_entropy), pairs, {"test_fn": alone}),
    (lambda: DistributedTrainStep(Called()), dicts, {}),
    (lambda: DistributedTrainStep(Called()), dicts, {"metrics": mean}),
    (lambda: DistributedTrainStep(Called()), dicts, {"test_fn": alone}),
]
for make, loader, options in cases:
    model = make()
    runner = IterBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        max_iters=4,
        handle_signals=False,
    )
    runner.logger.setLevel("ERROR")
    runner.register_optimizer_hook(OptimizerHook())
    if rank == 0:
        runner.register_hook(EvalHook(loader, by_epoch=False, interval=2, **options))
    runner.run([batches()], [("train", 1)])
    found.setdefault("weights", []).append(sum(p.sum().item() for p in model.parameters()))
found["seen"] = seen
"""


def test_one_rank_can_evaluate_alone(tmp_path: Path) -> None:
    first, second = run_workers(ALONE, tmp_path)
    assert first["weights"] == second["weights"]
    assert (first["seen"], second["seen"]) == ([0] * 4, [])


@pytest.fixture
def group() -> Iterator[None]:
    with group_of_one():
        yield


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("runner_type", [EpochBasedRunner, IterBasedRunner])
def test_a_bare_ddp_is_refused(runner_type: Any) -> None:
    ddp = nn.parallel.DistributedDataParallel
    with pytest.raises(
        TypeError, match=r"not pass on the train_step of the Own in it.*hookrun\.Distr"
    ):
        runner_type(ddp(Own()), max_iters=1)
    with pytest.raises(TypeError, match=r"has no method train_step.*hookrun\.TrainStep"):
        runner_type(ddp(Net()), max_iters=1)
    with pytest.raises(TypeError, match=r"Net has none.*TrainStep\(DistributedDataParallel"):
        DistributedTrainStep(Net())


@pytest.mark.usefixtures("group")
def test_a_model_that_cannot_validate_is_refused() -> None:
    class Trains(Net):
        def train_step(self, batch: Any, optimizer: Any = None) -> dict[str, Any]:
            return {"loss": F.cross_entropy(self(batch[0]), batch[1])}

    runner = EpochBasedRunner(DistributedTrainStep(Trains()), max_epochs=1)
    batches = [(torch.ones(2, 4), torch.tensor([0, 1]))]
    with pytest.raises(TypeError, match="has no method val_step"):
        runner.run([batches, batches], [("train", 1), ("val", 1)])


@pytest.mark.usefixtures("group")
def test_wrappers_are_built_by_name() -> None:
    built = MODULE_WRAPPERS.build({"type": "DistributedTrainStep", "module": Own()})
    assert type(built) is DistributedTrainStep
    assert MODULE_WRAPPERS.get("MMDistributedDataParallel") is DistributedTrainStep


def test_registered_wrappers_are_wrappers() -> None:
    class Outside(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = Net()
    wrapped = Outside(model)
    assert not is_module_wrapper(wrapped)
    MODULE_WRAPPERS.register_module(module=Outside)
    try:
        assert is_module_wrapper(wrapped)
        assert unwrap_model(nn.Sequential(wrapped)[0]) is model
        assert plain_name(nn.Sequential(wrapped), "0.module.head.bias") == "0.head.bias"
    finally:
        del MODULE_WRAPPERS.module_dict["Outside"]
