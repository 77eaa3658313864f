"""Preparing a model for training in half precision."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DistributedDataParallel

from .cast import cast_tensor_type

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def wrap_fp16_model(
    model: nn.Module, half: bool = False, dtype: torch.dtype = torch.float16
) -> None:
    """Turn half precision on in a model, in place.

    In every module that has the attribute ``fp16_enabled`` it is set to True, which turns on the
    methods decorated with `auto_fp16` and `force_fp32`.

    By default that is all: the parameters stay fp32, and autocast casts them (MMCV on torch ≥ 1.6).
    With ``half=True`` the parameters and buffers become fp16, for training with fp32 master
    weights. Normalisation layers stay fp32, take fp16 inputs and return fp16; their parameters and
    buffers are never rounded to fp16. Other layers keep fp16 weights under ``force_fp32`` too, so
    use that only to compute losses.

    Args:
        model: the model; not yet wrapped in DistributedDataParallel if ``half``.
        half: whether parameters become ``dtype``; build the optimizer hook afterwards.
        dtype: ``torch.float16``, or ``torch.bfloat16``, which needs no loss scale.

    Raises:
        TypeError: ``model`` is no module, or ``half`` no bool.
        ValueError: another dtype; ``half`` for a model that DDP wraps already.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"wrap_fp16_model takes a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(half, bool):
        raise TypeError(f"wrap_fp16_model: half must be True or False, not {half!r}")
    if dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"wrap_fp16_model: dtype must be torch.float16 or torch.bfloat16, not {dtype!r}"
        )
    if half:
        _to_half(model, dtype)
    switched = [module for module in model.modules() if hasattr(module, "fp16_enabled")]
    for module in switched:
        module.fp16_enabled = True  # type: ignore[assignment]  # torch expects a tensor
        module.fp16_dtype = dtype  # type: ignore[assignment]  # the same
    if not switched:
        warnings.warn(
            f"wrap_fp16_model: no module of {type(model).__name__} has fp16_enabled, so no "
            "auto_fp16 takes effect: set self.fp16_enabled = False in the __init__ of modules "
            "with decorated methods",
            stacklevel=2,
        )


def _to_half(model: nn.Module, dtype: torch.dtype) -> None:
    if isinstance(model, DistributedDataParallel):
        raise ValueError(
            "wrap_fp16_model(half=True) must come before DistributedDataParallel, which has laid "
            "out its buckets for fp32 gradients"
        )

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    for module in model.modules():
        if isinstance(module, _NORMS):
            module.float()
            _accept_half(module, dtype)
        else:
            module._apply(convert, recurse=False)  # type: ignore[no-untyped-call]  # torch's


# Classes of hooks rather than a replaced forward method, so that a deepcopy of the model works.
class _CastInputs:
    """A forward pre-hook that casts fp16 arguments to fp32."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        cast = cast_tensor_type((args, kwargs), self.dtype, torch.float32)
        return cast[0], cast[1]


class _CastOutput:
    """A forward hook that casts fp32 results to fp16."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return cast_tensor_type(output, torch.float32, self.dtype)


def _accept_half(norm: nn.Module, dtype: torch.dtype) -> None:
    """Make an fp32 norm take and return fp16. BatchNorm does so itself, in one kernel."""
    if isinstance(norm, _BatchNorm):
        return
    if any(isinstance(hook, _CastInputs) for hook in norm._forward_pre_hooks.values()):
        return  # wrap_fp16_model was called before
    norm.register_forward_pre_hook(_CastInputs(dtype), with_kwargs=True)
    norm.register_forward_hook(_CastOutput(dtype))
