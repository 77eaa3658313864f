"""A learning-rate policy of your own: it halves the rate at doubling distances.

    python examples/extending/policy.py

A policy is a pure function of the initial value, the step and the total. So a run, its resumption
and its preview cannot disagree, and warm-up, added groups and several optimizers come with the
hook. Without a native form it is called in Python, once for each parameter group and step.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from hookrun import HOOKS, ClosureHook, EpochBasedRunner, LrUpdaterHook, TrainStep
from hookrun.schedules import Policy, preview


@dataclass(frozen=True)
class Halving(Policy):
    """``base / 2 ** k`` from step ``first * 2 ** (k - 1)`` on: at first, 2 first, 4 first, ...

    Args:
        first: the step at which the value is halved for the first time.
    """

    first: int

    def __call__(self, base: float, step: int, total: int = 0) -> float:
        halvings = (step // self.first).bit_length()
        return base / 2.0**halvings


@HOOKS.register_module()
class HalvingLrUpdaterHook(LrUpdaterHook):
    """Its policy is ``'Halving'`` in a config: the hook's name without ``LrUpdaterHook``.

    Args:
        first: see `Halving`.
        kwargs: see `LrUpdaterHook`, such as ``by_epoch`` and ``warmup``.
    """

    def __init__(self, first: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if first < 1:
            raise ValueError(f"HalvingLrUpdaterHook: first must be at least 1, not {first!r}")
        self.first = first

    def make_policy(self) -> Halving:
        return Halving(self.first)


CONFIG = {"policy": "Halving", "first": 5, "by_epoch": False, "warmup": "linear", "warmup_iters": 3}


def main() -> tuple[list[float], list[float]]:
    """Train on noise for two epochs.

    Returns:
        The learning rates of its 20 iterations, and those that the preview foretells.
    """
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    data = torch.utils.data.TensorDataset(torch.randn(80, 8), torch.randn(80, 1))
    runner = EpochBasedRunner(
        TrainStep(model, torch.nn.functional.mse_loss),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        logger=logging.getLogger("extending"),
        max_epochs=2,
    )
    rates: list[float] = []
    runner.register_training_hooks(lr_config=CONFIG, optimizer_config={"grad_clip": None})
    runner.register_hook(
        ClosureHook("after_train_iter", lambda runner: rates.extend(runner.current_lr()))
    )
    runner.run([torch.utils.data.DataLoader(data, 8)], [("train", 1)])
    return rates, preview(CONFIG, max_epochs=2, iters_per_epoch=10).lr.tolist()


if __name__ == "__main__":
    for rate, foretold in zip(*main(), strict=True):
        print(f"{rate:.5f}  {foretold:.5f}")
