"""hookrun's answers where code bases written on MMCV rely on what hookrun itself has not."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from hookrun import hooks
from hookrun.checkpoint import STRIP_MODULE, MapLocation, load_content
from hookrun.checkpoint import load_checkpoint as load_checkpoint_file
from hookrun.core import HOOKS, starts_with_defaults
from hookrun.hooks.evaluation.arguments import NO_LOADER
from hookrun.optim import OPTIMIZER_BUILDERS
from hookrun.optim import DefaultOptimizerConstructor as StrictOptimizerConstructor

# Prefixes of MMCV's CheckpointLoader that are no model zoo: hookrun reads these itself.
_OWN_PREFIXES = ("", "http://", "https://")


class DefaultOptimizerConstructor(StrictOptimizerConstructor):
    """Warns about a custom key that is in no parameter's name: configs of model zoos share theirs.

    Swin's, for example, name an ``absolute_pos_embed`` that most of its models do not have.
    """

    unmatched_keys: ClassVar[str] = "warn"

    def __init__(
        self, optimizer_cfg: Mapping[str, Any], paramwise_cfg: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(optimizer_cfg, paramwise_cfg)
        self._validate_cfg()

    def _validate_cfg(self) -> None:
        """Where subclasses of MMCV's check their own keys."""

    def _is_in(self, param_group: Mapping[str, Any], param_group_list: Sequence[Any]) -> bool:
        """Whether a group has a parameter that is in one of several groups."""
        listed = {id(param) for group in param_group_list for param in group["params"]}
        return any(id(param) in listed for param in param_group["params"])


@starts_with_defaults()
class CheckpointHook(hooks.CheckpointHook):
    """Has written the file when it returns, if the code base has hooks that may read it.

    Such as MMDetWandbHook, or MMCV's PaviLoggerHook, which upload the file of this epoch.
    """

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self.background = _only_own_hooks(runner)


@starts_with_defaults(dataloader=NO_LOADER)
class EvalHook(hooks.EvalHook):
    """Has written the best checkpoint when it returns, if other hooks may read it."""

    def before_run(self, runner: Any) -> None:
        super().before_run(runner)
        self.background = self.keeper.background = _only_own_hooks(runner)


@starts_with_defaults(dataloader=NO_LOADER)
class DistEvalHook(EvalHook, hooks.DistEvalHook):
    """The same on all ranks."""


def _only_own_hooks(runner: Any) -> bool:
    """Whether the code base has no hooks that may read a file, but for its ways to evaluate."""
    return all(
        isinstance(hook, hooks.EvalHook) or type(hook).__module__.startswith("hookrun.")
        for hook in runner.hooks
    )


def load_checkpoint(
    model: nn.Module,
    filename: str | os.PathLike[str],
    map_location: MapLocation = None,
    strict: bool = False,
    logger: logging.Logger | None = None,
    revise_keys: Sequence[tuple[str, str]] = STRIP_MODULE,
    **options: Any,
) -> Any:
    """hookrun's, also for files of model zoos, such as ``torchvision://resnet50``.

    MMCV's CheckpointLoader reads these, and those whose scheme the code base has registered there.
    """
    if not _is_of_a_zoo(os.fspath(filename)):
        return load_checkpoint_file(
            model, filename, map_location, strict, logger, revise_keys, **options
        )
    from mmcv.runner import CheckpointLoader

    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location, logger)
    load_content(model, checkpoint, filename, strict, logger, revise_keys)
    return checkpoint


def _is_of_a_zoo(filename: str) -> bool:
    from mmcv.runner import CheckpointLoader

    prefixes = [each for each in CheckpointLoader._schemes if each not in _OWN_PREFIXES]
    return any(re.match(prefix, filename) for prefix in prefixes if "s3:" not in prefix)


def lenient_answers() -> dict[str, Any]:
    """By name, what is answered instead of hookrun's own; configs that name it get it too."""
    OPTIMIZER_BUILDERS.register_module(force=True, module=DefaultOptimizerConstructor)
    kinds = (CheckpointHook, EvalHook, DistEvalHook)
    for kind in kinds:
        HOOKS.register_module(force=True, module=kind)
    return {
        **{kind.__name__: kind for kind in kinds},
        "DefaultOptimizerConstructor": DefaultOptimizerConstructor,
        "load_checkpoint": load_checkpoint,
    }
