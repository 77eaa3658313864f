"""Reads what the compiler made of a kernel: its cubin's resources, and the loops of its SASS.

SASS is the machine code. The tools that read it come with Triton and need no GPU.
"""

from __future__ import annotations

import functools
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


def accesses(cubin: bytes) -> dict[str, dict[int, int]]:
    """How many loads and stores of global memory there are in all, by width in bytes."""
    instructions, _ = _disassembled(cubin)
    return {"loads": _widths(instructions, "LDG"), "stores": _widths(instructions, "STG")}


def loops(cubin: bytes) -> list[dict[str, Any]]:
    """The innermost loops that access global memory, in the order of their code.

    Each has the number of its instructions, loads and stores by width in bytes, barriers, and

    - `loads_behind_stores`: how many loads come after a store of the same iteration, for which they
      wait, as the compiler cannot know that the addresses differ;
    - `bytes_in_flight`: what a thread has asked for when it first needs some of it.
    """
    instructions, spans = _disassembled(cubin)
    innermost = [
        span
        for span in spans
        if not any(span != other and span[0] <= other[0] <= other[1] <= span[1] for other in spans)
    ]
    found = [_loop(instructions[begin : end + 1]) for begin, end in sorted(innermost)]
    return [loop for loop in found if loop["loads"] or loop["stores"]]


@functools.cache
def _disassembled(cubin: bytes) -> tuple[list[str], list[tuple[int, int]]]:
    """The instructions without predicates, and where loops begin and end."""
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
            instructions.append(code[1])
    return instructions, spans


def _loop(instructions: list[str]) -> dict[str, Any]:
    behind, stored = 0, False
    for instruction in instructions:
        stored |= instruction.startswith("STG")
        behind += stored and instruction.startswith("LDG")
    return {
        "instructions": len(instructions),
        "loads": _widths(instructions, "LDG"),
        "stores": _widths(instructions, "STG"),
        "barriers": sum(i.startswith("BAR") for i in instructions),
        "loads_behind_stores": behind,
        "bytes_in_flight": _bytes_in_flight(instructions),
    }


def _bytes_in_flight(instructions: list[str]) -> int:
    """Bytes loaded before the first instruction that uses a loaded register, or a barrier."""
    pending: set[int] = set()
    total = 0
    for instruction in instructions:
        name, _, operands = instruction.partition(" ")
        registers = [int(number) for number in re.findall(r"\bR(\d+)\b", operands)]
        if name.startswith("LDG"):
            width = _width(name)
            total += width
            pending |= {registers[0] + i for i in range(-(-width // 4))}
        elif pending and (name.startswith("BAR") or pending & set(registers)):
            break
    return total


def _width(access: str) -> int:
    """The bytes of a load or store."""
    return next((WIDTHS[part] for part in access.split(".") if part in WIDTHS), 4)


def _widths(instructions: Iterable[str], kind: str) -> dict[int, int]:
    """How many accesses of a kind there are, by width in bytes."""
    names = (instruction.split()[0] for instruction in instructions)
    return dict(sorted(Counter(_width(name) for name in names if name.startswith(kind)).items()))


def _run(tool: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / tool), option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
