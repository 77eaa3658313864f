"""The documents: their Python examples run as they are printed, and what they list is there."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import shutil
from pathlib import Path
from types import FunctionType

import pytest

import hookrun
from hookrun import HOOKS, LrUpdaterHook, MomentumUpdaterHook
from hookrun.core.events import GENERIC, STAGES
from tests.programs import Program

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ON_TWO_RANKS = ROOT / "docs" / "distributed.md"  # its examples run in test_distributed_page.py
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[\w, ]+) -->\n+)?```python\n(?P<code>.*?)```", re.DOTALL
)
STEPS = {"before_train_iter": "train_step", "before_val_iter": "val_step"}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[tuple[list[str], str]]:
    """The page's examples, each with the packages that it needs beside ours."""
    return [
        (re.findall(r"\w+", needs or ""), code) for needs, code in BLOCK.findall(page.read_text())
    ]


def run(code: str, folder: Path) -> None:
    with Program("-c", code, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}) as program:
        output, errors = program.communicate(timeout=120)
    assert program.returncode == 0, output + errors


@pytest.mark.parametrize(
    "page", [each for each in PAGES if blocks_of(each) and each != ON_TWO_RANKS], ids=name_of
)
def test_examples_run(page: Path, tmp_path: Path) -> None:
    """All of a page one after the other, as a reader would."""
    run("\n".join(code for needs, code in blocks_of(page) if not needs), tmp_path)


@pytest.mark.parametrize(
    ("needs", "code"),
    [
        pytest.param(needs, code, id=needs[0])
        for page in PAGES
        for needs, code in blocks_of(page)
        if needs
    ],
)
def test_examples_with_other_packages_run(needs: list[str], code: str, tmp_path: Path) -> None:
    for each in needs:
        if importlib.util.find_spec(each) is None:
            pytest.skip(f"{each} is not installed")
    run(code, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, target


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    """Those of the command line that a page shows, with their options."""
    from typer.main import get_command

    from hookrun.cli.app import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"`?hookrun ((?:[a-z]+-)?[a-z]+(?: [^`#\n]*)?)", shell_of(page)):
        name, *words = line.split()
        assert name in commands, line
        known = {option for each in commands[name].params for option in each.opts}
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in known, line


def shell_of(page: Path) -> str:
    """Its shell blocks, and what it says of commands in passing."""
    text = page.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`(hookrun [a-z][^`]*)`", text)])


def marked(page: str, marker: str) -> str:
    text = (ROOT / page).read_text()
    return text.partition(f"<!-- {marker}:start -->\n")[2].partition(f"\n<!-- {marker}:end -->")[0]


def test_events_are_drawn_from_their_table() -> None:
    assert marked("docs/hooks.md", "events") == f"```\n{draw_events()}\n```"


def draw_events() -> str:
    lines, depth = [], 0
    for event in STAGES:
        if event.startswith("after_"):
            depth -= 1
        ends_or_holds = event.startswith("after_") and event.endswith("_iter")
        branch = "" if depth == 0 else "│   " * (depth - 1) + ("└── " if ends_or_holds else "├── ")
        generic = f"(or {GENERIC[event]})" if event in GENERIC else ""
        lines.append(f"{branch + event:<29} {generic}".rstrip())
        if event in STEPS:
            lines.append("│   " * depth + f"    model.{STEPS[event]}(batch, optimizer)")
        if event.startswith("before_"):
            depth += 1
    return "\n".join(lines)


def test_every_hook_is_in_the_table_and_exists() -> None:
    rows = [line.split("|")[1] for line in marked("docs/hooks.md", "hooks").splitlines()]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for name in listed:
        assert hasattr(hookrun, name), name
    policies = (LrUpdaterHook, MomentumUpdaterHook)
    shipped = {
        name
        for name, kind in HOOKS.module_dict.items()
        if kind.__module__.startswith("hookrun.") and not issubclass(kind, policies)
    }
    assert shipped - {"ClientLoggerHook"} <= listed


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    entries = re.findall(r"^::: hookrun\.(\S+)$", page, flags=re.M)
    assert len(entries) == len(set(entries))
    names = {*hookrun.__all__, *(f"ops.{name}" for name in hookrun.ops.__all__)}
    missing = names - set(entries)
    assert all(isinstance(getattr(hookrun, name), hookrun.Registry) for name in missing), missing
    assert all(f"`{name}`" in page for name in missing)


def test_what_public_docstrings_refer_to_can_be_found() -> None:
    """A name in single backticks is public, an attribute of the class, or a full path."""
    rooms = (hookrun, hookrun.ops, hookrun.schedules)
    for kind in (getattr(room, name) for room in rooms for name in room.__all__):
        members = vars(kind).values() if isinstance(kind, type) else ()
        methods = (each for each in members if isinstance(each, (FunctionType, property)))
        for each in (kind, *methods):
            for name in re.findall(r"(?<!`)`([\w.]+)`(?!`)", each.__doc__ or ""):
                if not any(hasattr(one, name) for one in (*rooms, kind)):
                    pkgutil.resolve_name(name)  # raises


def test_the_hook_of_the_readme(tmp_path: Path) -> None:
    """It raises at the iteration that it says."""
    code = "\n".join(code for _, code in blocks_of(ROOT / "README.md"))
    bad = (
        "\nmodel.model.weight.data.fill_(float('nan'))\nrunner.max_epochs = 9\n"
        "batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(20)]\n"
        "try:\n    runner.run([batches], [('train', 1)])\n"
        "except ValueError as error:\n    assert str(error) == 'the loss is nan at iteration 100'\n"
        "else:\n    raise SystemExit('it did not')\n"
    )
    run(code + bad, tmp_path)
    assert (tmp_path / "work_dirs/first/epoch_3.pth").exists()


def test_every_page_is_in_the_site() -> None:
    pages = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}
    assert set(pages) == there


def test_the_report_of_the_benchmarks_is_up_to_date(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    with Program("-m", "benchmarks.report", "--check", cwd=tmp_path) as program:
        output, errors = program.communicate(timeout=60)
    assert program.returncode == 0, output + errors
