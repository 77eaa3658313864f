"""The log buffer: MMCV's averages, for numbers and for tensors that stay on their device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import LogBuffer

NUMBERS = st.floats(-1e6, 1e6)
MAKERS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "numpy": np.float64,
    "array": lambda value: np.array([value]),
    "0-dim": lambda value: torch.tensor(value, dtype=torch.float64),
    "1-element": lambda value: torch.tensor([[value]], dtype=torch.float64),
    "grad": lambda value: torch.tensor(value, dtype=torch.float64, requires_grad=True),
}


class Reference:
    """MMCV's log buffer, as its documentation defines it, over NumPy."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.counts: dict[str, list[float]] = {}

    def update(self, values: dict[str, float], count: float) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)
            self.counts.setdefault(name, []).append(count)

    def average(self, n: int) -> dict[str, float]:
        return {
            name: float(np.average(values[-n:], weights=self.counts[name][-n:]))
            for name, values in self.values.items()
        }


@given(
    updates=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("abc"), NUMBERS, min_size=1),
            st.integers(1, 64),
        ),
        min_size=1,
        max_size=40,
    ),
    kinds=st.tuples(*[st.sampled_from(sorted(MAKERS))] * 3),
    n=st.integers(0, 50),
    cuts=st.sets(st.integers(0, 40)),
)
@settings(max_examples=60)
def test_averages_are_those_of_mmcv(
    updates: list[tuple[dict[str, float], int]],
    kinds: tuple[str, str, str],
    n: int,
    cuts: set[int],
) -> None:
    buffer, reference = LogBuffer(), Reference()
    make = {name: MAKERS[kind] for name, kind in zip("abc", kinds, strict=True)}
    for index, (values, count) in enumerate(updates):
        buffer.update({name: make[name](value) for name, value in values.items()}, count)
        reference.update(values, count)
        if index in cuts:  # averages in between change nothing
            buffer.average(3)
    buffer.average(n)
    expected = reference.average(n)
    assert list(buffer.output) == list(expected)
    assert buffer.output == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert buffer.ready
    assert dict(buffer.val_history) == dict(reference.values.items())
    assert dict(buffer.n_history) == dict(reference.counts.items())


def test_numbers_and_tensors_under_one_name_keep_their_order() -> None:
    buffer = LogBuffer()
    for value in (1.0, torch.tensor(2.0), 3.0, torch.tensor(4.0), np.float32(5.0), 6):
        buffer.update({"loss": value})
    assert buffer.val_history["loss"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    buffer.average(2)
    assert buffer.output["loss"] == 5.5


def test_a_refused_value_leaves_no_name_behind() -> None:
    buffer = LogBuffer()
    with pytest.raises(TypeError):
        buffer.update({"loss": "low"})
    buffer.average()
    assert buffer.output == {}


def test_numbers_and_tensors_under_one_name_average_together() -> None:
    buffer = LogBuffer()
    for value in (1.0, torch.tensor(2.0), 3.0, torch.tensor(6, dtype=torch.int32), True):
        buffer.update({"loss": value})
    buffer.average()
    assert buffer.output["loss"] == pytest.approx(13 / 5)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool]
)
def test_dtypes_mix(dtype: torch.dtype) -> None:
    buffer = LogBuffer()
    buffer.update({"a": torch.tensor(1, dtype=dtype), "b": torch.tensor(0.5)})
    buffer.update(
        {"a": torch.tensor(2.0, dtype=torch.float64), "b": torch.tensor([1], dtype=dtype)}
    )
    buffer.average()
    assert buffer.output == {"a": 1.5, "b": 0.75}


def test_update_reads_nothing_and_average_reads_once(host_reads: list[str]) -> None:
    buffer = LogBuffer()
    for step in range(20):
        buffer.update({"loss": torch.tensor(float(step)), "acc": torch.tensor([step])}, count=2)
    assert host_reads == []
    buffer.average(10)
    assert host_reads == ["tolist"]
    assert buffer.output == {"loss": 14.5, "acc": 14.5}


def test_values_that_nobody_reads_are_folded_on_their_device(host_reads: list[str]) -> None:
    buffer = LogBuffer()
    for step in range(5000):
        buffer.update({"loss": torch.tensor(float(step))}, count=step % 3 + 1)
    assert host_reads == []
    assert len(buffer._pending["loss"]) < 1024
    values, counts = np.arange(5000.0), np.arange(5000) % 3 + 1
    buffer.average()
    assert buffer.output["loss"] == pytest.approx(np.average(values, weights=counts))
    buffer.average(400)
    assert buffer.output["loss"] == pytest.approx(np.average(values[-400:], weights=counts[-400:]))


def test_reserved_values_are_exact() -> None:
    buffer = LogBuffer()
    buffer.reserve(3000)
    for step in range(7000):
        buffer.update({"number": float(step), "tensor": torch.tensor(float(step))})
    buffer.average(3000)
    exact = float(np.arange(4000, 7000).mean())
    assert buffer.output == {"number": exact, "tensor": pytest.approx(exact)}


def test_memory_is_bounded() -> None:
    buffer = LogBuffer()
    for _ in range(30_000):
        buffer.update({"loss": 1.0})
    assert len(buffer.val_history["loss"]) == 1024
    tensors = weakref.WeakSet[torch.Tensor]()
    for _ in range(4000):
        tensor = torch.ones(())
        tensors.add(tensor)
        buffer.update({"loss": tensor})
    assert len(tensors) <= 1024


def test_the_graph_of_a_loss_is_not_kept() -> None:
    buffer = LogBuffer()
    weight = torch.ones(3, requires_grad=True)
    buffer.update({"loss": weight.sum()})
    ((kept, _),) = buffer._pending["loss"]
    assert not kept.requires_grad


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("0.5", "str: '0.5'"),
        (None, "NoneType"),
        ([1.0], "list"),
        (1 + 2j, "complex"),
        (np.complex128(1), "complex128"),
        (np.str_("1"), "str_"),
        (np.zeros(3), "ndarray"),
        (torch.zeros(3), r"a tensor of shape \(3,\)"),
        (torch.zeros(0), r"a tensor of shape \(0,\)"),
        (torch.zeros((), dtype=torch.complex64), "a complex tensor"),
        (torch.zeros(1, device="meta"), "a tensor without data"),
    ],
)
def test_a_bad_value_is_refused_at_once_by_name(value: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"log_vars\['accuracy'\] must be a number.*{what}"):
        LogBuffer().update({"accuracy": value})


def test_bad_arguments() -> None:
    buffer = LogBuffer()
    with pytest.raises(TypeError, match="log_vars must be a dict"):
        buffer.update([("loss", 1.0)])
    with pytest.raises(TypeError, match="named by a string"):
        buffer.update({3: 1.0})
    with pytest.raises(ValueError, match="at least 0"):
        buffer.average(-1)


def test_nan_and_infinity_are_shown_not_hidden() -> None:
    buffer = LogBuffer()
    buffer.update({"nan": float("nan"), "inf": torch.tensor(float("inf")), "zero": 1.0}, count=1)
    buffer.average()
    assert np.isnan(buffer.output["nan"])
    assert buffer.output["inf"] == float("inf")
    buffer = LogBuffer()
    buffer.update({"loss": 1.0}, count=0)
    buffer.average()
    assert np.isnan(buffer.output["loss"])


def test_clear_output_keeps_the_values_and_clear_keeps_nothing() -> None:
    buffer = LogBuffer()
    buffer.update({"loss": torch.tensor(2.0), "acc": 1.0})
    buffer.average()
    buffer.clear_output()
    assert (buffer.output, buffer.ready) == ({}, False)
    buffer.average()
    assert buffer.output == {"loss": 2.0, "acc": 1.0}
    buffer.update({"loss": torch.tensor(4.0)})
    buffer.clear()
    assert (buffer.output, buffer.ready, dict(buffer.val_history)) == ({}, False, {})
    buffer.average()
    assert buffer.output == {}


def test_what_hooks_put_into_the_output_stays_there() -> None:
    buffer = LogBuffer()
    buffer.update({"loss": 1.0})
    buffer.output["mine"] = "text"
    buffer.average()
    assert buffer.output == {"mine": "text", "loss": 1.0}


def test_histories_are_copies() -> None:
    buffer = LogBuffer()
    buffer.update({"loss": 1.0}, 3)
    buffer.val_history["loss"].append(5.0)
    buffer.n_history.clear()
    assert buffer.val_history == {"loss": [1.0]}
    assert buffer.n_history == {"loss": [3.0]}


def test_values_read_later_come_with_the_next_read(host_reads: list[str]) -> None:
    buffer, got = LogBuffer(), []
    buffer.update({"loss": torch.tensor(2.0)})
    buffer.read_later(torch.tensor([3]), got.append)
    buffer.read_later(torch.tensor(4.5), got.append)
    assert (got, host_reads) == ([], [])
    buffer.average()
    assert got == [3.0, 4.5]
    assert host_reads == ["tolist"]
    assert buffer.output == {"loss": 2.0}
    buffer.average()
    assert got == [3.0, 4.5]


def test_clearing_does_not_cancel_them_and_read_reads_them() -> None:
    buffer, got = LogBuffer(), []
    buffer.read_later(torch.tensor(1.0), got.append)
    buffer.clear()
    assert got == []
    buffer.read()
    assert got == [1.0]


def test_what_they_raise_leaves_the_buffer_whole() -> None:
    def fail(value: float) -> None:
        raise ValueError(value)

    buffer = LogBuffer()
    buffer.update({"loss": torch.tensor(2.0)})
    buffer.read_later(torch.tensor(1.0), fail)
    with pytest.raises(ValueError, match=r"1\.0"):
        buffer.average()
    buffer.average()
    assert buffer.output == {"loss": 2.0}


# Apart


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_separate_context_has_values_and_an_output_of_its_own(kind: str) -> None:
    make, buffer = MAKERS[kind], LogBuffer()
    buffer.reserve(5000)
    for value in (1.0, 2.0, 3.0):
        buffer.update({"loss": make(value)}, 1)
    buffer.output["note"], output = "waits", buffer.output
    with buffer.separate():
        assert (buffer.output, buffer.ready, buffer.val_history) == ({}, False, {})
        for _ in range(4000):
            buffer.update({"loss": make(9.0), "other": make(8.0)}, 1)
        buffer.average(4000)
        assert buffer.output == {"loss": 9.0, "other": 8.0}
        assert len(buffer.val_history["loss"]) == 4000  # what was reserved holds there too
    assert (buffer.output, buffer.ready, buffer.averaged) == ({"note": "waits"}, False, False)
    assert buffer.output is output
    buffer.update({"loss": make(4.0)}, 1)
    buffer.average(2)
    assert buffer.output == {"note": "waits", "loss": 3.5}


def test_what_is_reserved_in_a_separate_context_holds_behind_it() -> None:
    buffer = LogBuffer()
    buffer.update({"loss": 1.0})
    with buffer.separate():
        buffer.reserve(5000)
    for value in range(4000):
        buffer.update({"loss": float(value)})
    assert len(buffer.val_history["loss"]) == 4001


def test_a_separate_context_that_fails_gives_the_values_back() -> None:
    buffer, read = LogBuffer(), []
    buffer.update({"loss": 1.0})
    with contextlib.suppress(KeyError), buffer.separate():
        buffer.read_later(torch.tensor(5.0), read.append)
        raise KeyError
    buffer.average()
    assert (buffer.output, read) == ({"loss": 1.0}, [5.0])


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_what_a_step_calls_time_is_not_the_timers(kind: str) -> None:
    make, buffer = MAKERS[kind], LogBuffer()
    for value in (1.0, 3.0):
        buffer.update({"data_time": 0.5})
        buffer.update({"time": make(10 * value), "data_time": make(value), "x": make(value)}, 2)
        buffer.update({"time": value, "x": 8.0})
    buffer.average()
    times = {"time": 2.0, "data_time": 0.5}
    assert buffer.output == {**times, "time_": 20.0, "data_time_": 2.0, "x": 4.0}
    assert buffer.renamed() == {"time": "time_", "data_time": "data_time_"}
    assert buffer.totals("time") == (4.0, 2.0)
    assert buffer.totals("time_") == (80.0, 4.0)
    assert buffer.totals("unknown") == (0.0, 0.0)
    assert buffer.val_history["time_"] == [10.0, 30.0]
    assert buffer.n_history["time"] == [1.0, 1.0]


def test_whether_the_output_has_averages() -> None:
    buffer = LogBuffer()
    buffer.output["acc"] = 0.5
    assert not buffer.averaged
    buffer.average()
    assert buffer.averaged
    buffer.clear_output()
    assert not buffer.averaged


@pytest.mark.parametrize("method", ["totals", "_swap_values", "_push", "_push_totals"])
def test_wrong_arguments_are_type_errors(method: str) -> None:
    arguments = {"_push": (3, 1.0, 1.0), "_push_totals": (3, 1.0, 1.0, 1)}
    with pytest.raises(TypeError):
        getattr(LogBuffer(), method)(*arguments.get(method, (3,)))
    with pytest.raises(KeyError):
        LogBuffer()._push("unknown", 1.0, 1.0)
