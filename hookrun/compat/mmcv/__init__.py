"""Code bases written on MMCV 1.x, unchanged: ``mmcv.runner`` answered by hookrun.

    python -m hookrun.compat.mmcv tools/train.py CONFIG ...

runs a script with every name of ``mmcv.runner`` that hookrun has answered by hookrun;
`install` does it from code. MMCV must be installed: its configs, registries, image
transforms and building blocks of models stay MMCV's.
"""

from .install import install

__all__ = ["install"]
