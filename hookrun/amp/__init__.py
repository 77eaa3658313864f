"""Mixed precision: casts, decorators and the loss scaler under MMCV's names."""

from .cast import cast_tensor_type
from .decorators import auto_fp16, force_fp32
from .loss_scaler import LossScaler
from .wrap import wrap_fp16_model

__all__ = ["LossScaler", "auto_fp16", "cast_tensor_type", "force_fp32", "wrap_fp16_model"]
