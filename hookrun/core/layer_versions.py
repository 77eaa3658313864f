"""The versions of a model's layers. torch keeps them in an attribute of the state dict, and layers
use them to convert the weights of older versions when they are loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_NAME = "_metadata"


def layer_versions(weights: Mapping[str, Any]) -> Any:
    """The layer versions of a state dict; an empty dict if it has none."""
    return getattr(weights, _NAME, OrderedDict())


def set_layer_versions(weights: OrderedDict[str, Any], versions: Any) -> None:
    """Set the layer versions of a state dict that was built from another one."""
    vars(weights)[_NAME] = versions
