from __future__ import annotations

import collections
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from hookrun import HOOKS, Registry, obj_from_dict
from hookrun.core.registry import known_arguments


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape")

    @registry.register_module()
    class Circle:
        def __init__(self, radius: float = 1.0) -> None:
            if radius < 0:
                raise ValueError("radius is negative")
            self.radius = radius

    return registry


def test_builds_by_name_and_leaves_the_config_alone(shapes: Registry) -> None:
    config = {"type": "Circle", "radius": 2}
    assert shapes.build(config).radius == 2
    assert config == {"type": "Circle", "radius": 2}


def test_builds_a_class_itself(shapes: Registry) -> None:
    assert shapes.build({"type": shapes.get("Circle")}).radius == 1.0


def test_default_arguments_give_way_to_the_config(shapes: Registry) -> None:
    assert shapes.build({"type": "Circle"}, default_args={"radius": 3}).radius == 3
    assert shapes.build({"type": "Circle", "radius": 2}, default_args={"radius": 3}).radius == 2


def test_registers_in_every_form(shapes: Registry) -> None:
    class Square: ...

    shapes.register_module(module=Square)
    shapes.register_module(name=["Quad", "Box"], module=Square)
    shapes.register_module(Square, force=True)
    assert all(shapes.get(name) is Square for name in ("Square", "Quad", "Box"))
    assert len(shapes) == 4
    assert "Box" in shapes


def test_a_name_is_taken_only_by_force(shapes: Registry) -> None:
    class Circle: ...

    with pytest.raises(KeyError, match="already in the shape registry"):
        shapes.register_module(module=Circle)
    shapes.register_module(force=True, module=Circle)
    assert shapes.get("Circle") is Circle


def test_an_unknown_name_lists_the_near_ones(shapes: Registry) -> None:
    with pytest.raises(KeyError, match="Did you mean 'Circle'"):
        shapes.build({"type": "circel"})
    assert shapes.get("circel") is None


def test_a_constructors_error_stays_and_names_the_class(shapes: Registry) -> None:
    with pytest.raises(ValueError, match="radius is negative") as caught:
        shapes.build({"type": "Circle", "radius": -1})
    assert "while building the shape Circle" in caught.value.__notes__[0]


def test_a_misspelt_argument_gets_its_near_spelling() -> None:
    wrong = {"type": "StepLrUpdaterHook", "stepp": [3]}
    with pytest.raises(
        TypeError, match=r"^StepLrUpdaterHook has no argument 'stepp'. Did you.*'st"
    ):
        HOOKS.build(wrong)


def test_what_a_constructor_takes() -> None:
    class Base:
        def __init__(self, a: int, b: int = 0) -> None: ...

    class Passes(Base):
        def __init__(self, c: int, **kwargs: Any) -> None: ...

    class Narrow(Base):
        def __init__(self, c: int) -> None: ...

    class Swallows:
        def __init__(self, *args: Any, d: int, **kwargs: Any) -> None: ...

    def make(e: int, /, f: int) -> None: ...

    class Plain: ...

    assert known_arguments(Base) == ({"a", "b"}, False)
    assert known_arguments(Passes) == ({"a", "b", "c"}, False)
    assert known_arguments(Narrow) == ({"c"}, False)
    assert known_arguments(Swallows) == ({"d"}, True)
    assert known_arguments(make) == ({"e", "f"}, False)
    assert known_arguments(Plain) == (set(), False)


@pytest.mark.parametrize(
    ("config", "error"), [({}, KeyError), ("Circle", TypeError), ({"type": 3}, TypeError)]
)
def test_bad_configs_are_refused(shapes: Registry, config: Any, error: type) -> None:
    with pytest.raises(error):
        shapes.build(config)


@pytest.mark.parametrize("module", [3, "Circle", object()])
def test_only_classes_and_functions_are_registered(shapes: Registry, module: Any) -> None:
    with pytest.raises(TypeError, match="classes and functions"):
        shapes.register_module(module=module)


def test_hooks_are_in_their_registry() -> None:
    assert {"CheckpointHook", "EvalHook", "EMAHook", "TextLoggerHook"} <= set(HOOKS)


def test_obj_from_dict() -> None:
    info = {"type": "OrderedDict", "a": 1}
    assert obj_from_dict(info, collections, {"a": 0, "b": 2}) == {"a": 1, "b": 2}
    assert obj_from_dict({"type": "fractions.Fraction", "numerator": 3}) == 3
    assert obj_from_dict({"type": list}) == []
    assert info == {"type": "OrderedDict", "a": 1}


@pytest.mark.parametrize(
    ("info", "parent", "message"),
    [
        ({"a": 1}, None, "needs the key 'type'"),
        ({"type": "OrderdDict"}, collections, "collections has no 'OrderdDict'. Did you mean"),
        ({"type": "fractions.Fractoin"}, None, "fractions has no 'Fractoin'. Did you mean"),
        ({"type": "list"}, None, "'list' is not the full name of a class"),
        ({"type": "no.such.Thing"}, None, "'no.such.Thing' is not the full name of a class"),
    ],
)
def test_obj_from_dict_of_a_wrong_type(info: Any, parent: Any, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        obj_from_dict(info, parent)


HOME = {
    "shapes_core": "from hookrun import Registry\nSHAPES = Registry('shape', home='shapes_home')",
    "shapes_part": """
from shapes_core import SHAPES
@SHAPES.register_module(shipped=True)
class Square: ...
""",
    "shapes_home": """
from shapes_core import SHAPES
from shapes_part import Square
@SHAPES.register_module()
class Circle: ...
""",
}


@pytest.mark.parametrize("name", ["Circle", "Square"])
def test_what_is_shipped_is_registered_before_all_else(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, code in HOME.items():
        (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = type(name, (), {})
    for force in (False, True):
        for module in HOME:
            sys.modules.pop(module, None)
        importlib.import_module("shapes_part")
        assert "shapes_home" not in sys.modules
        shapes = sys.modules["shapes_core"].SHAPES
        if force:
            shapes.register_module(force=True, module=mine)
        else:
            with pytest.raises(KeyError, match=f"'{name}' is already in the shape registry"):
                shapes.register_module(module=mine)
        home = importlib.import_module("shapes_home")
        assert shapes.get(name) is (mine if force else getattr(home, name))
        assert sorted(shapes) == ["Circle", "Square"]
    for module in HOME:
        del sys.modules[module]
