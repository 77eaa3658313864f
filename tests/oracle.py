"""MMCV 1.7.2 as an oracle, where it is installed.

``HOOKRUN_MMCV`` may name a site-packages folder that has it, to be searched after our own.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from functools import cache
from types import ModuleType

import pytest


@cache
def import_mmcv(module: str) -> ModuleType:
    """A module of MMCV's; skips the test where there is none."""
    if "HOOKRUN_MMCV" in os.environ:
        sys.path.append(os.environ["HOOKRUN_MMCV"])
    pytest.importorskip("mmcv", reason="MMCV is not installed; HOOKRUN_MMCV may say where it is")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)
