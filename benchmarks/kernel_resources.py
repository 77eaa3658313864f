"""What the compiler makes of the Triton kernels for sm_90, and how long the phases should take.

    python benchmarks/kernel_resources.py

It needs no GPU. It compiles every variant of `tests/kernels/triton/compiled.py`, writes
`results/kernels-sm90.json` and the tables of `docs/kernels.md`, and ends with status 1 where a
kernel breaks what is promised below. `tests/kernels/triton/test_kernel_resources.py` checks that
the file is of the sources as they are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from phase_model import GAP, LATENCIES, PASSES, SMS, needed_kb, predict  # noqa: E402

RESULTS = ROOT / "benchmarks/results/kernels-sm90.json"
DOCUMENT = ROOT / "docs/kernels.md"
COMMAND = "python benchmarks/kernel_resources.py"
ARCH = 90
MARKS = "<!-- kernels:start -->\n", "<!-- kernels:end -->\n"

# An SM of compute capability 9.0.
REGISTERS, THREADS, BLOCKS, SHARED = 64 * 1024, 2048, 32, 228 * 1024
REGISTER_UNIT = 8  # registers of a thread are allotted in such portions
SHARED_OF_SYSTEM = 1024  # bytes of shared memory that each block takes beside its own

PROMISED = ("norm._norm", "adam._adam", "sgd._sgd")  # the two passes
FP64 = ("norm fp64", "adam fp64, ema", "sgd fp64")
MIN_BLOCKS = (
    8  # of a pass on an SM: half of its threads; with fp64, which takes twice the registers:
)
MIN_BLOCKS_FP64 = 5

Report = dict[str, dict[str, Any]]


def digest() -> str:
    """Of all that decides what the file says."""
    files = [*(ROOT / "kernels/triton").glob("*.py"), Path(__file__)]
    files += [ROOT / "tests/kernels/triton" / name for name in ("compiled.py", "sass.py")]
    files += [ROOT / "benchmarks" / name for name in ("phase_model.py", "phases.py")]
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return total.hexdigest()


def blocks_per_sm(found: Mapping[str, Any]) -> int:
    """How many blocks of a kernel an SM holds at a time."""
    threads: int = found["threads"]
    registers: int = -(-found["registers"] // REGISTER_UNIT) * REGISTER_UNIT * threads
    shared: int = found["dynamic_shared"] + SHARED_OF_SYSTEM
    return min(REGISTERS // registers, THREADS // threads, BLOCKS, SHARED // shared)


def resources_of(kernel: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of a variant, of what `compiled.compile_for` found."""
    blocks = blocks_per_sm(found)
    flying = [loop["bytes_in_flight"] * found["threads"] * blocks for loop in found["wide_loops"]]
    return {
        "kernel": kernel,
        "block": found["block"],
        "threads": found["threads"],
        "registers": found["registers"],
        "spilled_bytes": found["stack"] + found["local"],
        "shared_bytes": found["dynamic_shared"],
        "blocks_per_sm": blocks,
        "occupancy": round(blocks * found["threads"] / THREADS, 3),
        "loads": found["sass"]["loads"],
        "stores": found["sass"]["stores"],
        "loops": found["loops"],
        "wide_loops": found["wide_loops"],
        "barriers_in_aligned_loops": found["barriers"],
        "kb_in_flight_per_sm": [round(bytes / 1e3, 1) for bytes in flying],
    }


def problems(name: str, found: Mapping[str, Any]) -> list[str]:
    """What a variant breaks of what is promised; the widths are checked in test_compiled.py."""
    broken = []
    if found["spilled_bytes"]:
        broken.append(f"{name} spills {found['spilled_bytes']} bytes")
    if found["kernel"] not in PROMISED:
        return broken
    least = MIN_BLOCKS_FP64 if name in FP64 else MIN_BLOCKS
    if found["blocks_per_sm"] < least:
        broken.append(f"{name}: {found['blocks_per_sm']} blocks per SM, fewer than {least}")
    if not found["wide_loops"]:
        broken.append(f"{name} reads no chunks with wide accesses")
    if found["barriers_in_aligned_loops"]:
        broken.append(f"{name} waits at barriers in loops over aligned chunks")
    if any(loop["loads_behind_stores"] for loop in found["wide_loops"]):
        broken.append(f"{name} loads behind stores")
    low = [kb for kb in found["kb_in_flight_per_sm"] if kb < needed_kb()[-1]]
    if low:
        broken.append(f"{name}: {low} KB in flight per SM, where {needed_kb()[-1]} are needed")
    return broken


def document_of(kernels: Report) -> dict[str, Any]:
    """The results file: resources and predictions, and what they are of."""
    blocks = {name: found["blocks_per_sm"] for name, found in kernels.items()}
    return {
        "is": "compiled and predicted; nothing of this was measured on a GPU",
        "arch": f"sm_{ARCH}",
        "triton": metadata.version("triton"),
        "digest": digest(),
        "needed_kb_in_flight_per_sm": needed_kb(),
        "kernels": kernels,
        "predicted_us": {
            f"({phase}), {model}": predict(phase, model, blocks)
            for model in ("ResNet-50", "ViT-L")
            for phase in PASSES
        },
    }


def tables(document: Mapping[str, Any]) -> str:
    """The tables of docs/kernels.md."""
    low, high = document["needed_kb_in_flight_per_sm"]
    lines = [
        f"By Triton {document['triton']}, for {document['arch']}. Loads and stores are of global"
        " memory, all in the kernel's code, as count x bytes. KB in flight: of the loops over wide"
        f" chunks, to be held against {low} to {high}.",
        "",
        "| variant | block | threads | registers | spilled | shared | blocks per SM | occupancy |"
        " loads | stores | barriers in aligned loops | KB in flight per SM |",
        "| --- " * 12 + "|",
    ]
    for name, found in document["kernels"].items():
        cells = [
            *(name, found["block"], found["threads"], found["registers"], found["spilled_bytes"]),
            *(found["shared_bytes"], found["blocks_per_sm"], f"{found['occupancy']:.0%}"),
            *(_counts(found["loads"]), _counts(found["stores"])),
            found["barriers_in_aligned_loops"],
            ", ".join(f"{kb:.0f}" for kb in found["kb_in_flight_per_sm"]),
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    low, high = (f"{1e6 * latency:g}" for latency in LATENCIES)
    lines += [
        "",
        f"**Predicted, not measured**: microseconds, from programs spread over time and {low} µs of"
        f" latency to programs in step and {high} µs, on {SMS} SMs; the total includes two gaps of"
        f" {1e6 * GAP:g} µs between kernels.",
        "",
        "| phase, model | floor | pass 1 | decision | pass 2 | total | of it floor |",
        "| --- " * 7 + "|",
    ]
    for name, parts in document["predicted_us"].items():
        ranges = [
            f"{parts[part][0]:.0f} to {parts[part][1]:.0f}"
            for part in ("pass 1", "decision", "pass 2", "total")
        ]
        shares = [parts["floor"] / total for total in reversed(parts["total"])]
        share = f"{shares[0]:.0%} to {shares[1]:.0%}"
        lines.append(f"| {name} | {parts['floor']:.0f} | " + " | ".join([*ranges, share]) + " |")
    return "\n".join(lines) + "\n"


def _counts(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {width}" for width, count in widths.items()) or "none"


def with_tables(text: str, document: Mapping[str, Any]) -> str:
    """The text of docs/kernels.md with the tables of a results file."""
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return before + MARKS[0] + tables(document) + MARKS[1] + after


def main() -> None:
    from tests.kernels.triton import compiled

    kernels: Report = {}
    for name, (kernel, constants) in {**compiled.VARIANTS, **compiled.LONG}.items():
        found = json.loads(json.dumps(compiled.compile_for(ARCH, kernel, constants)))
        kernels[name] = resources_of(kernel, found)
        print(name, kernels[name]["registers"], kernels[name]["blocks_per_sm"], flush=True)
    document = document_of(kernels)
    RESULTS.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(), document))
    broken = [each for name, found in kernels.items() for each in problems(name, found)]
    sys.exit("\n".join(broken) or 0)


if __name__ == "__main__":
    main()
