"""Imports ``mmcv.runner`` where there is no torchvision, of which it reads a version and a table.

What stands in for torchvision is there during the import only: Lightning and Transformers would
take it for the real one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType


def import_runner() -> ModuleType:
    """``mmcv.runner``.

    Raises:
        ImportError: MMCV is not installed.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("mmcv.runner")
    stub = ModuleType("torchvision")
    stub.__dict__.update(__version__="0.0.0", models=ModuleType("torchvision.models"))
    sys.modules["torchvision"] = stub
    try:
        return importlib.import_module("mmcv.runner")
    finally:
        del sys.modules["torchvision"]
