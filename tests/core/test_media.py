"""Images, figures and tensors as the arrays that loggers write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hookrun.core.media import figure_array, histogram_array, image_array

sizes = st.integers(5, 9)


@given(sizes, sizes, st.sampled_from([1, 3, 4]), st.booleans(), st.booleans(), st.booleans())
def test_every_layout_and_kind_gives_the_same_bytes(
    height: int, width: int, channels: int, chw: bool, tensor: bool, floats: bool
) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    image: Any = pixels.transpose(2, 0, 1) if chw else pixels
    image = image / 255 if floats else image
    image = torch.as_tensor(np.ascontiguousarray(image)) if tensor else image
    before = np.array(image.tolist())
    array, problem = image_array(image)
    assert np.array_equal(array, pixels)
    assert (array.dtype, problem) == (np.uint8, None)
    array[:] = 7
    assert np.array_equal(np.array(image.tolist()), before)


def test_an_image_that_fits_both_layouts() -> None:
    image = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 3)
    as_chw = image.transpose(1, 2, 0)
    assert np.array_equal(image_array(image)[0], image)
    assert np.array_equal(image_array(torch.from_numpy(image))[0], as_chw)
    assert np.array_equal(image_array(image, "CHW")[0], as_chw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_every_width(dtype: torch.dtype) -> None:
    image = torch.tensor([[0.0, 0.5], [1.0, 0.25]], dtype=dtype, requires_grad=True)
    assert image_array(image)[0][..., 0].tolist() == [[0, 128], [255, 64]]


def test_booleans_are_black_and_white() -> None:
    assert image_array(np.eye(2, dtype=bool))[0][..., 0].tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize(
    ("image", "pixels", "problem"),
    [
        ([[0.0, 2.0]], [[0, 255]], "has values from 0 to 2, but floats are from 0 to 1"),
        ([[-1.0, 0.5]], [[0, 128]], "has values from -1 to 0.5"),
        ([[np.nan, 1.0]], [[0, 255]], "has NaN"),
        ([[np.inf, 0.0]], [[255, 0]], "has values from 0 to inf"),
        ([[300, -5]], [[255, 0]], "has values from -5 to 300, but integers are from 0 to 255"),
    ],
)
def test_values_out_of_range_are_clipped_and_reported(
    image: Any, pixels: Any, problem: str
) -> None:
    array, found = image_array(np.array(image))
    assert array[..., 0].tolist() == pixels
    assert found is not None
    assert problem in found


@pytest.mark.parametrize(
    ("image", "layout", "error", "message"),
    [
        ([[1]], None, TypeError, "made of an array or a tensor, not list"),
        (np.array([["a"]]), None, TypeError, "made of real numbers, not of <U1"),
        (np.zeros((2, 2), complex), None, TypeError, "made of real numbers"),
        (np.zeros(4), None, ValueError, r"not \(4,\)"),
        (np.zeros((5, 5, 5)), None, ValueError, r"1, 3 or 4 channels, not \(5, 5, 5\)"),
        (np.zeros((5, 5, 3)), "CHW", ValueError, r"not \(5, 5, 3\) with layout='CHW'"),
        (np.zeros((0, 5, 3)), None, ValueError, r"not \(0, 5, 3\)"),
        (np.zeros((1, 3, 5, 5)), None, ValueError, r"not \(1, 3, 5, 5\)"),
        (np.zeros((5, 5)), "NHWC", ValueError, "'HWC' or 'CHW', not 'NHWC'"),
    ],
)
def test_bad_images(image: Any, layout: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        image_array(image, layout)


def test_figures_are_drawn_in_their_size_and_keep_their_canvas() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1), dpi=30, facecolor="red")
    canvas = figure.canvas
    array = figure_array(figure)
    assert array.shape == (30, 60, 4)
    assert array[0, 0].tolist() == [255, 0, 0, 255]
    assert figure.canvas is canvas
    with pytest.raises(TypeError, match="figure of matplotlib is needed, not Axes: give its fig"):
        figure_array(figure.add_subplot())
    with pytest.raises(TypeError, match="figure of matplotlib is needed, not str"):
        figure_array("figure.png")


def test_histograms_have_the_finite_values() -> None:
    given = torch.tensor([[1.0, np.nan], [-np.inf, 2.0]], dtype=torch.bfloat16)
    values, problem = histogram_array(given)
    assert values.tolist() == [1.0, 2.0]
    assert problem == "leaves out 2 values that are NaN or infinite"
    assert histogram_array(np.array([True, False]))[0].tolist() == [1, 0]
    with pytest.raises(ValueError, match="all 2 values are NaN or infinite"):
        histogram_array(np.array([np.nan, np.inf]))
    with pytest.raises(ValueError, match="finite values: it is empty"):
        histogram_array(torch.zeros(0))
    with pytest.raises(TypeError, match="not float"):
        histogram_array(1.0)
