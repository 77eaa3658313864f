"""Answering ``mmcv.runner`` by hookrun."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from hookrun.core.errors import did_you_mean

PACKAGE = "mmcv.runner"


def install() -> None:
    """Let every import of ``mmcv.runner`` and its submodules get hookrun's names.

    MMCV's own modules still run, so that names that only MMCV has are there:
    ``BaseModule``, ``Sequential``, ``CheckpointLoader``. What they define under a name that hookrun
    has is replaced. Calling it again does nothing.

    Raises:
        ModuleNotFoundError: no MMCV 1.x is installed.
        RuntimeError: ``mmcv.runner`` was imported before.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    check_mmcv()
    if PACKAGE in sys.modules:
        raise RuntimeError(
            f"{PACKAGE} was imported before install(): whoever imported it holds MMCV's names. "
            "Call hookrun.compat.mmcv.install() first, or run the script by "
            "`python -m hookrun.compat.mmcv SCRIPT ...`"
        )
    from .names import Names

    sys.meta_path.insert(0, _Finder(Names()))


def check_mmcv() -> None:
    """Check that an MMCV that has ``mmcv.runner`` is installed.

    Raises:
        ModuleNotFoundError: there is none, or it is MMCV 2.
    """
    if importlib.util.find_spec("mmcv") is None:
        raise ModuleNotFoundError(
            "no MMCV is installed: hookrun answers mmcv.runner, and the rest of mmcv (Config, "
            "registries, transforms) stays MMCV's. Install MMCV 1.x, such as mmcv==1.7.2",
            name="mmcv",
        )
    import mmcv

    if PathFinder.find_spec(PACKAGE, mmcv.__path__) is None:
        raise ModuleNotFoundError(
            f"MMCV {mmcv.__version__} has no mmcv.runner: it is MMCV 2, whose runner moved to "
            "MMEngine. Install MMCV 1.x, such as mmcv==1.7.2",
            name=PACKAGE,
        )


class _Finder(MetaPathFinder):
    """Finds the modules of ``mmcv.runner`` where they are, and loads them with hookrun's names."""

    def __init__(self, names: Any) -> None:
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != PACKAGE and not fullname.startswith(f"{PACKAGE}."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.names)
        return spec


class _Loader(Loader):
    """Runs a module of MMCV's, then puts hookrun's names into it."""

    def __init__(self, loader: Loader, names: Any) -> None:
        self.loader = loader
        self.names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with self.names.filled_by_mmcv():
            self.loader.exec_module(module)
        self.names.replace(module)
        vars(module).setdefault("__getattr__", _missing_name(module))

    def __getattr__(self, name: str) -> Any:  # get_source and the like
        return getattr(self.loader, name)


def _missing_name(module: ModuleType) -> Any:
    """What answers for names that neither MMCV nor hookrun has."""

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        public = [each for each in vars(module) if not each.startswith("_")]
        raise AttributeError(
            f"neither hookrun nor MMCV has {name!r} in {module.__name__}. "
            + did_you_mean(name, public),
            name=name,
            obj=module,
        )

    return __getattr__
