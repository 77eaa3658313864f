"""Processes that train models of their own say so; those that average gradients do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from .workers import run_workers

PROGRAM = """
import logging
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from hookrun import EpochBasedRunner, Fp16OptimizerHook, IterBasedRunner, OptimizerHook

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, x):
        return self.fc(x)

    def train_step(self, batch, optimizer=None, **kwargs):
        return {"loss": self(batch.to(self.fc.weight.dtype)).float().square().mean()}

class Wrapped(DistributedDataParallel):
    def train_step(self, batch, optimizer=None, **kwargs):
        outputs = self(batch.to(self.module.fc.weight.dtype))
        return {"loss": outputs.float().square().mean()}

class Part(Model):
    def __init__(self):
        super().__init__()
        self.fc = DistributedDataParallel(self.fc)
    def train_step(self, batch, optimizer=None, **kwargs):
        return {"loss": self(batch).square().mean()}

def sharded():
    model = Model()
    fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (world_size,)))
    return model

class Sums(OptimizerHook):
    def averages_gradients(self, runner):
        return True

    def after_train_iter(self, runner):
        runner.optimizer.zero_grad()
        runner.outputs["loss"].backward()
        for parameter in runner.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size
        runner.optimizer.step()

fp16, bf16 = (lambda t=t: Model().to(t) for t in (torch.float16, torch.bfloat16))
def scaled(**arguments):
    return Fp16OptimizerHook(loss_scale=8.0, **arguments)

CASES = {
    "bare": (Model, OptimizerHook),
    "bare, not averaged": (Model, lambda: scaled(distributed=False)),
    "bare fp16, not averaged": (fp16, lambda: scaled(distributed=False)),
    "bare bf16, without masters": (bf16, OptimizerHook),
    "ddp": (lambda: Wrapped(Model()), OptimizerHook),
    "ddp fp16": (lambda: Wrapped(fp16()), scaled),
    "ddp of a part": (Part, OptimizerHook),
    "sharded": (sharded, OptimizerHook),
    "fp32, averaged by the hook": (Model, scaled),
    "fp16, averaged by the hook": (fp16, scaled),
    "bf16, averaged by the hook": (bf16, scaled),
    "a hook of one's own": (Model, Sums),
    "without an optimizer": (Model, None),
}
logger = logging.getLogger("apart")
class Warnings(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            warned.append(record.getMessage())
logger.addHandler(Warnings())
for name, (make, hook) in CASES.items():
    for number, kind in enumerate((EpochBasedRunner, IterBasedRunner)):
        torch.manual_seed(0)
        model, warned = make(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if hook else None
        limit = {"max_epochs": 1} if number == 0 else {"max_iters": 2}
        limit["work_dir"] = str(folder / "run")
        runner = kind(model, optimizer=optimizer, logger=logger, **limit)
        if hook:
            runner.register_hook(hook(), "ABOVE_NORMAL")
        runner.run([[torch.full((2, 2), rank + 1.0)] * 2], [("train", 1)])
        alike = True
        for parameter in model.parameters() if name != "sharded" else []:
            total = parameter.detach().clone()
            dist.all_reduce(total)
            alike &= torch.equal(total, world_size * parameter)
        found[f"{name}/{kind.__name__}"] = [alike, warned]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[bool, list[str]]]]:
    return run_workers(PROGRAM, Path(tmp_path_factory.mktemp("apart")))


def test_what_goes_apart_is_told_by_the_first_process_alone(
    results: list[dict[str, tuple[bool, list[str]]]],
) -> None:
    first, second = results
    assert len(first) == 26
    for name, (alike, warned) in first.items():
        expected = 0 if alike else 1
        assert len(warned) == expected, (name, warned)
        assert alike != name.startswith("bare"), name
        assert all("2 processes train separate models" in text for text in warned)
    assert [warned for _, warned in second.values()] == [[]] * 26


ROUTED = """
from torch import nn
from hookrun import GradientCumulativeFp16OptimizerHook, IterBasedRunner

class Routed(nn.Module):
    \"\"\"Rank 0 trains one layer, rank 1 the other, and none the third.\"\"\"
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 1) for _ in range(3))
    def train_step(self, batch, optimizer=None, **kwargs):
        return {"loss": self.layers[rank](batch).square().mean()}

torch.manual_seed(0)
model = Routed()
before = [each.clone() for each in model.layers[2].parameters()]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
runner = IterBasedRunner(model, optimizer=optimizer, max_iters=5)
runner.logger.setLevel("ERROR")
hook = GradientCumulativeFp16OptimizerHook(cumulative_iters=2, loss_scale=8.0)
runner.register_hook(hook, "ABOVE_NORMAL")
runner.run([[torch.full((2, 2), rank + 1.0)] * 5], [("train", 1)])
found["weights"] = [each.tolist() for each in model.parameters()]
unused = model.layers[2].parameters()
found["unused"] = all(torch.equal(a, b) for a, b in zip(unused, before))
found["states"] = len(optimizer.state)
"""


def test_layers_that_only_one_rank_trains_stay_the_same_on_all(tmp_path: Path) -> None:
    """At the end of a partial window too; what no rank trains is not decayed."""
    first, second = run_workers(ROUTED, tmp_path)
    assert first["weights"] == second["weights"]
    assert first["unused"]
    assert second["unused"]
    assert first["states"] == second["states"] == 4
