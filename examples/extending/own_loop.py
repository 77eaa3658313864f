"""The fused operations in a loop of your own, without a runner.

    python examples/extending/own_loop.py

The first loop is torch's own: clip, step, average. The second does the same with ``FusedStep``, in
two passes over memory: one for the norm of the gradients, one for all the rest.
"""

from __future__ import annotations

import torch

from hookrun.ops import FusedStep, explain

MOMENTUM = 0.01


def make() -> tuple[torch.nn.Module, torch.optim.Optimizer, list[torch.Tensor]]:
    """A model, its optimizer, and averages of its parameters."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    averages = [each.detach().clone() for each in model.parameters()]
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2), averages


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(16, 8, generator=generator) for _ in range(20)]
    return [(each, each.sum(dim=1, keepdim=True)) for each in inputs]


def train_by_torch() -> list[torch.Tensor]:
    """Gives the averages in the end."""
    model, optimizer, averages = make()
    for inputs, targets in batches():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(averages, model.parameters(), strict=True):
                average.lerp_(parameter, MOMENTUM)
    return averages


def train_fused() -> list[torch.Tensor]:
    """The same."""
    model, optimizer, averages = make()
    step = FusedStep(optimizer, grad_clip={"max_norm": 1.0}, ema=averages, ema_momentum=MOMENTUM)
    for inputs, targets in batches():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        step.step()
    return averages


def main() -> float:
    """The largest difference between the averages of the two loops."""
    pairs = zip(train_by_torch(), train_fused(), strict=True)
    return max(float((one - other).abs().max()) for one, other in pairs)


if __name__ == "__main__":
    print(f"largest difference: {main():.1e}")
    print(explain())
