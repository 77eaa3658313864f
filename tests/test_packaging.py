"""What users install: a wheel and a source distribution, built in isolation, work elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
import sys
sys.path[:0] = [{site!r}]
import hookrun, hookrun.kernels, torch
assert hookrun.__file__.startswith({site!r}), hookrun.__file__
class Model(torch.nn.Linear):
    def train_step(self, batch, optimizer):
        loss = self(batch).sum()
        return dict(loss=loss, log_vars=dict(loss=loss), num_samples=len(batch))
model = Model(2, 1)
runner = hookrun.EpochBasedRunner(
    model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), work_dir={work!r}, max_epochs=1)
runner.register_training_hooks(dict(policy='step', step=1), dict(), dict(interval=1))
runner.run([[torch.ones(3, 2)] * 4], [('train', 1)])
print(runner.iter)
"""


def build(source: Path, out: Path, *arguments: str) -> Path:
    """Build it; what is built is looked at, so a compiler need not take its time to optimize."""
    subprocess.run(
        [sys.executable, "-m", "build", *arguments, "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        env={**os.environ, "HOOKRUN_CMAKE_ARGS": "-DCMAKE_CXX_FLAGS_RELEASE=-O1"},
    )
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "--sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that both are shown to be whole."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build(source, tmp_path_factory.mktemp("wheel"), "--wheel")


def test_the_wheel_works_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = SMOKE.format(site=str(site), work=str(tmp_path / "work"))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["4"]


def test_the_wheel_holds_what_it_should_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"hookrun/py.typed", "hookrun/_native.pyi", "hookrun/kernels/__init__.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2, tops  # hookrun and its metadata


@pytest.mark.long
def test_pip_installs_into_an_environment_of_its_own(sdist: Path, tmp_path: Path) -> None:
    """Plain `pip install`, in build isolation, without torch there."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", str(sdist)], check=True, cwd=tmp_path
    )
    code = "from importlib.util import find_spec; print(find_spec('hookrun').origin)"
    found = subprocess.run([python, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert b"site-packages" in found.stdout
