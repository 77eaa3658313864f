"""These tests run on the GPU if there is one; else by Triton's interpreter."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The interpreter computes with NumPy, which warns where a GPU says inf or NaN.
    quiet = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(quiet)
