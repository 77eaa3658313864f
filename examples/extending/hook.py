"""A hook of your own: it tells how far each step moves the weights, relative to their size.

    python examples/extending/hook.py

A ratio around 1e-3 is usual; one that stays far above it means a learning rate that is too high.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from hookrun import HOOKS, EpochBasedRunner, Hook, TrainStep, every


@HOOKS.register_module()
class UpdateRatioHook(Hook):
    """Logs the norm of an update over the norm of the weights.

    Register it below the optimizer hook: its two methods are called before and after the step.
    """

    # What it touches. So the runner knows that it leaves the parameters alone.
    reads = frozenset({"parameters"})
    writes = frozenset({"log"})

    def __init__(self) -> None:
        self.before: list[torch.Tensor] = []

    # Decided in C++: at the other iterations nothing is called.
    @every(iters=5)
    def before_train_iter(self, runner: Any) -> None:
        self.before = [each.detach().clone() for each in runner.model.parameters()]

    @every(iters=5)
    def after_train_iter(self, runner: Any) -> None:
        after = [each.detach() for each in runner.model.parameters()]
        update = [new - old for new, old in zip(after, self.before, strict=True)]
        ratio = torch.nn.utils.get_total_norm(update) / torch.nn.utils.get_total_norm(after)
        # A tensor, not a number: the log buffer reads it when a logger is due, and only then
        # waits for the GPU.
        runner.log_buffer.update({"update_ratio": ratio})

    def close(self, runner: Any, error: BaseException | None) -> None:
        self.before = []  # called however the run ends


def main() -> Any:
    """Train a line on noise for two epochs; gives the runner."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    data = torch.utils.data.TensorDataset(torch.randn(80, 8), torch.randn(80, 1))
    runner = EpochBasedRunner(
        TrainStep(model, torch.nn.functional.mse_loss),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        logger=logging.getLogger("extending"),
        max_epochs=2,
    )
    runner.register_training_hooks(
        lr_config={"policy": "fixed"},
        optimizer_config={"grad_clip": None},
        log_config={"interval": 5, "hooks": [{"type": "TextLoggerHook"}]},
        custom_hooks_config=[{"type": "UpdateRatioHook", "priority": "BELOW_NORMAL"}],
    )
    runner.run([torch.utils.data.DataLoader(data, 8)], [("train", 1)])
    return runner


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
