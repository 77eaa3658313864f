"""What MMCV looks at when it imports torchvision."""

from . import models  # noqa: F401

__version__ = "0.28.0"
