"""Who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hookrun

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hookrun"

# The house's table: a room may import these rooms of ours, and itself.
MAY_IMPORT = {
    "core": {"_native"},
    "storage": {"_native"},
    "schedules": {"_native", "core"},
    "optim": {"_native", "core"},
    "ops": {"kernels", "_native"},
    "amp": {"core", "ops"},
    "data": {"core", "ops"},
    "distributed": {"core", "ops"},
    "checkpoint": {"core", "ops", "storage", "distributed"},
    "runners": {"_native", "core", "optim", "data", "storage", "checkpoint", "distributed"},
    "hooks": {
        "_native",
        "core",
        "schedules",
        "ops",
        "amp",
        "storage",
        "checkpoint",
        "distributed",
    },
    "loggers": {"core", "storage", "distributed"},
}


def imported_rooms(path: Path) -> set[str]:
    """The rooms of hookrun that a file imports, in functions too."""
    package = ["hookrun", *path.relative_to(PACKAGE).parent.parts]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("hookrun.")}
    return rooms


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_what_the_table_allows(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        foreign = imported_rooms(path) - MAY_IMPORT[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= {*MAY_IMPORT, "cli"}


def test_kernels_import_nothing_of_hookrun() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) hookrun", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize(
    ("room", "allowed"), [("core", {"core"}), ("cpu", {"cpu"}), ("bind", {"core", "cpu", "bind"})]
)
def test_native_rooms_include_what_the_table_allows(room: str, allowed: set[str]) -> None:
    for path in (ROOT / "csrc" / room).glob("*.?pp"):
        for include in re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text()):
            assert room == "bind" or not include.startswith(("pybind11", "Python", "torch", "ATen"))
            parts = Path(include).parts
            if parts[0] == ".." or parts[0] in {"core", "cpu", "bind"}:
                assert parts[parts[0] == ".."] in allowed, f"{path.name} includes {include}"


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    return result.stdout.strip()


def test_kernels_are_hookrun_kernels_and_nothing_else() -> None:
    code = "import sys, hookrun, hookrun.kernels; print('kernels' in sys.modules)"
    assert run_python(code) == "False"


def test_importing_hookrun_imports_no_vendor_and_starts_nothing() -> None:
    heavy = ["rich", "matplotlib", "sklearn", "triton", "tensorboard", "wandb", "mlflow"]
    code = (
        "import sys, threading, torch; before = set(sys.modules); import hookrun; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before], threading.active_count())"
    )
    assert run_python(code) == "[] 1"


def test_all_names_are_there_and_documented() -> None:
    for name in hookrun.__all__:
        assert getattr(hookrun, name).__doc__, name
