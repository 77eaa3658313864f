"""Install the peers that the benchmarks compare with into a virtual environment.

    python benchmarks/peers/install.py .venv-bench

MMCV 1.7.2 predates what pip does today: its ``setup.py`` needs ``pkg_resources``, hence an old
setuptools and a build without isolation. It imports torchvision, of which it reads the version and
one table: a stub stands in where torchvision is missing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

MMCV = "mmcv==1.7.2"
BUILD_TOOLS = ["setuptools<80", "wheel"]
# Those of mmengine by name, because it asks for opencv-python, which needs a display's libraries.
DEPENDENCIES = [
    "torch==2.13.0",
    "numpy",
    "addict",
    "yapf",
    "pyyaml",
    "packaging",
    "Pillow",
    "opencv-python-headless",
    "matplotlib",
    "rich",
    "termcolor",
]
WITHOUT_DEPENDENCIES = ["mmengine==0.10.7"]
OTHERS = ["pytorch-ignite==0.5.5"]

STUB = '"""Stands in for torchvision, of which MMCV reads the version and one table."""\n'
STUB_FILES = {
    "__init__.py": STUB + '\nfrom . import models\n\n__version__ = "0.0.0"\n',
    "models/__init__.py": STUB + "\nmodel_urls = {}\n",
}


def pip_install(python: Path, *arguments: str, **environment: str) -> None:
    """Run ``pip install`` of that interpreter."""
    command = [str(python), "-m", "pip", "install", "--quiet", *arguments]
    print("$", *command, flush=True)
    subprocess.run(command, check=True, env={**os.environ, **environment})


def output_of(python: Path, code: str) -> str:
    """What that interpreter prints when it runs the code."""
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def stub_torchvision(python: Path) -> None:
    """Write the stub package unless torchvision is there."""
    find = "import importlib.util as u; print(u.find_spec('torchvision') is not None)"
    if output_of(python, find) == "True":
        return
    site_packages = Path(output_of(python, "import sysconfig as s; print(s.get_path('purelib'))"))
    for name, text in STUB_FILES.items():
        path = site_packages / "torchvision" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=Path, help="the environment's folder; made if missing")
    venv = parser.parse_args().venv
    python = venv.absolute() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip_install(python, *BUILD_TOOLS, *DEPENDENCIES, *OTHERS)
    pip_install(python, "--no-deps", *WITHOUT_DEPENDENCIES)
    pip_install(python, "--no-build-isolation", "--no-deps", MMCV, MMCV_WITH_OPS="0")
    stub_torchvision(python)
    print(output_of(python, "import mmcv.runner, mmengine.runner, ignite.engine; print('ready')"))


if __name__ == "__main__":
    main()
