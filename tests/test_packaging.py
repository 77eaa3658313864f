"""What users install: a wheel and a source distribution work elsewhere.

Compiling takes minutes. Without ``--long`` the wheel is built with what is compiled already, and
the source distribution is compared with the tree instead of being compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

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


def build(source: Path, out: Path, *arguments: str, **environment: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "build", *arguments, "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
        env={**os.environ, **environment},
    )
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in isolation with ``--long``, which installs what a build needs."""
    isolation = [] if request.config.getoption("--long") else ["--no-isolation"]
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "--sdist", *isolation)


@pytest.fixture(scope="module", params=["tree", pytest.param("sdist", marks=pytest.mark.long)])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in this tree; or in isolation from the source distribution, which compiles it all."""
    out = tmp_path_factory.mktemp("wheel")
    if request.param == "tree":
        return build(ROOT, out, "--wheel", "--no-isolation")
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(request.getfixturevalue("sdist")) as archive:
        archive.extractall(unpacked, **SAFELY)
    (source,) = unpacked.iterdir()
    # What is built is looked at, so the compiler need not take its time to optimize.
    return build(source, out, "--wheel", HOOKRUN_CMAKE_ARGS="-DCMAKE_CXX_FLAGS_RELEASE=-O1")


def sources(*folders: str) -> dict[str, bytes]:
    """What the files in these folders hold, but for what is built there."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in files
        if path.suffix != ".so" and "__pycache__" not in path.parts
    }


def test_the_source_distribution_holds_all_that_a_build_needs(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, **SAFELY)
    (top,) = tmp_path.iterdir()
    needed = sources("hookrun", "kernels", "csrc", "tests")
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "Makefile"):
        needed[name] = (ROOT / name).read_bytes()
    for name in ("README.md", "LICENSE", "constraints.txt"):
        needed[name] = (ROOT / name).read_bytes()
    for name, content in needed.items():
        assert (top / name).read_bytes() == content, name
    assert not list(top.rglob("*.so"))


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


def test_the_wheel_holds_the_modules_of_the_tree(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    modules = {name for name in archive.namelist() if name.endswith((".py", ".pyi"))}
    kernels = sources("kernels")
    expected = {**sources("hookrun"), **{f"hookrun/{name}": kernels[name] for name in kernels}}
    suffixes = (".py", ".pyi")
    expected = {name: content for name, content in expected.items() if name.endswith(suffixes)}
    assert {name: archive.read(name) for name in modules} == expected


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
