"""Fused operations on lists of tensors, usable in any training loop.

Each works on any tensors: by a fast kernel where there is one for them, else by plain torch, with
the same result to rounding. `explain` says what ran and why.
"""

from .backend import explain
from .clip_grad_norm import clip_grad_norm_
from .convert import convert_
from .ema import ema_update_
from .fused_step import FusedStep
from .loss_scale import LossScale
from .norm import grad_norm
from .pack import pack_, unpack_
from .swap import swap_
from .sync_buffers import sync_buffers_
from .unscale import unscale_

__all__ = [
    "FusedStep",
    "LossScale",
    "clip_grad_norm_",
    "convert_",
    "ema_update_",
    "explain",
    "grad_norm",
    "pack_",
    "swap_",
    "sync_buffers_",
    "unpack_",
    "unscale_",
]
