"""The names of ``mmcv.runner`` that hookrun answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from mmcv.utils import Registry as MMCVRegistry

import hookrun
from hookrun.core.registry import Registry

from .fp16 import fp16_answers
from .lenient import lenient_answers
from .loggers import logger_answers
from .registries import SharedRegistry, share_module_wrappers


class Names:
    """hookrun's answer for each name, and how modules of MMCV's get it."""

    def __init__(self) -> None:
        share_module_wrappers()
        answers = {name: getattr(hookrun, name) for name in hookrun.__all__} | lenient_answers()
        answers |= fp16_answers() | logger_answers()
        self._answers = {
            name: SharedRegistry(answer) if isinstance(answer, Registry) else answer
            for name, answer in answers.items()
        }

    @property
    def registries(self) -> list[SharedRegistry]:
        return [each for each in self._answers.values() if isinstance(each, SharedRegistry)]

    @contextmanager
    def filled_by_mmcv(self) -> Iterator[None]:
        """While a module of MMCV's runs."""
        with ExitStack() as stack:
            for registry in self.registries:
                stack.enter_context(registry.filled_by_mmcv())
            yield

    def replace(self, module: ModuleType) -> None:
        """Replace what the module has from ``mmcv.runner`` by hookrun's, where hookrun has it."""
        for name, value in list(vars(module).items()):
            if name in self._answers and _is_of_runner(value):
                setattr(module, name, self._answers[name])


def _is_of_runner(value: Any) -> bool:
    """Whether MMCV's runner defines it, rather than another part of MMCV that it imports."""
    if isinstance(value, MMCVRegistry):
        return True
    return str(getattr(value, "__module__", "")).startswith("mmcv.runner")
