"""What a checkpoint holds beside plain types comes back as it was, and nothing runs on the way."""

from __future__ import annotations

import datetime
import enum
import os
import uuid
import zoneinfo
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy
from torch import nn

from hookrun import load_checkpoint, save_checkpoint
from hookrun.checkpoint import plain, read_checkpoint, write_checkpoint
from hookrun.checkpoint.encoding import NOTES, Encoder, decode


class Color(enum.IntEnum):
    RED = 3


class Name(enum.StrEnum):
    ANNA = "anna"


class Hue(enum.Enum):
    RED = 1


def endless() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["self"] = tree
    return tree


class Ratio(float):
    pass


def test_plain_makes_what_can_be_read_back(tmp_path: Path) -> None:
    tree = OrderedDict(
        numpy=[np.float64(0.5), np.int8(3), np.bool_(True), np.str_("s")],
        enums=(Color.RED, Name.ANNA),
        ratio=Ratio(0.25),
        path=Path("a") / "b",
        none=None,
        tensor=torch.ones(1),
        keys={np.int64(1): "one", Name.ANNA: 2},
    )
    kept = plain(tree)
    write_checkpoint(kept, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert {name: value for name, value in read.items() if name != "tensor"} == {
        "numpy": [0.5, 3, True, "s"],
        "enums": (3, "anna"),
        "ratio": 0.25,
        "path": os.path.join("a", "b"),
        "none": None,
        "keys": {1: "one", "anna": 2},
    }
    leaves = [*read["numpy"], *read["enums"], read["ratio"], *read["keys"]]
    assert {type(leaf) for leaf in leaves} == {float, int, bool, str}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, {"b": object()}]}, r"meta\['a'\]\[1\]\['b'\] is a object"),
        ({"a": np.ma.masked_array([1], [True])}, r"meta\['a'\] is a MaskedArray"),
        ({"a": np.array([None, print])}, r"meta\['a'\]\[1\] is a builtin_function"),
        ({"a": np.zeros(1, [("x", "f8"), ("y", "O")])}, r"meta\['a'\] is a ndarray"),
        ({"a": {1, (2, len)}}, r"list\(meta\['a'\]\)\[\d\]\[1\] is a builtin_function"),
        ({"f": print}, r"meta\['f'\] is a builtin_function"),
        ({"f": lambda: 0}, r"meta\['f'\] is a function"),
        ({"m": torch.nn.ReLU()}, r"meta\['m'\] is a ReLU"),
        ({"m": os}, r"meta\['m'\] is a module"),
        ({"t": int}, r"meta\['t'\] is a type"),
        ({"e": Hue.RED}, r"meta\['e'\] is a Hue"),
        ({"g": (each for each in "ab")}, r"meta\['g'\] is a generator"),
        ({print: 1}, "a key of meta is a builtin_function"),
        ({Path("a"): {"b": print}}, r"meta\[.*\('a'\)\]\['b'\] is a builtin_function"),
        (endless(), r"meta is nested too deeply"),
    ],
)
def test_plain_names_the_path_of_what_it_refuses(value: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        plain(value)


def test_plain_copies() -> None:
    inner = {"a": [1]}
    copy = plain({"inner": inner})
    copy["inner"]["a"].append(2)
    assert inner == {"a": [1]}


def there_and_back(value: Any, folder: Path) -> Any:
    """What a file gives for a value in ``meta``; torch's own safe reader must read it too."""
    save_checkpoint(nn.Linear(1, 1), folder / "a.pth", meta={"value": value})
    torch.load(folder / "a.pth", weights_only=True)
    return load_checkpoint(nn.Linear(1, 1), folder / "a.pth")["meta"]["value"]


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, and all in them of equal types."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype.kind == "O":
            return a.shape == b.shape and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
        exact = a.dtype.kind in "US" or a.dtype == b.dtype
        return exact and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


UTC_PLUS_1 = datetime.timezone(datetime.timedelta(hours=1))
VALUES = [
    np.zeros((2, 3), np.uint8),
    np.arange(6.0).reshape(2, 3).T,
    np.arange(4)[::-2],
    np.float32(0.1),
    np.float16(0.1),
    np.int64(-3),
    np.bool_(True),
    np.complex64(1 + 2j),
    np.str_("s"),
    np.bytes_(b"s"),
    np.array(3.5),
    np.zeros((0, 4), np.float32),
    np.array([True, False]),
    np.arange(3, dtype=np.uint16),
    np.array([1, 2], ">i4"),
    np.array(["cat", "dog", ""]),
    np.array([b"cat", b"x"]),
    np.empty((0,), "U3"),
    np.array([["a", None], [1, (2, {3})]], object),
    np.array(["2024-01-01", "NaT"], "M8[D]"),
    np.datetime64("2024-01-01T12:00"),
    np.timedelta64(3, "s"),
    np.array([(1, 2.0)], [("x", "i4"), ("y", "f8")]),
    np.longdouble(1) / 3,
    {1, 2, "a"},
    set(),
    frozenset({1, (2, 3)}),
    {frozenset({1}), frozenset({2, 3})},
    {Path("a"), Path("b")},
    {np.int64(1), 2},
    (1, (2, [3])),
    {"a": ({"b": {1, 2}}, np.ones(2))},
    Path("a") / "b",
    datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2024, 1, 2, tzinfo=UTC_PLUS_1),
    datetime.datetime(2024, 7, 2, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime.date(2024, 1, 2),
    datetime.time(3, 4),
    datetime.timedelta(days=-1, seconds=3, microseconds=5),
    uuid.UUID(int=3),
    range(3, 9, 2),
    deque([1, {2}], maxlen=5),
    1 + 2j,
    bytearray(b"ab"),
    torch.float16,
    torch.device("cuda:1"),
    OrderedDict(b=1, a={2}),
    {Path("a"): 1, (1, 2): {3}, frozenset({4}): "x"},
    {(Path("a"), 1): np.ones(1)},
    2**100,
    None,
]


# Named by position: the text of a set differs from process to process.
IDS = [f"{type(value).__name__}{number}" for number, value in enumerate(VALUES)]


@pytest.mark.parametrize("value", VALUES, ids=IDS)
def test_it_comes_back(tmp_path: Path, value: Any) -> None:
    assert same(there_and_back(value, tmp_path), value)


def test_all_in_one(tmp_path: Path) -> None:
    assert same(there_and_back(VALUES, tmp_path), VALUES)


def test_views_of_dicts_come_back_as_lists(tmp_path: Path) -> None:
    classes = {"cat": 0, "dog": 1}
    views = [classes.keys(), classes.values(), classes.items()]
    assert there_and_back(views, tmp_path) == [["cat", "dog"], [0, 1], [("cat", 0), ("dog", 1)]]


arrays = of_numpy.arrays(
    st.one_of(
        of_numpy.scalar_dtypes(), of_numpy.array_dtypes(of_numpy.scalar_dtypes(), max_size=3)
    ),
    of_numpy.array_shapes(min_dims=0, min_side=0, max_side=3),
)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.floats(allow_nan=False),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.builds(Path, st.sampled_from(["a", "b/c"])),
)
hashable = st.one_of(
    atoms, st.frozensets(atoms, max_size=2), st.tuples(atoms, st.frozensets(atoms))
)
trees = st.recursive(
    st.one_of(hashable, st.sets(hashable, max_size=3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(hashable, inner, max_size=3),
    ),
    max_leaves=5,
)


@settings(max_examples=100)
@given(trees)
def test_any_tree(tree: Any) -> None:
    encoder = Encoder()
    checkpoint = {"meta": encoder.encode(tree, "meta", ("meta",))}
    encoder.add_notes(checkpoint)
    assert same(decode(checkpoint)["meta"], tree)
    assert NOTES not in checkpoint


@settings(max_examples=100)
@given(arrays)
def test_any_array(array: Any) -> None:
    encoder = Encoder()
    checkpoint = {"meta": [encoder.encode(array, "meta", ("meta", 0))]}
    encoder.add_notes(checkpoint)
    back = decode(checkpoint)["meta"][0]
    assert type(back) is type(array)
    if array.dtype.kind == "U":  # zeros at the end of a string are not its own for NumPy
        assert back.tolist() == array.tolist()
    else:
        assert back.dtype == array.dtype or array.dtype.kind == "S"
        assert back.shape == array.shape
        assert array.dtype.kind == "S" or back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "notes",
    [
        3,
        [3],
        [[]],
        [[["meta"], "pickle"]],
        [[["gone"], "set"]],
        [[[], "set"]],
        [[["meta", "a"], "array"]],
        [[["meta", "a"], "memory", "|O", [1], False]],
        [[["meta", "a"], "memory", "nonsense", [1], False]],
        [[["meta", "a", 0, 0], "set"]],
        [[["meta", "a"], "deque", "x"]],
        [[["meta", "a"], "uuid"]],
        [[["meta", "a"], "texts", [10**12]]],
        [[["meta"] * 5000, "set"]],
        [[["meta", "many"], "texts", [1]]],
    ],
)
def test_wrong_notes_are_refused(tmp_path: Path, notes: Any) -> None:
    many = ["x" * 20_000] + [""] * 20_000
    write_checkpoint({"meta": {"a": "text", "many": many}, NOTES: notes}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth' is damaged: what it notes"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (("cat", "dog"), ("cat", "dog")),
        (np.array(["cat", "dog"]), np.array(["cat", "dog"])),
        ({"cat": 0}.keys(), ["cat"]),
        (range(3), range(3)),
    ],
)
def test_classes_of_the_model(tmp_path: Path, classes: Any, expected: Any) -> None:
    model = nn.Linear(1, 1)
    model.CLASSES = classes
    meta = {"CLASSES": {Path("a")}}  # the model's count
    save_checkpoint(model, tmp_path / "a.pth", meta=meta)
    assert same(read_checkpoint(tmp_path / "a.pth")["meta"]["CLASSES"], expected)
    model.CLASSES = [print]
    with pytest.raises(TypeError, match=r"model\.CLASSES\[0\] is a builtin_function"):
        save_checkpoint(model, tmp_path / "a.pth")


def test_the_file_does_not_follow_the_array(tmp_path: Path) -> None:
    array = np.zeros(2)
    kept = plain(array)
    array += 1
    assert kept.tolist() == [0.0, 0.0]


def test_extra_state_and_the_optimizers_options(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"seen": {1, 2}, "counts": np.ones(2)}

        def set_extra_state(self, state: Any) -> None:
            self.state = state

    model = Counting(1, 1)
    optimizer = torch.optim.SGD(
        [{"params": list(model.parameters()), "tag": {1}}], lr=np.float64(1)
    )
    save_checkpoint(model, tmp_path / "a.pth", optimizer)
    read = load_checkpoint(model, tmp_path / "a.pth")
    assert same(model.state, {"seen": {1, 2}, "counts": np.ones(2)})
    assert read["optimizer"]["param_groups"][0]["tag"] == {1}
