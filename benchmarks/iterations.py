"""Whole training iterations around the phases: what a user of the phases waits for.

The phase alone is what hookrun shortens; how much of it is seen depends on what the host does while
the device computes forward and backward. So both are measured.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phases import LOSS_SCALE, Data, HalfData, Phase, Side


class Training:
    """A model on random images, and the phase's data: its own parameters and gradients.

    Args:
        phase: says whether the model is fp16, and whether it runs under bf16 autocast.
        model: made on the CPU; takes images, gives a score per class.
        batch: images per iteration.
        size: their height and width in pixels.
        device: where all is.
    """

    def __init__(self, phase: Phase, model: nn.Module, batch: int, size: int, device: str) -> None:
        dtype = torch.float16 if phase.half else torch.float32
        self.model = model.to(device, dtype, memory_format=torch.channels_last)
        kind = HalfData if phase.half else Data
        self.data = kind.of_model(list(self.model.parameters()))
        images = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.randint(10, (batch,), device=device)
        self._scale = LOSS_SCALE if phase.half else 1.0
        self._autocast = torch.autocast(device, torch.bfloat16, enabled=phase.autocast)

    def backward(self) -> None:
        """New gradients, as a training loop makes them."""
        self.model.zero_grad()
        with self._autocast:
            loss = cross_entropy(self.model(self._images).float(), self._labels)
        (loss * self._scale).backward()

    def iterations(self, side: Side, count: int) -> Callable[[], None]:
        """So many iterations that end with one side of the phase."""

        def run() -> None:
            for _ in range(count):
                self.backward()
                side()

        return run
