"""The definition of correct: each fused op in plain torch, on any device, dtype and layout.

The lists of a function have one length: entry i of each belongs together, and has the same shape.
The caller owns all tensors and has checked that no tensor that is written shares memory with
another. Nothing is kept of them after the call.
"""

from .adam import AdamGroup, adam_
from .convert import convert_
from .ema import ema_update_
from .norm import grad_norm
from .pack import pack_, unpack_
from .sgd import SgdGroup, sgd_
from .swap import swap_
from .unscale import scale_, unscale_

__all__ = [
    "AdamGroup",
    "SgdGroup",
    "adam_",
    "convert_",
    "ema_update_",
    "grad_norm",
    "pack_",
    "scale_",
    "sgd_",
    "swap_",
    "unpack_",
    "unscale_",
]
