"""Images, figures and tensors as the arrays that loggers write; the given ones are not modified."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_CHANNELS = (1, 3, 4)
_LAYOUTS = ("HWC", "CHW")


def image_array(image: Any, layout: str | None = None) -> tuple[NDArray[np.uint8], str | None]:
    """An image as bytes, of shape (height, width, channels).

    Args:
        image: an array or tensor of shape (height, width), (height, width, channels) or (channels,
            height, width), with 1, 3 or 4 channels. Integers are from 0 to 255, floats and booleans
            from 0 to 1.
        layout: ``'HWC'`` or ``'CHW'``. By default that which fits the shape; if both fit, CHW for
            tensors and HWC for arrays.

    Returns:
        The image, and what is wrong with its values, if something is: those out of range are
        clipped, and NaN becomes 0.

    Raises:
        TypeError: no array or tensor of real numbers.
        ValueError: another shape or layout.
    """
    array = _as_array("an image", image)
    if layout not in (None, *_LAYOUTS):
        raise ValueError(f"the layout of an image is 'HWC' or 'CHW', not {layout!r}")
    array = _with_channels_last(array, layout, prefers_chw=isinstance(image, torch.Tensor))
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255), None
    is_float = array.dtype.kind == "f"
    limit, problem = 1 if is_float else 255, None
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= limit):
        what = "NaN" if np.isnan(low) else f"values from {low:g} to {high:g}"
        hint = "floats are from 0 to 1" if is_float else "integers are from 0 to 255"
        problem = f"has {what}, but {hint}: they are clipped"
        array = np.clip(np.nan_to_num(array, nan=0.0) if is_float else array, 0, limit)
    if is_float:
        array = np.rint(array.astype(np.float64) * 255)
    return array.astype(np.uint8), problem


def figure_array(figure: Any) -> NDArray[np.uint8]:
    """A figure of matplotlib as an image, with its own size and resolution.

    Raises:
        TypeError: it is no figure.
    """
    if not (hasattr(figure, "savefig") and hasattr(figure, "canvas")):
        hint = ": give its figure" if hasattr(figure, "figure") else ""
        raise TypeError(f"a figure of matplotlib is needed, not {type(figure).__name__}{hint}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    try:
        agg: Any = FigureCanvasAgg(figure)  # the figure's own canvas may be a window
        agg.draw()
        return np.array(agg.buffer_rgba(), dtype=np.uint8)
    finally:
        figure.set_canvas(canvas)


def histogram_array(values: Any) -> tuple[NDArray[Any], str | None]:
    """The finite values of an array or tensor, as a vector.

    Returns:
        The values, and a text about those that are left out, if there are any.

    Raises:
        TypeError: no array or tensor of real numbers.
        ValueError: there is no finite value.
    """
    array = _as_array("a histogram", values).reshape(-1)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if not finite.size:
        what = f"all {array.size} values are NaN or infinite" if array.size else "it is empty"
        raise ValueError(f"a histogram needs finite values: {what}")
    left_out = array.size - finite.size
    return finite, f"leaves out {left_out} values that are NaN or infinite" if left_out else None


def _as_array(what: str, given: Any) -> NDArray[Any]:
    """A copy of an array or tensor of real numbers, on the host."""
    if isinstance(given, torch.Tensor):
        tensor = given.detach()
        narrow = tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64)
        given = (tensor.float() if narrow else tensor).cpu().numpy()
    if not isinstance(given, np.ndarray):
        raise TypeError(f"{what} is made of an array or a tensor, not {type(given).__name__}")
    if given.dtype.kind not in "buif":
        raise TypeError(f"{what} is made of real numbers, not of {given.dtype}")
    return np.array(given)


def _with_channels_last(array: NDArray[Any], layout: str | None, prefers_chw: bool) -> NDArray[Any]:
    shape = array.shape
    if array.size and array.ndim == 2:
        return array[..., None]
    fitting = []
    if array.size and array.ndim == 3:
        channels = {"HWC": shape[2], "CHW": shape[0]}
        fitting = [each for each in _LAYOUTS if channels[each] in _CHANNELS]
    if not fitting or layout not in (None, *fitting):
        raise ValueError(
            "the shape of an image is (height, width), (height, width, channels) or (channels, "
            f"height, width) with 1, 3 or 4 channels, not {tuple(shape)}"
            + (f" with layout={layout!r}" if layout else "")
        )
    preferred = "CHW" if prefers_chw else "HWC"
    chosen = layout or (preferred if preferred in fitting else fitting[0])
    return array.transpose(1, 2, 0) if chosen == "CHW" else array
