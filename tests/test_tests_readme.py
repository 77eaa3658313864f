"""tests/README.md names the tests of every source file, and every support file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from tests.quick import ROOT, TESTS, mirrored_test, paths_in, quick_tests, table_rows

ROWS = [(paths_in(source), paths_in(tests)) for source, tests in table_rows("elsewhere")]
LISTED = Counter(path for sources, _ in ROWS for path in sources)


def source_files() -> list[Path]:
    """All source files, relative to the root, but for `__init__.py` without a function or class."""
    found = [path for room in ("hookrun", "kernels", "csrc") for path in (ROOT / room).rglob("*.*")]
    return sorted(path.relative_to(ROOT) for path in found if is_source(path))


def is_source(path: Path) -> bool:
    if path.name == "__init__.py":
        body = ast.parse(path.read_text()).body
        return any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in body)
    return path.suffix in (".py", ".pyi", ".cpp", ".hpp")


def has_mirrored_test(source: Path) -> bool:
    test = mirrored_test(source)
    return test is not None and test.is_file()


def test_each_source_file_has_a_test_file_of_its_name_or_one_row() -> None:
    for source in source_files():
        rows = LISTED[str(source)]
        if has_mirrored_test(source):
            assert rows == 0, f"{source} has a test file of its name: delete its row"
        else:
            assert rows == 1, f"{source} has no test file of its name, but {rows} rows"


def test_rows_name_files_that_are_there() -> None:
    sources = {str(source) for source in source_files()}
    for named, tests in ROWS:
        assert len(named) == 1, f"a row is of one source file, not of {named}"
        assert named[0] in sources, f"{named[0]} is no source file"
        assert tests, f"the row of {named[0]} names no test"
        for test in tests:
            assert Path(test).name.startswith("test_"), f"{test} in the row of {named[0]}"
            assert (TESTS / test).is_file(), f"{test} in the row of {named[0]} is no file"


def test_each_support_file_has_a_row() -> None:
    support = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("*.*")
        if path.suffix in (".py", ".cpp", ".hpp")
        and not path.name.startswith("test_")
        and path.name != "__init__.py"
    }
    listed = [path for name, _ in table_rows("support") for path in paths_in(name)]
    assert sorted(listed) == sorted(support)


def test_the_quick_run_has_the_tests_of_what_has_changed() -> None:
    changed = ["hookrun/hooks/state/ema.py", "csrc/bind/timer.hpp"]
    chosen = {str(each) for each in quick_tests(changed)}
    assert {"tests/hooks/state/test_ema.py", "tests/hooks/watching/test_iter_timer.py"} < chosen
    assert len(chosen) == 5  # and those about the whole project
