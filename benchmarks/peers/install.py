"""Install the peers that the benchmarks compare with into a virtual environment.

    python benchmarks/peers/install.py .venv-bench

MMCV 1.7.2 predates what pip does today: its ``setup.py`` needs ``pkg_resources``, hence an old
setuptools and a build without isolation.
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
# Asked for together with torch, so that they take the one that is there.
OTHERS = [
    "pytorch-ignite==0.5.5",
    "lightning==2.6.6",
    "transformers==5.24.0",
    "accelerate==1.15.0",
]
CHECK = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from peers import ALL_PEERS, load_peers
missing = load_peers(ALL_PEERS)[1]
print(f"not usable: {{missing}}" if missing else "ready")
"""


def pip_install(python: Path, *arguments: str, **environment: str) -> None:
    """Run ``pip install`` of that interpreter."""
    command = [str(python), "-m", "pip", "install", "--quiet", *arguments]
    print("$", *command, flush=True)
    subprocess.run(command, check=True, env={**os.environ, **environment})


def output_of(python: Path, code: str) -> str:
    """What that interpreter prints when it runs the code."""
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


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
    print(output_of(python, CHECK))


if __name__ == "__main__":
    main()
