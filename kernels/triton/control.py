"""The small blocks on the device by which kernels and host pass on what a step needs.

They are data, not arguments: the host need not wait for them, and when a captured CUDA graph is
replayed, it reads what they hold then.

| block | dtype | holds |
| --- | --- | --- |
| control | fp64, counts as int64 | what finalise.py decides of a step |
| scale | fp32, counts as int32 | the dynamic loss scale |
| settings | fp64 | what the host sets: a header, then a line per parameter group |
| rows | int64 | addresses, and the number of its group, per parameter |
| bias_corrections | fp64 | per parameter: 1 - beta1^t, sqrt(1 - beta2^t) for Adam; t for SGD |
"""

from __future__ import annotations

from typing import NamedTuple

import triton.language as tl
from torch import Tensor

from .table import Kind, triton_dtype

# The control block.
FACTOR = tl.constexpr(0)  # multiplies the gradients: clip coefficient over loss scale
SKIP = tl.constexpr(1)  # int64: 1 if this step is skipped
SKIPPED = tl.constexpr(2)  # int64: steps skipped so far
CONTROL_SIZE = 4

# The scale block. The scale comes first, so that a 0-dim view of it can multiply a loss.
SCALE = tl.constexpr(0)
GROWTH_FACTOR = tl.constexpr(1)
BACKOFF_FACTOR = tl.constexpr(2)
MIN_SCALE = tl.constexpr(3)
MAX_SCALE = tl.constexpr(4)
GROWTH_INTERVAL = tl.constexpr(5)  # int32
FINITE_STEPS = tl.constexpr(6)  # int32: since the scale last changed
FOUND_INF = tl.constexpr(7)  # int32: noted since the latest update
SCALE_SIZE = 8

# The settings: a header and groups, each LINE numbers long.
EMA_MOMENTUM = tl.constexpr(0)
MAX_NORM = tl.constexpr(1)
LINE = tl.constexpr(8)

# A group's line for SGD and for Adam; SIGN is -1 to maximize, flags are 0 or 1.
LR = tl.constexpr(0)
WEIGHT_DECAY = tl.constexpr(1)
SIGN = tl.constexpr(2)
MOMENTUM = tl.constexpr(3)
DAMPENING = tl.constexpr(4)
NESTEROV = tl.constexpr(5)
BETA1 = tl.constexpr(3)
BETA2 = tl.constexpr(4)
EPS = tl.constexpr(5)
DECOUPLED = tl.constexpr(6)

# A row: addresses of a parameter and what belongs to it, 0 for what there is not.
PARAM = tl.constexpr(0)
STATE = tl.constexpr(1)  # SGD's momentum buffer, Adam's exp_avg
STATE2 = tl.constexpr(2)  # Adam's exp_avg_sq
MODEL = tl.constexpr(3)  # the parameter that the model computes with
EMA = tl.constexpr(4)
STEP = tl.constexpr(5)  # fp32: steps that this parameter has taken
GROUP = tl.constexpr(6)  # no address: the number of the group
COLUMNS = tl.constexpr(8)


class Phase(NamedTuple):
    """What the kernels of a second pass read: the blocks, which the caller keeps alive."""

    rows: Tensor  # int64, parameters x COLUMNS
    grads: Tensor  # int64, the gradients' addresses
    settings: Tensor  # fp64, (1 + groups) x LINE numbers
    control: Tensor  # fp64, CONTROL_SIZE numbers
    bias_corrections: Tensor  # fp64, parameters x 2


def constants(kinds: tuple[Kind, ...]) -> tuple[tl.dtype | None, ...]:
    """The dtypes that a second pass is compiled for: of a launch's one or two kinds."""
    first, second = kinds if len(kinds) == 2 else (kinds[0], (None,) * 5)
    param, state, grad, model, ema = map(triton_dtype, first)
    return param, state, ema, grad, model, triton_dtype(second[2]), triton_dtype(second[3])
