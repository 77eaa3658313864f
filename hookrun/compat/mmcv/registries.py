"""Registries that are MMCV's to MMCV's code and hookrun's to hookrun."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmcv.utils import Registry as MMCVRegistry
from mmcv.utils import build_from_cfg

from hookrun.core.registry import Registry
from hookrun.distributed import MODULE_WRAPPERS


class SharedRegistry(MMCVRegistry):  # type: ignore[misc]  # MMCV is not typed
    """A registry of MMCV's kind whose entries are those of one of hookrun's.

    MMCV's ``build_from_cfg`` takes only its own kind of registry. What is registered here is in
    hookrun's registry too, and the other way round.

    A class that MMCV itself registers under a name that hookrun has is left out. One of a code base
    replaces an entry of hookrun's that MMCV does not have, such as ``CheckInvalidLossHook``: the
    code base cannot know that the name is taken.

    Args:
        registry: hookrun's.
    """

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.name, build_func=_build, scope="mmcv")
        self.registry = registry
        self._module_dict = registry.module_dict
        self._shipped = dict(registry.module_dict)
        self._of_mmcv: set[str] = set()
        self._filled_by_mmcv = False

    @contextmanager
    def filled_by_mmcv(self) -> Iterator[None]:
        """While MMCV's own modules run: names that hookrun has stay hookrun's."""
        before, self._filled_by_mmcv = self._filled_by_mmcv, True
        try:
            yield
        finally:
            self._filled_by_mmcv = before

    def _register_module(
        self,
        module: Callable[..., Any],
        module_name: str | Sequence[str] | None = None,
        force: bool = False,
    ) -> None:
        names = [module.__name__] if module_name is None else module_name
        for name in [names] if isinstance(names, str) else names:
            if self._filled_by_mmcv:
                self._of_mmcv.add(name)
                if name in self._module_dict:
                    continue
            free = force or (name not in self._of_mmcv and self._is_shipped(name))
            self.registry.register_module(name, force=free, module=module)

    def _is_shipped(self, name: str) -> bool:
        return name in self._shipped and self._shipped[name] is self._module_dict.get(name)


def share_module_wrappers() -> None:
    """Let ``mmcv.parallel`` and hookrun have the same wrappers, registered in either.

    ``mmcv.parallel`` stays MMCV's, with its ``MODULE_WRAPPERS``, to which code bases add theirs.
    """
    from mmcv.parallel import MODULE_WRAPPERS as OF_MMCV

    for name, wrapper in OF_MMCV.module_dict.items():
        MODULE_WRAPPERS.register_module(name, force=True, module=wrapper)
    OF_MMCV._module_dict = MODULE_WRAPPERS.module_dict


def _build(
    cfg: Mapping[str, Any],
    registry: MMCVRegistry,
    default_args: Mapping[str, Any] | None = None,
) -> Any:
    """What ``build`` of a shared registry does; registries of which it is the parent inherit it."""
    if isinstance(registry, SharedRegistry):
        return registry.registry.build(cfg, default_args)
    return build_from_cfg(cfg, registry, default_args)
