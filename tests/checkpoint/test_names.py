"""Which names of a file and of a model belong together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun.checkpoint.names import match_names


def shapes(names: str | dict[str, int]) -> dict[str, tuple[int, ...]]:
    sizes = names if isinstance(names, dict) else dict.fromkeys(names.split(), 1)
    return {name: (size,) for name, size in sizes.items()}


def matched(file: Any, model: Any, **more: Any) -> dict[str, str]:
    names = shapes(model)
    return match_names(shapes(file), names, {name: name for name in names}, **more).names


# file, model, which of the file's names belong to which of the model's
CASES = [
    # Names that match as they are win.
    ("module.w head.w", "module.w head.w", "module.w=module.w head.w=head.w"),
    ("model.w w", "model.w w", "model.w=model.w w=w"),
    ("w model.w", "w", "w=w"),
    ("w", "w model.w", "w=w"),
    # What wrappers usually add, in front and inside.
    ("module.a.w module.b", "a.w b", "module.a.w=a.w module.b=b"),
    ("a.w b", "module.a.w module.b", "a.w=module.a.w b=module.b"),
    ("model.w model.b", "w b", "model.w=w model.b=b"),
    ("g.module.w h.module.w", "g.w h.w", "g.module.w=g.w h.module.w=h.w"),
    ("g._orig_mod.w h.w", "g.w h.w", "g._orig_mod.w=g.w h.w=h.w"),
    ("module.model.a._orig_mod.w module.model.b", "a.w b", "module.model.a._orig_mod.w=a.w "
     "module.model.b=b"),
    ("_fsdp_wrapped_module.a._checkpoint_wrapped_module.w", "a.w",
     "_fsdp_wrapped_module.a._checkpoint_wrapped_module.w=a.w"),
    # A module that is really called so, in a wrapper that calls it so.
    ("module.module.w module.head.w", "module.w head.w",
     "module.module.w=module.w module.head.w=head.w"),
    ("model.model.w model.head.w", "model.w head.w", "model.model.w=model.w model.head.w=head.w"),
    ("module.w head.w", "module.module.w module.head.w",
     "module.w=module.module.w head.w=module.head.w"),
    # Whatever is around all of it.
    ("net.a.w net.b", "a.w b", "net.a.w=a.w net.b=b"),
    ("a.w b", "net.a.w net.b", "a.w=net.a.w b=net.b"),
    ("one.two.w one.two.b", "w b", "one.two.w=w one.two.b=b"),
    ("net.w net.b", "model.w model.b", "net.w=model.w net.b=model.b"),
    # What else is in the wrapper stays.
    ("model.w model.b loss.z", "w b", "model.w=w model.b=b"),
    ("net.w net.b loss.z", "w b", "net.w=w net.b=b"),
    ("w b", "net.w net.b loss.z", "w=net.w b=net.b"),
    ("net.w net.b loss.z", "model.w model.b loss_fn.z", "net.w=model.w net.b=model.b"),
    # A part that has not all is somebody else's, unless it is usual.
    ("net.w loss.z", "w b c", ""),
    ("model.w loss.z", "w b c", "model.w=w"),
    # Usual parts before others; no choice among equals.
    ("model.w model_ema.w", "w", "model.w=w"),
    ("student.w teacher.w", "w", ""),
    ("w", "student.w teacher.w", ""),
    # All or nothing: no part of the names is renamed, and no two become one.
    ("module.w w", "w b", "w=w"),
    ("a.module.w a.w", "a.w b.w", "a.w=a.w"),
    ("foo.x", "bar.y", ""),
    # A module of another name is another one, though all is in it and has the same shapes.
    ("fc.w fc.b", "head.w head.b", ""),
    ("module.fc.w module.fc.b", "head.w head.b", ""),
    ("fc.w fc.b", "model.head.w model.head.b", ""),
    ("fc._orig_mod.w", "head.w", ""),
    ("generator.net.w generator.net.b", "discriminator.net.w discriminator.net.b", ""),
    ("fc.w fc.b", "head.w head.b neck.w", ""),
    ("fc.w neck.w", "head.w neck.b", ""),
    ("0.w 0.b", "1.w 1.b", ""),
    ("model.fc.w model.fc.b", "module.fc.w module.fc.b",
     "model.fc.w=module.fc.w model.fc.b=module.fc.b"),
    ("net.fc.w net.fc.b", "model.fc.w model.fc.b", "net.fc.w=model.fc.w net.fc.b=model.fc.b"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "model", "expected"), CASES)
def test_names_that_belong_together(file: str, model: str, expected: str) -> None:
    assert matched(file, model) == dict(each.split("=") for each in expected.split())


def test_shapes_decide_between_parts() -> None:
    file = {"small.w": 2, "small.b": 1, "large.w": 9, "large.b": 1}
    assert matched(file, {"w": 9, "b": 1}) == {"large.w": "w", "large.b": "b"}
    assert matched(file, {"w": 5, "b": 1}) == {}


def test_same_names_win_over_shapes() -> None:
    file = {"a.w": 2, "a.b": 1}
    assert matched(file, {"a.w": 3, "a.b": 3}) == {"a.w": "a.w", "a.b": "a.b"}


def test_parts_that_fit_alike_are_named() -> None:
    names = shapes("w")
    found = match_names(shapes("student.w teacher.w"), names, {"w": "w"})
    assert found.ambiguous == ["student", "teacher"]


def test_what_need_not_match_does_not_count() -> None:
    file, model = "net.w net.b ema_net_w ema_net_b", "w b ema_w ema_b"
    extra = {"ema_net_w", "ema_net_b"}
    expected = {"net.w": "w", "net.b": "b"}
    assert matched(file, model, extra=extra, optional={"ema_w", "ema_b"}) == expected


COMPONENT = st.sampled_from(["module", "model", "net", "a", "b", "layer", "0", "1"])
NAMES = st.sets(
    st.lists(COMPONENT, min_size=1, max_size=3).map(lambda parts: ".".join([*parts, "w"])),
    min_size=1,
    max_size=6,
)
PREFIXES = st.lists(st.sampled_from(["module", "model", "_orig_mod"]), max_size=3)


@given(names=NAMES, theirs=PREFIXES, ours=PREFIXES)
@settings(max_examples=150)
def test_whatever_is_in_front_the_same_entries_match(
    names: set[str], theirs: list[str], ours: list[str]
) -> None:
    """Entries of sizes of their own: each finds the one of its size or none, and no other."""
    sizes = {name: (number,) for number, name in enumerate(sorted(names))}
    file = {".".join([*theirs, name]): size for name, size in sizes.items()}
    model = {".".join([*ours, name]): size for name, size in sizes.items()}
    found = match_names(file, model, {name: name for name in model})
    assert len(set(found.names.values())) == len(found.names)
    if not theirs and not ours:
        assert found.names == {name: name for name in names}
    for name, own in found.names.items():
        assert file[name] == model[own] or name in model
    if len(sizes) > 1 and not (file.keys() <= model.keys() or model.keys() <= file.keys()):
        assert found.names.keys() == file.keys()


@given(file=NAMES, model=NAMES)
@settings(max_examples=150)
def test_no_two_names_become_one(file: set[str], model: set[str]) -> None:
    names = shapes(dict.fromkeys(sorted(model), 1))
    found = match_names(shapes(dict.fromkeys(sorted(file), 1)), names, {n: n for n in names}).names
    assert len(set(found.values())) == len(found)
    assert found.keys() <= file
    assert set(found.values()) <= model
    if file & model in (file, model):
        assert found == {name: name for name in file & model}


def test_many_parts_take_no_time() -> None:
    names = [f"{number}.block.{each}" for number in range(150) for each in ("w", "b")]
    file = shapes({f"layers.{name}": number for number, name in enumerate(names)})
    model = shapes({name: number for number, name in enumerate(names)})
    model["head"] = (7,)
    assert len(match_names(file, model, {name: name for name in model}).names) == 300
