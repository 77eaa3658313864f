"""Ctrl-C at any instant of a run: what was done and what is noted of it never come apart."""

from __future__ import annotations

import random
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hookrun
from hookrun import EpochBasedRunner, Hook, IterBasedRunner
from hookrun.checkpoint import read_checkpoint
from hookrun.checkpoint.averages import averages_of_model
from tests.interrupting import Instants
from tests.support import TinyModel, make_loader

FILES = ("/hookrun/runners/", "/hookrun/hooks/", "/hookrun/core/", "/hookrun/data/", "contextlib")


class Half(TinyModel):
    """Takes batches in single precision."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(x.half(), *args, **kwargs)

    def train_step(self, data_batch: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return super().train_step({name: value.half() for name, value in data_batch.items()})


class Raw(Hook):
    """Keeps the model's own weights after each iteration."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []

    def before_run(self, runner: Any) -> None:
        self.weights.append(own_weights(runner.model))

    def after_train_iter(self, runner: Any) -> None:
        self.weights.append(own_weights(runner.model))


def own_weights(model: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in model.parameters()]


def make_run(kind: str, folder: Path, handle_signals: bool = False) -> tuple[Any, Any]:
    """A runner with all that changes something and changes it back, and how to run it.

    If it handles signals, Ctrl-C in the loop waits for the step at work.
    """
    by_epoch = kind != "iter"
    model = Half().half() if kind == "half" else TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    length: dict[str, int] = {"max_epochs": 2} if by_epoch else {"max_iters": 4}
    runner = (EpochBasedRunner if by_epoch else IterBasedRunner)(
        model,
        optimizer=optimizer,
        work_dir=folder,
        meta={},
        handle_signals=handle_signals,
        **length,
    )
    runner.logger.disabled = True
    runner.register_training_hooks(
        lr_config={"policy": "step", "step": [1], "warmup": "linear", "warmup_iters": 2},
        optimizer_config=None,
        checkpoint_config={"interval": 1 if by_epoch else 2, "max_keep_ckpts": 1},
        log_config={"interval": 1, "hooks": [{"type": "TextLoggerHook"}]},
        momentum_config={"policy": "step", "step": [1]},
    )
    step = hookrun.Fp16OptimizerHook(loss_scale=16.0) if kind == "half" else hookrun.OptimizerHook()
    runner.register_hook(step, priority="ABOVE_NORMAL")
    runner.register_hook(hookrun.EMAHook(momentum=0.3, warm_up=0), priority=49)
    runner.register_hook(
        hookrun.EvalHook(make_loader(1), interval=1 if by_epoch else 2, by_epoch=by_epoch)
    )

    def run(**options: Any) -> None:
        torch.manual_seed(0)
        loaders = [make_loader(2), make_loader(1)]
        runner.run(loaders, [("train", 1), ("val", 1)], sync_guard=True, **options)

    return runner, run


def global_state() -> list[Any]:
    signals = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    patched = [vars(Tensor).get(name) for name in ("item", "cpu", "__bool__", "__getitem__")]
    return [*signals, *patched, torch.where, torch.is_grad_enabled(), warnings.showwarning]


def is_among(weights: list[Tensor], known: list[list[Tensor]]) -> bool:
    return any(all(map(torch.equal, weights, each)) for each in known)


def trajectory(kind: str, folder: Path) -> tuple[list[list[Tensor]], int]:
    """The model's own weights after each iteration, and how many instants a run has."""
    runner, run = make_run(kind, folder / "straight")
    raw = Raw()
    runner.register_hook(raw, priority="VERY_LOW")
    run()
    assert len(raw.weights) == 5
    counts = []
    for name in ("counted", "counted again"):
        runner, run = make_run(kind, folder / name)
        instants = Instants(FILES)
        with instants.watching():
            run()
        counts.append(instants.count)
    return raw.weights, min(counts) - 100  # the last ones lie behind the end of the run


@pytest.mark.parametrize("kind", ["epoch", "iter", "half"])
def test_interrupted_at_any_instant(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    known, count = trajectory(kind, tmp_path)
    before = global_state()
    assert count > 1000
    tries = 1000 if request.config.getoption("--long") else 8
    for number, at in enumerate(sorted(random.Random(count).sample(range(1, count + 1), tries))):
        runner, run = make_run(kind, tmp_path / str(at), handle_signals=number % 2 == 0)
        instants = Instants(FILES, at)
        with pytest.raises(KeyboardInterrupt), instants.watching():
            run()
        where = f"interrupted at {at} of {count}: {instants.where}"
        assert global_state() == before, where
        record = averages_of_model(runner.model)
        assert record is None or not record.swapped, where
        assert is_among(own_weights(runner.model), known), where
        # The runner goes on from there, and its files are whole.
        run()
        assert global_state() == before, where
        for file in (tmp_path / str(at)).glob("*.pth"):
            read_checkpoint(file)
