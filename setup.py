"""Builds hookrun._native with CMake and Ninja, and installs kernels/ as hookrun.kernels.

Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Runs CMake for the one extension and puts the result where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Kept between builds, so that a change compiles only what it touches.
        build_dir = ROOT / "build" / str(sys.implementation.cache_tag)
        build_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "cmake",
                "-S",
                str(ROOT),
                "-B",
                str(build_dir),
                "-G",
                "Ninja",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                *os.environ.get("HOOKRUN_CMAKE_ARGS", "").split(),
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build_dir), "--target", "_native"], check=True)


setup(
    packages=[
        *find_packages(include=["hookrun", "hookrun.*"]),
        "hookrun.kernels",
        *(f"hookrun.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"hookrun.kernels": "kernels"},
    ext_modules=[Extension("hookrun._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
