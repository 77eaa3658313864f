"""Shared fixtures, and the two switches of the test run: `--long` and HOOKRUN_NATIVE."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.sampling import Sampling


def _use_native_from(folder: str) -> None:
    """Load hookrun._native from another build, such as the one with sanitizers."""
    (path,) = Path(folder).glob("_native*.so")
    spec = importlib.util.spec_from_file_location("hookrun._native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["hookrun._native"] = module


if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: threads beside them would only wait for each other. Read by torch
    # when it is imported, also by the processes that tests start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if "HOOKRUN_NATIVE" in os.environ:
    _use_native_from(os.environ["HOOKRUN_NATIVE"])


# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_FILES = pytest.StashKey[set[str]]()
ROOT = Path(__file__).parent.parent
# What tools write into the project's folder while they run.
CACHES = {"__pycache__", ".pytest_cache", ".hypothesis", ".benchmarks", "build", "hookrun.egg-info"}


def pytest_sessionstart(session: pytest.Session) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    session.config.stash[_FILES] = set(os.listdir(ROOT))


def _left_files(config: pytest.Config) -> list[str]:
    return sorted(set(os.listdir(ROOT)) - config.stash[_FILES] - CACHES)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tests write into folders of their own: what lies in the project's afterwards is a failure."""
    if "PYTEST_XDIST_WORKER" not in os.environ and _left_files(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Says which, below the long list of what was skipped."""
    started = "PYTEST_XDIST_WORKER" not in os.environ and _FILES in config.stash
    if started and (left := _left_files(config)):
        print(f"ERROR: tests left {left} in {ROOT}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the heavier forms of tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Those of the whole project, such as the wheel's, take minutes: no worker waits for them last.
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)
    for_gpu = [item for item in items if "gpu" in item.keywords]
    if for_gpu:
        _skip_without_gpu(for_gpu)
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a heavier form; --long runs it")
    sampling = Sampling()
    for item in items:
        if not sampling.takes(item) or "long" in item.keywords:
            item.add_marker(skip)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Collections of garbage in tests pass over torch and the thousands of tests themselves."""
    if len(session.items) > 100:
        import torch

        torch.optim.SGD([torch.zeros(1)], lr=1.0)  # imports for seconds, the first time
    if "torch" in sys.modules:
        # A loader that is collected as a part of a cycle cannot tell its workers to end any more,
        # and waits so long, 5 s, before it ends them.
        sys.modules["torch.utils.data._utils"].MP_STATUS_CHECK_INTERVAL = 0.3  # type: ignore[attr-defined]  # torch's own
    gc.collect()
    gc.freeze()


def _skip_without_gpu(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="there is no CUDA device; benchmarks/gpu.sh is for one")
        for item in items:
            item.add_marker(skip)


@pytest.fixture
def logger() -> logging.Logger:
    """A logger whose records caplog sees and that writes nowhere."""
    logger = logging.getLogger("hookrun.tests")
    logger.setLevel(logging.INFO)
    return logger


@pytest.fixture
def make_runner(tmp_path: Path, logger: logging.Logger) -> Callable[..., Any]:
    """Makes a runner of a tiny model in a temporary folder; arguments replace its own."""
    import torch

    from hookrun import EpochBasedRunner
    from tests.support import TinyModel

    def make(runner_type: type = EpochBasedRunner, **arguments: Any) -> Any:
        if "max_epochs" not in arguments and "max_iters" not in arguments:
            arguments[
                "max_epochs" if issubclass(runner_type, EpochBasedRunner) else "max_iters"
            ] = 2
        model = arguments.pop("model", None)
        model = TinyModel() if model is None else model
        if "optimizer" not in arguments:
            arguments["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return runner_type(
            model, **{"work_dir": str(tmp_path / "run"), "logger": logger, **arguments}
        )

    return make


@pytest.fixture
def host_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes each use of a method by which the host reads a tensor."""
    import torch

    reads: list[str] = []
    for name in ("item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def read(self: Any, *args: Any, _name: str = name, _original: Any = original) -> Any:
            reads.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, read)
    return reads
