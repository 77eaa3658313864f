"""Another order of the data in each epoch of a distributed run."""

from __future__ import annotations

from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook
from hookrun.core.samplers import set_sampler_epoch


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Tells the loader's sampler the number of each epoch before it begins.

    A ``DistributedSampler`` that is not told gives the same order again. The sampler may also be
    that of a batch sampler; a loader that has none with ``set_epoch`` is left alone. In an
    IterBasedRunner there is nothing to do: its loaders tell their samplers themselves.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    def before_epoch(self, runner: Any) -> None:
        # None before the first iteration of an IterBasedRunner
        set_sampler_epoch(getattr(runner, "data_loader", None), runner.epoch)
