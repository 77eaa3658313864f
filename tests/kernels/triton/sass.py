"""Reads what the compiler made of a kernel: its cubin's resources, and the loops of its SASS.

SASS is the machine code. The tools that read it come with Triton and need no GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}  # bytes; else 4


def resources(cubin: bytes) -> dict[str, int]:
    """Registers per thread; stack, static shared and local memory in bytes."""
    text = _run("cuobjdump", "--dump-resource-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    assert found is not None, text
    names = ("registers", "stack", "shared", "local")
    return dict(zip(names, map(int, found.groups()), strict=True))


def loops(cubin: bytes) -> list[dict[str, Any]]:
    """The innermost loops that access global memory, in the order of their code.

    Each has the number of its instructions, loads and stores by width in bytes, barriers, and
    `loads_behind_stores`: how many loads come after a store of the same iteration, for which they
    wait, as the compiler cannot know that the addresses differ.
    """
    instructions: list[str] = []
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for line in _run("nvdisasm", "-c", cubin).splitlines():
        label = re.match(r"(\.L\w+):", line)
        if label:
            labels[label[1]] = len(instructions)
        code = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(.+?) *;", line)
        if code:
            jump = re.match(r"BRA.*\((\.L\w+)\)", code[1])
            if jump and jump[1] in labels:
                spans.append((labels[jump[1]], len(instructions)))
            instructions.append(code[1].split()[0])
    innermost = [
        span
        for span in spans
        if not any(span != other and span[0] <= other[0] <= other[1] <= span[1] for other in spans)
    ]
    found = [_loop(instructions[begin : end + 1]) for begin, end in sorted(innermost)]
    return [loop for loop in found if loop["loads"] or loop["stores"]]


def _loop(instructions: list[str]) -> dict[str, Any]:
    accesses = [i for i in instructions if i.startswith(("LDG", "STG"))]
    behind, stored = 0, False
    for access in accesses:
        stored |= access.startswith("STG")
        behind += stored and access.startswith("LDG")
    return {
        "instructions": len(instructions),
        "loads": _widths(access for access in accesses if access.startswith("LDG")),
        "stores": _widths(access for access in accesses if access.startswith("STG")),
        "barriers": sum(i.startswith("BAR") for i in instructions),
        "loads_behind_stores": behind,
    }


def _widths(accesses: Iterable[str]) -> dict[int, int]:
    """How many accesses there are of each width in bytes."""
    sizes = [{WIDTHS[p] for p in access.split(".") if p in WIDTHS} for access in accesses]
    return dict(sorted(Counter(size.pop() if size else 4 for size in sizes).items()))


def _run(tool: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / tool), option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
