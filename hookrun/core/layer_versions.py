"""The versions of a model's layers: torch keeps them as an attribute of a state dict, and an older
layer's weights are converted by them when they are loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_NAME = "_metadata"


def layer_versions(weights: Mapping[str, Any]) -> Any:
    """Those of a state dict; none where it is a plain dict."""
    return getattr(weights, _NAME, OrderedDict())


def set_layer_versions(weights: OrderedDict[str, Any], versions: Any) -> None:
    """Give them to a state dict that was made of another."""
    vars(weights)[_NAME] = versions
