"""DistSamplerSeedHook: shuffles the data differently in each epoch."""

from __future__ import annotations

from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook
from hookrun.core.samplers import set_sampler_epoch


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Calls ``set_epoch`` of the loader's sampler before each epoch.

    Without that call a ``DistributedSampler`` yields the same order in every epoch. The sampler of
    a batch sampler is found too; a loader without a sampler that has ``set_epoch`` is left as it
    is. In an IterBasedRunner this hook is not needed: its loaders call ``set_epoch`` by themselves.
    """

    writes: ClassVar[frozenset[str]] = frozenset()

    def before_epoch(self, runner: Any) -> None:
        # An IterBasedRunner has no data_loader before its first iteration.
        set_sampler_epoch(getattr(runner, "data_loader", None), runner.epoch)
