"""auto_fp16 and force_fp32: the precision of one method of a module."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from hookrun.core.errors import did_you_mean

from .cast import cast_tensor_type

Method = TypeVar("Method", bound=Callable[..., Any])


def auto_fp16(
    apply_to: Iterable[str] | None = None,
    out_fp32: bool = False,
    supported_types: tuple[type, ...] = (nn.Module,),
) -> Callable[[Method], Method]:
    """Decorator: the method runs in half precision while its object's ``fp16_enabled`` is true.

    fp32 tensors among the arguments, in nested containers too, are cast to fp16, and the method
    runs under ``torch.autocast``. `wrap_fp16_model` sets ``fp16_enabled``, and the
    dtype if it is not fp16. While ``fp16_enabled`` is false or missing, the method runs unchanged.

    On a CPU, autocast covers convolutions, linear layers and matrix products, in bf16 and in fp16;
    CPUs are faster in bf16. (MMCV casts only the inputs there, not the weights, and fails.)
    ``*args``, ``**kwargs`` and keyword-only arguments are cast too; MMCV drops the first and does
    not cast the others.

    Args:
        apply_to: names of the arguments to cast; None for all.
        out_fp32: whether to cast fp16 tensors of the result back to fp32.
        supported_types: classes whose methods may be decorated.

    Raises:
        TypeError: ``apply_to`` is a string or has items that are no names; at a call, the object is
            of none of ``supported_types``.
        ValueError: ``apply_to`` names an argument that the method does not have.

    Examples:
        >>> class Net(nn.Module):
        ...     fp16_enabled = False
        ...
        ...     @auto_fp16(apply_to=("image",))
        ...     def forward(self, image, boxes): ...
    """
    supported = supported_types if isinstance(supported_types, tuple) else (supported_types,)

    def decorate(method: Method) -> Method:
        return _in_precision("auto_fp16", method, apply_to, supported, half=True, back=out_fp32)

    return decorate


def force_fp32(
    apply_to: Iterable[str] | None = None, out_fp16: bool = False
) -> Callable[[Method], Method]:
    """Decorator: the method runs in fp32 while its module's ``fp16_enabled`` is true.

    The counterpart of `auto_fp16`, for losses and the like: fp16 tensors among the arguments
    are cast to fp32, and the method runs with autocast off.

    Args:
        apply_to: names of the arguments to cast; None for all.
        out_fp16: whether to cast fp32 tensors of the result to fp16.

    Raises:
        TypeError, ValueError: as for `auto_fp16`.

    Examples:
        >>> class Head(nn.Module):
        ...     fp16_enabled = False
        ...
        ...     @force_fp32(apply_to=("features",))
        ...     def loss(self, features, labels): ...
    """

    def decorate(method: Method) -> Method:
        return _in_precision(
            "force_fp32", method, apply_to, (nn.Module,), half=False, back=out_fp16
        )

    return decorate


def _in_precision(
    decorator: str,
    method: Method,
    apply_to: Iterable[str] | None,
    supported: tuple[type, ...],
    *,
    half: bool,
    back: bool,
) -> Method:
    """The method in half precision, or in fp32; ``back`` casts its result to the other dtype."""
    signature = inspect.signature(method)
    names = _checked_names(decorator, method, signature, apply_to)
    positional, cast_varargs = _positional(signature, names)

    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not args or not isinstance(args[0], supported):
            raise TypeError(
                f"@{decorator} is for methods of {' and '.join(t.__name__ for t in supported)}, "
                f"but {method.__qualname__} was called "
                + (f"on {type(args[0]).__name__}" if args else "on nothing")
            )
        owner = args[0]
        if not getattr(owner, "fp16_enabled", False):
            return method(*args, **kwargs)
        low: torch.dtype = getattr(owner, "fp16_dtype", torch.float16)
        src, dst = (torch.float32, low) if half else (low, torch.float32)
        casts = positional + [cast_varargs] * (len(args) - len(positional))
        new_args = [
            cast_tensor_type(value, src, dst) if cast else value
            for value, cast in zip(args, casts, strict=False)
        ]
        new_kwargs = {
            name: cast_tensor_type(value, src, dst) if names is None or name in names else value
            for name, value in kwargs.items()
        }
        with torch.autocast(_device_type(owner, args, kwargs), dtype=low, enabled=half):
            output = method(*new_args, **new_kwargs)
        return cast_tensor_type(output, dst, src) if back else output

    return cast(Method, wrapper)


def _checked_names(
    decorator: str, method: Any, signature: inspect.Signature, apply_to: Iterable[str] | None
) -> frozenset[str] | None:
    if apply_to is None:
        return None
    listed = isinstance(apply_to, Iterable) and not isinstance(apply_to, str)
    names = list(apply_to) if listed else None
    if names is None or not all(isinstance(name, str) for name in names):
        example = apply_to if isinstance(apply_to, str) else "x"
        raise TypeError(
            f"{decorator}: apply_to must be a tuple of argument names such as "
            f"apply_to=({example!r},), not {apply_to!r}"
        )
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in names:
            if name not in signature.parameters:
                raise ValueError(
                    f"{decorator}: {method.__qualname__} has no argument {name!r} to apply to. "
                    + did_you_mean(name, list(signature.parameters)[1:])
                )
    return frozenset(names)


def _positional(
    signature: inspect.Signature, names: frozenset[str] | None
) -> tuple[list[bool], bool]:
    """Whether to cast each positional argument, and those in ``*args``; never ``self``."""
    casts: list[bool] = []
    for name, parameter in signature.parameters.items():
        cast = names is None or name in names
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return [False, *casts[1:]] if casts else [False], cast
        if parameter.kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        ):
            casts.append(cast)
    return [False, *casts[1:]], False


def _device_type(owner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The device type for autocast: the module's, else that of an argument."""
    if isinstance(owner, nn.Module):
        parameter = next(owner.parameters(), None)
        if parameter is not None:
            return parameter.device.type
    tensor = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
    if tensor is not None:
        return tensor.device.type
    return "cuda" if torch.cuda.is_available() else "cpu"
