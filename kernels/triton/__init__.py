"""The fused ops as Triton kernels, for tensors on a GPU.

Each file holds one op: kernel, launch, wrapper. `table.py` and `tile.py` are what they share,
`control.py` names what the kernels of a step read and write, `step_table.py` lays it out. Nothing
waits for the device, and every result is the same bit for bit when it is computed again.

The tensors of a row (a parameter and what belongs to it) have the same strides and no gaps: the
kernels see memory, not shapes. `hookrun.ops` makes sure of that.
"""

from . import control, ema, interpreter, norm, step_table, table
from .adam import adam_
from .clip_grad_norm import clip_grad_norm_
from .convert import convert_
from .ema import ema_update_
from .finalise import finalise, update_scale
from .norm import grad_norm
from .pack import pack_, unpack_
from .sgd import sgd_
from .swap import swap_
from .unscale import unscale_

if interpreter.is_on():
    interpreter.correct()

__all__ = [
    "adam_",
    "clip_grad_norm_",
    "control",
    "convert_",
    "ema",
    "ema_update_",
    "finalise",
    "grad_norm",
    "norm",
    "pack_",
    "sgd_",
    "step_table",
    "swap_",
    "table",
    "unpack_",
    "unscale_",
    "update_scale",
]
