"""docs/architecture.md: what it says is so."""

from __future__ import annotations

import ast
import re

import pytest

from .architecture import PAGE, ROOT, block, draw, table_rows

WALKS = PAGE.read_text().partition("## Five walks")[2].partition("## Private")[0]
STEPS = re.findall(r"`([\w/.]+\.(?:py|cpp|hpp))` · ((?:`\w+`(?: and )?)+)", WALKS)


def test_the_drawing_is_that_of_the_table() -> None:
    assert block("drawing") == draw(), "python -m tests.architecture draws it anew"


def test_there_are_five_walks() -> None:
    assert len(re.findall(r"^### ", WALKS, re.MULTILINE)) == 5
    assert len(STEPS) == WALKS.count("` · `") > 25


@pytest.mark.parametrize(("file", "names"), STEPS)
def test_what_a_walk_names_is_there(file: str, names: str) -> None:
    path = ROOT / file
    assert path.is_file(), f"{file} is no file"
    text = path.read_text()
    for name in re.findall(r"`(\w+)`", names):
        defined = rf"(def|class|struct) {name}\b|\b{name}\("
        assert re.search(defined, text), f"{file} defines no {name}"


def test_every_file_that_is_named_is_there() -> None:
    for name in re.findall(r"`((?:csrc|hookrun|kernels|tests)/[\w/.]+)`", PAGE.read_text()):
        assert (ROOT / name).exists(), name


def underscored_names_of_others() -> set[str]:
    """The underscored attributes and imports in hookrun/ that nothing in it defines."""
    used, defined = set(), set()
    for path in (ROOT / "hookrun").rglob("*.py*"):
        if path.suffix not in (".py", ".pyi"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                (defined if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, (ast.AnnAssign, ast.Assign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                defined |= {each.id for each in targets if isinstance(each, ast.Name)}
            elif isinstance(node, ast.ImportFrom) and not (node.module or ".").startswith(
                "hookrun"
            ):
                used |= {alias.name for alias in node.names if not node.level}
    return {n for n in used - defined if n.startswith("_") and not n.startswith("__")}


def test_private_names_of_others_are_on_the_list() -> None:
    listed = {name for row in table_rows("private") for name in re.findall(r"\b_\w+", row[0])}
    missing = underscored_names_of_others() - listed
    assert not missing, f"not in the table of docs/architecture.md: {sorted(missing)}"


@pytest.mark.parametrize(("what", "most"), [("a hook", 4), ("a policy", 6), ("a logger", 4)])
def test_what_to_touch_to_ship_something_is_little_and_there(what: str, most: int) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {what} |"))
    files = row.split("|")[2].replace(" and ", ";").split(";")
    assert len(files) <= most
    for name in re.findall(r"`([\w/.]+)`", row):
        assert (ROOT / name).exists(), name
