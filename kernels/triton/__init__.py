"""The fused ops as Triton kernels, for tensors on a GPU.

Each file holds one op: kernel, launch, wrapper. `table.py` and `tile.py` are what they share,
`control.py` names what the kernels of a step read and write, `step_table.py` lays it out. What a
launch is made of is in `launch.py`, for other launchers than Triton's. Nothing waits for the
device, and every result is the same bit for bit when it is computed again.

What holds of all lists of tensors, and `hookrun.ops` has checked:

- All tensors are on one device, which is the current one, and belong to the caller, who keeps them
  alive until the kernels have run: work on the current stream, such as that of torch's allocator,
  comes after them.
- The tensors of a row (a parameter and what belongs to it) have the same shape and strides and no
  gaps: the kernels see memory, not shapes. Addresses need no alignment.
- A tensor that is written shares memory with no other tensor of the lists.
- Dtypes are fp32, fp16, bf16 and fp64, in any mix, unless it says otherwise.

Wrappers, whose names end in ``_``, also increase the versions of what they write, as autograd asks;
launches do not.
"""

from . import control, ema, interpreter, launch, norm, step_table, table
from .adam import adam_, adam_calls
from .clip_grad_norm import clip_grad_norm_
from .convert import convert_
from .ema import ema_update_
from .finalise import finalise, finalise_call, update_scale
from .norm import grad_norm
from .pack import pack_, unpack_
from .sgd import sgd_, sgd_calls
from .swap import swap_
from .unscale import unscale_

if interpreter.is_on():
    interpreter.correct()

__all__ = [
    "adam_",
    "adam_calls",
    "clip_grad_norm_",
    "control",
    "convert_",
    "ema",
    "ema_update_",
    "finalise",
    "finalise_call",
    "grad_norm",
    "launch",
    "norm",
    "pack_",
    "sgd_",
    "sgd_calls",
    "step_table",
    "swap_",
    "table",
    "unpack_",
    "unscale_",
    "update_scale",
]
