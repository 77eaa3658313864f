"""Ranks that would train differently, and so part: refused on all of them, or warned about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .workers import run_workers

PROGRAM = """
import logging
from torch import nn
from hookrun import ClosureHook, DistEvalHook, EMAHook, EpochBasedRunner, EvalHook, load_checkpoint
from tests.distributed.faulty_ranks import Model, Wrapped
from tests.distributed.faulty_ranks import wrap as wrap_over_all
from tests.support import make_loader

warned = []
logger = logging.getLogger("settings")
logger.propagate = False
class Warnings(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())
logger.addHandler(Warnings(logging.WARNING))

groups = [dist.new_group([each]) for each in range(world_size)]
def wrap(model, wrapper):
    if wrapper == "ddp of one":
        return Wrapped(model, process_group=groups[rank])
    return wrap_over_all(model, wrapper)

def run(name, wrapper="ddp", optimizer=torch.optim.SGD, lr=0.1, lr_config=None, step=None,
        part=None, epochs=3, save=None, hook=None, load=None):
    warned.clear()
    model = Model()
    if part is not None:
        model.part = part
    model = wrap(model, wrapper)
    runner = EpochBasedRunner(
        model, optimizer=optimizer(model.parameters(), lr=lr), logger=logger, max_epochs=3,
        work_dir=folder / "run"
    )
    runner.register_training_hooks(lr_config, step or {}, save, None)
    if hook is not None:
        runner.register_hook(hook)
    if load is not None:
        load_checkpoint(model, load)
    set_epochs = lambda runner: setattr(runner, "max_epochs", epochs)
    runner.register_hook(ClosureHook("before_train_iter", set_epochs))
    error = ""
    try:
        runner.run([make_loader(2)], [("train", 1)])
    except ValueError as caught:
        error = str(caught)
    found[name] = [error, list(warned), runner.iter]

def pick(*values):
    return values[rank]

own = {"type": "Fp16OptimizerHook", "loss_scale": 8.0}
for wrapper in ("ddp", "fsdp"):
    run("lr " + wrapper, wrapper, lr=pick(0.1, 0.2))
    run("same " + wrapper, wrapper)
run("groups of their own", "ddp of one", lr=pick(0.1, 0.2))
run("class", optimizer=pick(torch.optim.SGD, torch.optim.Adam))
run("apart", "none", lr=pick(0.1, 0.2))
clip = lambda norm: {"grad_clip": {"max_norm": norm}}
run("clip", step=pick(clip(1.0), clip(2.0)))
run("clip by a tensor", step=pick(clip(1.0), clip(torch.ones(()))))
run("no clip", step=pick(clip(1.0), {}))
run("calls", "fsdp", step=pick({}, {"fused": False}))
run("step", lr_config={"policy": "step", "step": pick([1], [2])})
run("warm-up", lr_config={"policy": "exp", "gamma": 0.5, "warmup": pick(None, "linear"),
    "warmup_iters": 3})
run("parameters", "none", step=own, optimizer=lambda _, lr: torch.optim.SGD([nn.Parameter(
    torch.ones(1))], lr), part=pick(nn.Linear(2, 3), nn.Linear(2, 4)))
torch.manual_seed(rank)
run("values", "none", step=own, part=nn.Linear(2, 2))
run("same values", "none", step=own)
run("sharded", "fsdp", save={"interval": 1, "sharded": rank == 0})
run("evaluates", "fsdp", hook=pick(EvalHook(make_loader(1)), None))
run("evaluates alone", hook=pick(EvalHook(make_loader(1)), None))
zeros = {name: torch.zeros_like(each) for name, each in Model().state_dict().items()}
torch.save(zeros, folder / f"zeros_{rank}.pth")
run("loaded on one", load=pick(str(folder / "zeros_0.pth"), None))
run("loaded on all", load=str(folder / f"zeros_{rank}.pth"))
run("loaded apart", "ddp of one", load=pick(str(folder / "zeros_0.pth"), None))
run("epochs", epochs=pick(3, 4))
ema = lambda **given: EMAHook(**{"warm_up": 0, **given})
run("ema momentum", hook=pick(ema(momentum=0.1), ema(momentum=0.3)))
run("ema interval", "none", hook=pick(ema(), ema(interval=2)), step=own)
run("ema warm-up", hook=pick(ema(), ema(warm_up=10)))
run("ema alike", hook=ema(momentum=0.3, interval=3))
for name, value in {"loss_scale": 16.0, "distributed": False}.items():
    run(name, "none", step=pick(own, {**own, name: value}))
dynamic = {"type": "Fp16OptimizerHook", "loss_scale": {"init_scale": pick(8.0, 32.0)}}
run("dynamic loss_scale", "none", step=dynamic)
run("skip_nonfinite", step=pick({}, {"skip_nonfinite": True}))
run("save_optimizer", "fsdp", save={"interval": 1, "save_optimizer": rank == 0})
run("evaluates at other times", "fsdp", hook=EvalHook(make_loader(1), interval=pick(1, 2)))
run("evaluates otherwise", hook=DistEvalHook(make_loader(1), broadcast_bn_buffer=rank == 0))
"""

# What all ranks say, or what the only warning says.
REFUSED = {
    "lr ddp": "(optimizer.param_groups[0]['lr']: rank 0: 0.1, rank 1: 0.2)",
    "lr fsdp": "(optimizer.param_groups[0]['lr']: rank 0: 0.1, rank 1: 0.2)",
    "class": "(optimizer: rank 0: SGD, rank 1: Adam)",
    "clip": "OptimizerHook must be the same on all ranks",
    "no clip": "OptimizerHook must be the same on all ranks",
    "calls": "OptimizerHook must be the same on all ranks",
    "step": "StepLrUpdaterHook must be the same on all ranks",
    "warm-up": "ExpLrUpdaterHook must be the same on all ranks",
    "parameters": "have other parameters (part.weight: rank 0: [3, 2], rank 1: [4, 2])",
    "evaluates": "EvalHook must be the same on all ranks",
    "sharded": "CheckpointHook must be the same on all ranks",
    "ema momentum": "has rank 0: {'momentum': 0.1}, rank 1: {'momentum': 0.3}",
    "ema interval": "EMAHook must have the same settings on all ranks that have it, but has rank "
    "0: {'interval': 1}, rank 1: {'interval': 2}",
    "ema warm-up": "rank 0: {'warm_up': 0}, rank 1: {'warm_up': 10}",
    "loss_scale": "'scale': 8.0",
    "distributed": "'distributed': False",
    "dynamic loss_scale": "'scale': 32.0",
    "skip_nonfinite": "rank 0: {'skip_nonfinite': False}, rank 1: {'skip_nonfinite': True}",
    "save_optimizer": "rank 0: {'save_optimizer': True}, rank 1: {'save_optimizer': False}",
    "evaluates at other times": "rank 0: {'interval': 1}, rank 1: {'interval': 2}",
    "evaluates otherwise": "DistEvalHook must be the same on all ranks",
    "epochs": "have other values of max_epochs, which must be set on all of them: rank 0: 3, rank ",
}
WARNED = {
    "values": "begin with other values of their parameters",
    "loaded on one": "such as load_checkpoint, must be called on all ranks",
    "apart": "2 processes train separate models",
}
SAME = [
    "evaluates alone",
    "groups of their own",
    "ema alike",
    "loaded on all",
    "loaded apart",
    "same ddp",
    "same fsdp",
    "same values",
    "clip by a tensor",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_workers(PROGRAM, Path(tmp_path_factory.mktemp("settings")))


@pytest.mark.parametrize("name", REFUSED)
def test_all_ranks_refuse_what_would_make_them_part(found: list[Any], name: str) -> None:
    """Before the first step, or at the end of the epoch in which it was changed."""
    for each in found:
        error, _, iteration = each[name]
        assert REFUSED[name] in error
        assert iteration == (2 if name == "epochs" else 0)


@pytest.mark.parametrize("name", WARNED)
def test_ranks_that_may_part_are_warned_about(found: list[Any], name: str) -> None:
    (_, (warning,), _), second = (each[name] for each in found)
    assert WARNED[name] in warning
    assert second == ["", [], 6]


@pytest.mark.parametrize("name", SAME)
def test_what_is_the_same_is_not(found: list[Any], name: str) -> None:
    for each in found:
        assert each[name] == ["", [], 6]
