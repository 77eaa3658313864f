"""Builds hookrun._native with CMake and Ninja, and installs kernels/ as hookrun.kernels.

Everything else is in pyproject.toml.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# What CMake takes from the environment once and then remembers.
REMEMBERED = ("CXX", "CXXFLAGS", "LDFLAGS", "CMAKE_CXX_COMPILER_LAUNCHER")


class PythonBuild(build_py):
    """Leaves out what earlier builds put there: modules that the source has no more."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    """Runs CMake for the one extension and puts the result where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        with build_folder() as folder:
            configure(
                folder,
                [
                    f"-DPython_EXECUTABLE={sys.executable}",
                    f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                    *os.environ.get("HOOKRUN_CMAKE_ARGS", "").split(),
                ],
                [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}"],
            )
            subprocess.run(["cmake", "--build", str(folder), "--target", "_native"], check=True)


@contextlib.contextmanager
def build_folder() -> Iterator[Path]:
    """CMake's folder: kept between builds, so that a change compiles only what it touches.

    Where that folder cannot be written, such as after a build by another user, it is a temporary
    one.
    """
    folder = ROOT / "build" / str(sys.implementation.cache_tag)
    if can_write(folder):
        yield folder
        return
    print(f"{folder} cannot be written: building in a temporary folder", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def configure(folder: Path, settings: Sequence[str], varying: Sequence[str] = ()) -> None:
    """Let CMake write the build files of a folder.

    CMake remembers the paths of its tools in the folder. A build in isolation leaves paths of an
    environment that is gone by the next build, and a clone may have moved: where anything that is
    remembered differs from what would be found now, CMake finds all of it anew. Objects stay, and
    those that are still right are not compiled again.

    Args:
        folder: CMake's folder of build files.
        settings: options for CMake that it remembers.
        varying: options that may differ from build to build.

    Raises:
        subprocess.CalledProcessError: CMake failed, and not for what it remembered.
    """
    note = folder / "environment.json"
    now = json.dumps(environment(folder, settings), indent=1)
    same = note.is_file() and note.read_text(errors="replace") == now
    note.unlink(missing_ok=True)  # back when all went well
    if not same:
        forget_tools(folder)
    command = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *settings, *varying]
    if same and subprocess.run(command).returncode:
        # An earlier build may have been interrupted while CMake wrote its files.
        print("CMake failed in an earlier build's folder: once more, afresh", file=sys.stderr)
        forget_tools(folder)
        same = False
    if not same:
        subprocess.run(command, check=True)
    note.write_text(now)


def environment(folder: Path, settings: Sequence[str]) -> dict[str, object]:
    """All that decides what CMake finds and remembers."""
    return {
        "folders": [str(ROOT), str(folder.resolve())],
        "settings": list(settings),
        "tools": [shutil.which(name) for name in (os.environ.get("CXX", "c++"), "cmake", "ninja")],
        "python": [sys.version, sysconfig.get_paths()["include"]],
        "variables": {name: os.environ.get(name) for name in REMEMBERED},
    }


def forget_tools(folder: Path) -> None:
    """Delete what CMake remembers in a folder, but not the objects that were compiled there."""
    (folder / "CMakeCache.txt").unlink(missing_ok=True)
    for found in folder.glob("CMakeFiles/[0-9]*"):
        shutil.rmtree(found)


if __name__ == "__main__":
    setup(
        packages=[
            *find_packages(include=["hookrun", "hookrun.*"]),
            "hookrun.kernels",
            *(f"hookrun.kernels.{name}" for name in find_packages("kernels")),
        ],
        package_dir={"hookrun.kernels": "kernels"},
        ext_modules=[Extension("hookrun._native", sources=[])],
        cmdclass={"build_py": PythonBuild, "build_ext": CMakeBuild},
    )
