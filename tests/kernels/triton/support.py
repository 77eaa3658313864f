"""Tensors for the kernels' tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hookrun.kernels.triton.control import CONTROL_SIZE, LINE, Phase
from hookrun.kernels.triton.step_table import StepLists, StepTable
from hookrun.kernels.triton.table import on_device
from tests.ops.support import Guarded

CHUNK = 8 * 1024  # elements, as in kernels/triton/table.py
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Around vectors, blocks, chunks and nothing at all; () is a 0-dim tensor.
SHAPES: list[tuple[int, ...]] = [
    *((0,), (), (1,), (3,), (15,), (16,), (17,), (2, 0, 3), (64,), (5, 13), (1023,), (1025,)),
    *((CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (2 * CHUNK + 129,), (0,)),
]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def guarded(
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype | Sequence[torch.dtype] = torch.float32,
    offset: int = 0,
    seed: int = 0,
) -> Guarded:
    """Guarded tensors on the device."""
    made = Guarded(shapes, dtype, offset, seed)
    if DEVICE.type != "cpu":
        made.buffers = {kind: buffer.to(DEVICE) for kind, buffer in made.buffers.items()}
        made.tensors = [
            made.buffers[t.dtype].as_strided(t.shape, t.stride(), t.storage_offset())
            for t in made.tensors
        ]
        made.keep()
    return made


class Step:
    """The blocks of a step whose control says: go, with gradients times `factor`.

    Args:
        lists: the step's tensors.
        group_of: the number of each parameter's group.
        lines: the groups' lines of the settings.
    """

    def __init__(
        self,
        lists: StepLists,
        group_of: Sequence[int],
        lines: Sequence[Sequence[float]],
        factor: float = 1.0,
        ema_momentum: float = 0.0,
        max_norm: float = 1.0,
    ) -> None:
        self.table = StepTable(lists, group_of)
        header = [ema_momentum, max_norm]
        padded = [[*line, *[0.0] * (LINE.value - len(line))] for line in (header, *lines)]
        self.phase = Phase(
            self.table.rows,
            on_device(self.table.grads, DEVICE),
            torch.tensor(padded, dtype=torch.float64, device=DEVICE),
            torch.zeros(CONTROL_SIZE, dtype=torch.float64, device=DEVICE),
            self.table.bias_corrections,
        )
        self.phase.control[0] = factor

    def skip(self) -> None:
        self.phase.control.view(torch.int64)[1] = 1


def widened(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copies, in fp32 where they are narrower: what a reference without rounding works on."""
    return [
        t if t is None else t.to(torch.float32 if t.element_size() < 4 else t.dtype, copy=True)
        for t in tensors
    ]


def assert_near(
    actual: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    computed_in: torch.dtype,
    units: float,
) -> None:
    """Equal to so many units in the last place of each tensor's largest element, or of 1.

    Units of the wider error: that of the tensor's own dtype, or of the parameter's, from which it
    was computed. A few are due to fused multiplications and a sum that cancels.
    """
    for one, other in zip(actual, expected, strict=True):
        if one is not None and other is not None and one.numel() > 0:
            eps = max(torch.finfo(dtype).eps for dtype in (one.dtype, computed_in))
            bound = units * eps * max(float(other.abs().max()), 1.0)
            torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=bound)
