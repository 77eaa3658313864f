"""What docs/architecture.md says, for the tests that hold the code to it.

    python -m tests.architecture

draws the rooms anew, after the table has changed.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
_BESIDE = ("_native", "kernels")  # rooms that install beside those of hookrun/


def block(name: str) -> str:
    """What stands between two marks on the page."""
    found = re.search(rf"<!-- {name}:start -->\n(.*)<!-- {name}:end -->", PAGE.read_text(), re.S)
    assert found is not None, f"docs/architecture.md has no block {name!r}"
    return found[1]


def table_rows(name: str) -> list[list[str]]:
    """The cells of a table on the page, without its head."""
    lines = block(name).strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def may_import() -> dict[str, set[str]]:
    """By room, the rooms that it may import."""
    return {
        room.strip("`"): set(re.findall(r"`(\w+)`", allowed))
        for room, _, allowed in table_rows("rooms")
    }


def draw() -> str:
    """The rooms and who imports whom, as Mermaid draws it."""
    allowed = {**{room: set() for room in _BESIDE}, **may_import()}
    lines = ["```mermaid", "flowchart BT"]
    for room in sorted(allowed):
        direct = allowed[room]
        through_others = {far for near in direct for far in _reached(near, allowed)}
        lines += [f"  {room} --> {near}" for near in sorted(direct - through_others)]
    return "\n".join([*lines, "```", ""])


def _reached(room: str, allowed: dict[str, set[str]]) -> set[str]:
    """The rooms that a room imports, directly or through others."""
    return allowed[room].union(*(_reached(near, allowed) for near in allowed[room]))


if __name__ == "__main__":
    page = PAGE.read_text()
    PAGE.write_text(page.replace(block("drawing"), draw()))
