"""Which tests `make test-quick` runs: those of the source files that have changed.

    python tests/quick.py            # changed since the last commit; or by it, if nothing has
    python tests/quick.py FILE...    # as if these had changed

Prints test files, one per line; what is left out goes to the standard error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PAGE = TESTS / "README.md"
# About the whole project, and quick.
ALWAYS = ("test_architecture.py", "test_imports.py", "test_tests_readme.py")


def table_rows(name: str) -> list[list[str]]:
    """The cells of a table of tests/README.md, without its head; it stands between two marks."""
    found = re.search(rf"<!-- {name}:start -->\n(.*)<!-- {name}:end -->", PAGE.read_text(), re.S)
    assert found is not None, f"tests/README.md has no table {name!r}"
    lines = found[1].strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def paths_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def mirrored_test(source: Path) -> Path | None:
    """Where a test file of the source file's name would be; None for bindings, which have none."""
    room, *folders = source.parts[:-1]
    if room == "csrc":
        plain_cpp = folders != ["bind"]
        return TESTS / "native" / f"test_{source.stem}.cpp" if plain_cpp else None
    below = folders if room == "hookrun" else [room, *folders]
    return TESTS.joinpath(*below, f"test_{source.stem}.py")


def changed_files() -> list[str]:
    """Those that differ from the last commit, or those of that commit if none does."""
    now = _git("diff", "--name-only", "HEAD") + _git("ls-files", "--others", "--exclude-standard")
    return now or _git("diff", "--name-only", "HEAD~1", "HEAD")


def quick_tests(changed: Iterable[str]) -> list[Path]:
    """The test files of files that have changed, relative to the root."""
    elsewhere = {
        source: paths_in(tests)
        for sources, tests in table_rows("elsewhere")
        for source in paths_in(sources)
    }
    found = {TESTS / name for name in ALWAYS}
    for name in map(Path, changed):
        if name.parts[0] == "tests":
            found.add(ROOT / name)
        elif name.suffix == ".md":
            found.add(TESTS / "test_docs.py")
        elif name.parts[0] in ("hookrun", "kernels", "csrc"):
            mirrored = mirrored_test(name)
            found.update(TESTS / each for each in elsewhere.get(str(name), []))
            found.update([mirrored] if mirrored is not None else [])
    return sorted(
        each.relative_to(ROOT)
        for each in found
        if each.is_file() and each.suffix == ".py" and each.name.startswith("test_")
    )


def _git(*arguments: str) -> list[str]:
    git = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.splitlines()


def main() -> None:
    chosen = quick_tests(sys.argv[1:] or changed_files())
    count = sum(1 for _ in TESTS.rglob("test_*.py"))
    print(*chosen, sep="\n")
    print(
        f"left out: {count - len(chosen)} of {count} test files, the C++ tests and the sanitized "
        "run; `make test` has them",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
