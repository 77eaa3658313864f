"""The committed resources are of these kernels, and keep what docs/kernels.md says of them.

That the compiler really finds them is checked in test_compiled.py, for what that compiles.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def resources(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernel_resources

    return kernel_resources


@pytest.fixture
def document(resources: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(resources.RESULTS.read_text())
    return document


def test_the_results_file_is_of_these_sources(resources: Any, document: dict[str, Any]) -> None:
    assert document["digest"] == resources.digest(), (
        f"the kernels changed since {resources.RESULTS.name} was written: {resources.COMMAND}"
    )


def test_the_document_has_the_tables_of_the_results_file(
    resources: Any, document: dict[str, Any]
) -> None:
    text = resources.DOCUMENT.read_text()
    assert resources.with_tables(text, document) == text, resources.COMMAND
    assert resources.document_of(document["kernels"]) == {
        **document,
        "digest": resources.digest(),
        "triton": metadata.version("triton"),
    }


def test_every_kernel_keeps_what_is_promised(resources: Any, document: dict[str, Any]) -> None:
    kernels = document["kernels"]
    assert len(kernels) >= 30
    assert {found["kernel"] for found in kernels.values()} >= set(resources.PROMISED)
    assert [
        each for name, found in kernels.items() for each in resources.problems(name, found)
    ] == []


def narrow(found: dict[str, Any]) -> None:
    found["wide_loops"] = []


def barrier(found: dict[str, Any]) -> None:
    found["barriers_in_aligned_loops"] = 2


def behind(found: dict[str, Any]) -> None:
    found["wide_loops"][0]["loads_behind_stores"] = 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: found.update(spilled_bytes=8), "spills 8 bytes"),
        (lambda found: found.update(blocks_per_sm=7), "7 blocks per SM"),
        (lambda found: found.update(kb_in_flight_per_sm=[20.0]), "KB in flight"),
        (narrow, "no chunks with wide accesses"),
        (barrier, "barriers"),
        (behind, "behind stores"),
    ],
)
def test_what_breaks_a_promise_is_found(
    resources: Any,
    document: dict[str, Any],
    spoil: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    found = copy.deepcopy(document["kernels"]["adam fp32, ema"])
    spoil(found)
    (problem,) = resources.problems("adam fp32, ema", found)
    assert message in problem


def test_blocks_per_sm_are_what_the_scarcest_resource_allows(resources: Any) -> None:
    found = {"registers": 56, "threads": 128, "dynamic_shared": 2048}
    assert resources.blocks_per_sm(found) == 9
    assert resources.blocks_per_sm({**found, "registers": 57}) == 8  # 64 are allotted
    assert resources.blocks_per_sm({**found, "registers": 16}) == 16
    assert resources.blocks_per_sm({**found, "dynamic_shared": 75 * 1024}) == 3


def test_predictions_are_between_the_floor_and_what_lookups_cost(
    document: dict[str, Any],
) -> None:
    for parts in document["predicted_us"].values():
        for least, most in (parts[part] for part in ("pass 1", "decision", "pass 2", "total")):
            assert least <= most
        assert parts["floor"] < parts["total"][0]
        assert sum(parts[part][0] for part in ("pass 1", "decision", "pass 2")) == pytest.approx(
            parts["total"][0] - 2, abs=0.2
        )
