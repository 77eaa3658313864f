"""Who imports whom, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hookrun

from .architecture import may_import

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hookrun"

MAY_IMPORT = may_import()


def module_name(path: Path) -> str:
    """The name by which a file of hookrun/ is imported."""
    parts = ["hookrun", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """What a file of hookrun/ imports of hookrun, in functions and for type checks too.

    ``from package import name`` is the import of ``package.name``, whatever that is.
    """
    package = ["hookrun", *path.relative_to(PACKAGE).parent.parts]
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        modules |= {name for name in names if name.startswith("hookrun.")}
    return modules


def imported_rooms(path: Path) -> set[str]:
    """The rooms of hookrun that a file imports."""
    return {module.split(".")[1] for module in imported_modules(path)}


def imported_files(files: dict[str, Path]) -> dict[str, set[str]]:
    """By module, the modules among ``files`` that it imports; its package does not count."""
    return {
        name: {
            module if module in files else module.rpartition(".")[0]
            for module in imported_modules(path)
        }
        & files.keys()
        for name, path in files.items()
    }


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """A way along the imports that ends where it begins; empty where there is none."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for imported in sorted(imports[name]):
            if circle := search(imported, [*way, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(imports) if (circle := search(name, []))), [])


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    del files["hookrun"]  # its names come when asked for; `from hookrun import _native` is none
    assert find_circle(imported_files(files)) == []


def test_a_circle_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    codes = {
        "a.py": "from hookrun.b import c",
        "b/__init__.py": "from .d import e",
        "b/d.py": "if TYPE_CHECKING:\n    from ..a import f",
        "g.py": "import hookrun.a",
    }
    for name, code in codes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    files = {module_name(path): path for path in tmp_path.rglob("*.py")}
    assert find_circle(imported_files(files)) == [
        *("hookrun.a", "hookrun.b", "hookrun.b.d", "hookrun.a"),
    ]
    (tmp_path / "b/d.py").write_text("")
    assert find_circle(imported_files(files)) == []


# The counters that third-party code reads and writes.
COUNTERS = {"_epoch", "_iter", "_inner_iter", "_max_epochs", "_max_iters", "_hooks"}


def test_no_underscored_attribute_of_a_runner_is_read_by_others() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in {"runner", "_runner"}
                and node.attr.startswith("_")
            ):
                assert node.attr in COUNTERS, f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_rooms_import_what_the_table_allows(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        if path == PACKAGE / "hooks" / "__init__.py":  # gives the loggers' names too, as MMCV's
            continue
        foreign = imported_rooms(path) - MAY_IMPORT[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_every_room_is_in_the_table() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= MAY_IMPORT.keys()


def test_kernels_import_nothing_of_hookrun() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) hookrun", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("core", {"core"}),
        ("cpu", {"cpu"}),
        ("cuda", {"cuda"}),
        ("bind", {"core", "cpu", "cuda", "bind"}),
    ],
)
def test_native_rooms_include_what_the_table_allows(room: str, allowed: set[str]) -> None:
    for path in (ROOT / "csrc" / room).glob("*.?pp"):
        for include in re.findall(r'#include [<"]([^>"]+)[>"]', path.read_text()):
            foreign = ("pybind11", "Python", "torch", "ATen", "cuda.h", "cuda_runtime")
            assert room == "bind" or not include.startswith(foreign)
            parts = Path(include).parts
            if parts[0] == ".." or parts[0] in {"core", "cpu", "cuda", "bind"}:
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


def imported_after(*codes: str) -> list[set[str]]:
    """The rooms of hookrun that are imported when each code has run, in one process."""
    rooms = "{m.split('.')[1] for m in sys.modules if m.startswith('hookrun.')}"
    printed = run_python("\n".join(["import sys", *(f"{c}; print('-', *{rooms})" for c in codes)]))
    return [set(line.split()) - {"-"} for line in printed.splitlines()]


def test_a_name_imports_what_it_needs() -> None:
    package, operations, runner = imported_after(
        "import hookrun",
        "from hookrun.ops import ema_update_",
        "from hookrun import EpochBasedRunner",
    )
    assert package == set()
    assert operations <= {"_native", "core", "kernels", "ops"}
    assert "hooks" not in runner


def test_shipped_hooks_are_registered_before_their_names_are_imported() -> None:
    code = (
        "import sys; from hookrun.core import HOOKS; print('hookrun.hooks' in sys.modules, "
        "HOOKS.get('EMAHook').__name__, 'Emahook' in HOOKS, len(HOOKS) > 40)"
    )
    assert run_python(code) == "False EMAHook False True"


def test_type_checkers_see_the_names_that_there_are() -> None:
    stub: dict[str, object] = {}
    exec((PACKAGE / "__init__.pyi").read_text(), stub)
    names = stub["__all__"]
    assert isinstance(names, list)
    assert sorted(names) == sorted(hookrun.__all__)
    assert all(getattr(hookrun, name) is stub[name] for name in names)


def test_rooms_are_attributes() -> None:
    code = f"import hookrun; print(*(getattr(hookrun, r).__name__ for r in {sorted(MAY_IMPORT)}))"
    assert run_python(code).split() == [f"hookrun.{room}" for room in sorted(MAY_IMPORT)]
    assert set(dir(hookrun)) >= MAY_IMPORT.keys()


@pytest.mark.parametrize("name", ["EpochBasedRuner", "_runners", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'hookrun' has no attribute '{name}'") as info:
        getattr(hookrun, name)
    assert (info.value.name, info.value.obj) == (name, hookrun)  # Python finds near spellings


def test_all_names_are_there_and_documented() -> None:
    for name in hookrun.__all__:
        assert getattr(hookrun, name).__doc__, name
