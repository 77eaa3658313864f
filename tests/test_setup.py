"""What setup.py does with what an earlier build left in the clone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = """\
cmake_minimum_required(VERSION 3.18)
set(CMAKE_CXX_COMPILER_WORKS ON)  # so that CMake need not try it
set(CMAKE_CXX_ABI_COMPILED ON)
project(small LANGUAGES CXX)
option(EXTRA "something optional" OFF)
file(WRITE ${CMAKE_BINARY_DIR}/extra.txt ${EXTRA})
add_library(small OBJECT small.cpp)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with a build folder in which all is right."""
    root = tmp_path_factory.mktemp("clone")
    (root / "CMakeLists.txt").write_text(PROJECT)
    (root / "small.cpp").write_text("int small() { return 1; }\n")
    build(root, "-DEXTRA=ON")
    return root


def build(root: Path, *settings: str) -> None:
    load(root).configure(root / "build", settings)
    subprocess.run(["cmake", "--build", root / "build"], check=True, capture_output=True)


def load(root: Path) -> Any:
    """The module setup.py, for a project in another folder."""
    spec = importlib.util.spec_from_file_location("hookrun_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = root
    return module


def remembered(name: str, value: str) -> Callable[[Path], None]:
    """Let CMake remember this under a name, as it would of another environment."""

    def plant(build: Path) -> None:
        cache = build / "CMakeCache.txt"
        lines = [each for each in cache.read_text().splitlines() if not each.startswith(name + ":")]
        cache.write_text("\n".join([*lines, f"{name}:FILEPATH={value}", ""]))

    return plant


def written(name: str, text: str) -> Callable[[Path], None]:
    def plant(build: Path) -> None:
        (build / name).write_text(text)

    return plant


STALE = {
    "a ninja that is gone": remembered("CMAKE_MAKE_PROGRAM", "/tmp/pip-build-env-1/bin/ninja"),
    "a CMake that is gone": remembered("CMAKE_COMMAND", "/tmp/pip-build-env-1/bin/cmake"),
    "modules of a CMake that is gone": remembered("CMAKE_ROOT", "/tmp/pip-build-env-1/share/cmake"),
    "a compiler that is gone": remembered("CMAKE_CXX_COMPILER", "/opt/gone/bin/c++"),
    "an archiver that is gone": remembered("CMAKE_AR", "/opt/gone/bin/ar"),
    "another generator": remembered("CMAKE_GENERATOR", "Unix Makefiles"),
    "another source": remembered("CMAKE_HOME_DIRECTORY", "/somewhere/else"),
    "another build folder": remembered("CMAKE_CACHEFILE_DIR", "/somewhere/else/build"),
    "half a file": written("CMakeCache.txt", "CMAKE_HOME_DIRECTORY:INTERNAL=/some"),
    "an empty file": written("CMakeCache.txt", ""),
    "no text": written("CMakeCache.txt", "\0\1\2"),
    "a damaged note": written("environment.json", '{"folders": '),
    "nothing wrong": lambda build: None,
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("plant", STALE.values(), ids=STALE)
def test_what_is_damaged_in_the_folder_is_mended(
    built: Path, plant: Callable[[Path], None]
) -> None:
    plant(built / "build")
    build(built, "-DEXTRA=ON")
    assert (built / "build" / "extra.txt").read_text() == "ON"


def test_a_clone_can_be_moved(built: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))
    (moved / "small.cpp").write_text("#error this is compiled\n")
    with pytest.raises(subprocess.CalledProcessError, match="--build"):
        build(moved, "-DEXTRA=ON")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["settings", "cmake", "ninja", "python", "CXXFLAGS"])
def test_in_another_environment_all_is_found_anew_and_nothing_is_compiled_again(
    built: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    build(built, "-DEXTRA=ON")
    remembered("HOOKRUN_OLD", "of the environment before")(built / "build")
    (compiled,) = (built / "build").rglob("*.o")
    before = compiled.stat().st_mtime_ns
    settings = ["-DEXTRA=ON"]
    if name == "settings":
        settings = ["-Dpybind11_DIR=/somewhere"]
    elif name == "python":
        monkeypatch.setattr(sys, "version", "3.99")
    elif name == "CXXFLAGS":
        monkeypatch.setenv(name, "")
    else:
        real = shutil.which(name)
        assert real is not None
        (built / name).mkdir(exist_ok=True)
        (built / name / name).unlink(missing_ok=True)
        (built / name / name).symlink_to(real)
        monkeypatch.setenv("PATH", f"{built / name}:{os.environ['PATH']}")
    build(built, *settings)
    assert "HOOKRUN_OLD" not in (built / "build" / "CMakeCache.txt").read_text()
    assert (built / "build" / "extra.txt").read_text() == ("OFF" if name == "settings" else "ON")
    assert compiled.stat().st_mtime_ns == before


def test_in_the_same_environment_nothing_is_found_anew(built: Path) -> None:
    build(built, "-DEXTRA=ON")
    remembered("HOOKRUN_OLD", "of the build before")(built / "build")
    build(built, "-DEXTRA=ON")
    assert "HOOKRUN_OLD" in (built / "build" / "CMakeCache.txt").read_text()


def test_an_error_of_the_project_is_raised(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT + "message(FATAL_ERROR no)\n")
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            build(tmp_path)


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path) -> None:
    tag = str(sys.implementation.cache_tag)
    with load(tmp_path).build_folder() as folder:
        assert folder == tmp_path / "build" / tag
    folder.rmdir()
    folder.write_text("a file is in the way")
    with load(tmp_path).build_folder() as other:
        assert other.is_dir()
        assert not other.is_relative_to(tmp_path / "build")
    assert not other.exists()


@pytest.mark.long
def test_pip_installs_twice_from_one_clone(tmp_path: Path) -> None:
    """In build isolation, whose tools are in another folder each time, and gone afterwards."""
    clone = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    gone = clone / "hookrun" / "gone.py"
    gone.write_text("")
    for number in (1, 2):
        place = tmp_path / f"venv{number}"
        venv.create(place, with_pip=True)
        python = place / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-deps", str(clone)], check=True, cwd=place
        )
        code = "from importlib.util import find_spec; print(find_spec('hookrun').origin)"
        found = subprocess.run([python, "-c", code], check=True, cwd=place, capture_output=True)
        package = Path(found.stdout.decode().strip()).parent
        assert package.is_relative_to(place)
        assert len(list(package.glob("_native*.so"))) == 1
        assert (package / "gone.py").exists() == (number == 1)
        gone.unlink(missing_ok=True)
