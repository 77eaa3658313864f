"""auto_fp16 and force_fp32: what a method receives, computes in and returns."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import auto_fp16, force_fp32, wrap_fp16_model
from tests.oracle import import_mmcv

DECORATORS = [auto_fp16, force_fp32]


def dtypes(value: Any) -> Any:
    """The same nesting with dtypes instead of tensors."""
    if isinstance(value, Tensor):
        return value.dtype
    if isinstance(value, dict):
        return {key: dtypes(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(dtypes(each) for each in value)
    return value


def echo_module(decorate: Callable[..., Any], **attributes: Any) -> Any:
    """A module whose method notes the dtypes it gets and returns its arguments."""

    class Echo(nn.Module):
        @decorate
        def forward(self, x: Any, y: Any = None, z: Any = "default") -> Any:
            self.seen = dtypes([x, y, z])
            return {"x": x, "rest": [y, z]}

    module = Echo()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def calls() -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    single, half, count = torch.ones(2), torch.ones(2).half(), torch.ones(2).long()
    nested = {"a": [single, (half, "text")], "b": count}
    return [
        ((single,), {}),
        ((half, single), {}),
        ((nested,), {"y": [nested]}),
        ((single, half), {"z": nested}),
        ((), {"x": half, "y": single}),
        (("text", None), {"z": 3}),
    ]


@pytest.mark.parametrize("enabled", [True, False, None])
@pytest.mark.parametrize("name", ["auto_fp16", "force_fp32"])
def test_arguments_and_results_are_those_of_mmcv(name: str, enabled: bool | None) -> None:
    theirs = getattr(import_mmcv("mmcv.runner"), name)
    ours = {"auto_fp16": auto_fp16, "force_fp32": force_fp32}[name]
    back = "out_fp32" if name == "auto_fp16" else "out_fp16"
    attributes = {} if enabled is None else {"fp16_enabled": enabled}
    for apply_to, out in itertools.product([None, ("x",), ("y", "z"), ()], [False, True]):
        arguments: dict[str, Any] = {"apply_to": apply_to, back: out}
        for args, kwargs in calls():
            expected = echo_module(theirs(**arguments), **attributes)
            got = echo_module(ours(**arguments), **attributes)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its autocast is CUDA's, which is not there
                expected_output = expected(*args, **kwargs)
            assert dtypes(got(*args, **kwargs)) == dtypes(expected_output), (arguments, args)
            assert got.seen == expected.seen, (arguments, args)


@pytest.mark.parametrize("enabled", [False, None])
def test_nothing_happens_while_it_is_off(enabled: bool | None) -> None:
    attributes = {} if enabled is None else {"fp16_enabled": enabled}
    x, half = torch.ones(2), torch.ones(2).half()
    assert echo_module(auto_fp16(out_fp32=True), **attributes)(x)["x"] is x
    assert echo_module(force_fp32(out_fp16=True), **attributes)(half)["x"] is half


def test_apply_to_and_results() -> None:
    x = torch.ones(2)
    module = echo_module(auto_fp16(apply_to=("y",), out_fp32=True), fp16_enabled=True)
    assert dtypes(module(x, [x], z=x)) == {"x": x.dtype, "rest": [[x.dtype], x.dtype]}
    assert module.seen == [torch.float32, [torch.float16], torch.float32]
    module = echo_module(force_fp32(out_fp16=True), fp16_enabled=True)
    assert dtypes(module(x.half(), {"a": x}))["rest"][0] == {"a": torch.float16}
    assert module.seen == [torch.float32, {"a": torch.float32}, "default"]


def test_all_kinds_of_arguments_are_passed_on_and_cast() -> None:
    class Module(nn.Module):
        fp16_enabled = True

        @auto_fp16()
        def everything(self, x: Any, /, *rest: Any, only: Any = None, **more: Any) -> Any:
            return [x, *rest, only, *more.values()]

        @auto_fp16(apply_to=("rest", "b"))
        def some(self, x: Any, *rest: Any, only: Any = None, **more: Any) -> Any:
            return [x, *rest, only, *more.values()]

    x = torch.ones(1)
    assert dtypes(Module().everything(x, x, x, only=x, b=x)) == [torch.float16] * 5
    half, single = torch.float16, torch.float32
    assert dtypes(Module().some(x, x, x, only=x, b=x)) == [single, half, half, single, half]


def test_decorators_stack_and_nest() -> None:
    class Model(nn.Module):
        fp16_enabled = True

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        @auto_fp16(out_fp32=True)
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.fc(x)
            return features, self.head(features)

        @force_fp32(apply_to=("features",))
        def head(self, features: Tensor) -> Tensor:
            self.head_dtypes = (features.dtype, self.fc(features).dtype)
            return features.sum()

        @auto_fp16(apply_to=("x",))
        @force_fp32(apply_to=("y",))
        def both(self, x: Tensor, y: Tensor) -> Any:
            return [x, y]

    model = Model()
    features, total = model(torch.ones(2, 4))
    assert (features.dtype, total.dtype) == (torch.float32, torch.float32)
    assert model.head_dtypes == (torch.float32, torch.float32)
    x = torch.ones(1)
    assert dtypes(model.both(x, x.half())) == [torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_computes_in_half_precision_on_the_cpu(dtype: torch.dtype) -> None:
    class Net(nn.Module):
        fp16_enabled = False

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.fc = nn.Linear(8, 3)

        @auto_fp16()
        def forward(self, x: Tensor) -> Tensor:
            features = self.conv(x)
            assert features.dtype == (dtype if self.fp16_enabled else torch.float32)
            return self.fc(features.flatten(1))

    torch.manual_seed(0)
    model = Net()
    x = torch.randn(5, 1, 4, 4)
    expected = model(x)
    wrap_fp16_model(model, dtype=dtype)
    output = model(x)
    assert output.dtype == dtype
    assert model.conv.weight.dtype == torch.float32
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(output.float(), expected, atol=8 * eps, rtol=8 * eps)
    output.float().square().sum().backward()
    assert model.conv.weight.grad.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_bf16_modules_cast_bf16() -> None:
    x = torch.ones(1)
    module = echo_module(auto_fp16(), fp16_enabled=True, fp16_dtype=torch.bfloat16)
    module(x, x.half())
    assert module.seen[:2] == [torch.bfloat16, torch.float16]
    module = echo_module(force_fp32(), fp16_enabled=True, fp16_dtype=torch.bfloat16)
    module(x.bfloat16())
    assert module.seen[0] == torch.float32


def test_the_caller_keeps_its_containers() -> None:
    x = torch.ones(1)
    given = {"a": [x]}
    echo_module(auto_fp16(), fp16_enabled=True)(given)
    assert given == {"a": [x]}
    assert given["a"][0] is x


@pytest.mark.parametrize("decorator", DECORATORS)
def test_other_objects_are_refused(decorator: Any) -> None:
    class Plain:
        fp16_enabled = True

        @decorator()
        def method(self, x: Any) -> Any:
            return x

    with pytest.raises(TypeError, match=rf"@{decorator.__name__} is for methods of Module, but .*"):
        Plain().method(1)
    with pytest.raises(TypeError, match="called on nothing"):
        Plain.method()


def test_supported_types() -> None:
    class Plain(list):  # type: ignore[type-arg]
        fp16_enabled = True

        @auto_fp16(supported_types=(list,))
        def method(self, x: Any) -> Any:
            assert isinstance(self, Plain)
            return x

    assert Plain([torch.ones(1)]).method(torch.ones(1)).dtype == torch.float16


@pytest.mark.parametrize("decorator", DECORATORS)
def test_bad_apply_to(decorator: Any) -> None:
    def forward(self: Any, features: Any) -> None: ...

    with pytest.raises(TypeError, match=r"such as apply_to=\('features',\), not 'features'"):
        decorator(apply_to="features")(forward)
    for bad in ((1,), 1, b"x"):
        with pytest.raises(TypeError, match=r"such as apply_to=\('x',\), not "):
            decorator(apply_to=bad)(forward)
    with pytest.raises(ValueError, match=r"no argument 'feature' to apply to.*'features'"):
        decorator(apply_to=("feature",))(forward)


def test_methods_keep_their_names_and_modules_can_be_copied() -> None:
    module = echo_module(auto_fp16(), fp16_enabled=True)
    assert module.forward.__name__ == "forward"
    twin = copy.deepcopy(module)
    twin(torch.ones(1))
    assert twin.seen[0] == torch.float16
    assert not hasattr(module, "seen")
