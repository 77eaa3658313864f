"""Optimizers from configs, by name and with options by kinds of parameters."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import (
    OPTIMIZER_BUILDERS,
    OPTIMIZERS,
    DefaultOptimizerConstructor,
    build_optimizer,
    build_optimizer_constructor,
)

LR, WD = 0.1, 0.01
SGD = {"type": "SGD", "lr": LR, "momentum": 0.9, "weight_decay": WD}


class DeformConv2d(nn.Module):
    """Stands in for MMCV's, whose offsets come from a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.conv_offset = nn.Conv2d(2, 2, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4)
        self.norm = nn.GroupNorm(2, 4)
        self.dcn = DeformConv2d()
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def multipliers(model: nn.Module, optimizer: Any) -> dict[str, tuple[float, float]]:
    """By the parameters' names, what their learning rates and decays were multiplied by."""
    names = {id(param): name for name, param in model.named_parameters()}
    return {
        names[id(group["params"][0])]: (
            pytest.approx(group["lr"] / LR),
            pytest.approx(group["weight_decay"] / WD),
        )
        for group in optimizer.param_groups
    }


def build(model: nn.Module, **paramwise_cfg: Any) -> Any:
    return build_optimizer(model, {**SGD, "paramwise_cfg": paramwise_cfg})


@pytest.fixture
def mmcv_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of MMCV that has deformable convolutions, as if it were in use."""
    module = types.ModuleType("mmcv.ops")
    module.DeformConv2d = DeformConv2d  # type: ignore[attr-defined]  # what the module has there
    monkeypatch.setitem(sys.modules, "mmcv.ops", module)


def test_every_optimizer_of_torch_has_its_name() -> None:
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "LBFGS", "SparseAdam"):
        assert OPTIMIZERS.get(name) is getattr(torch.optim, name)
    assert "Optimizer" not in OPTIMIZERS


def test_without_options_by_kinds_there_is_one_group() -> None:
    model, config = Model(), dict(SGD)
    optimizer = build_optimizer(model, config)
    assert config == SGD
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (LR, 0.9, WD)


def test_each_kind_of_parameter_has_its_multipliers(mmcv_ops: None) -> None:
    model = Model()
    optimizer = build(
        model,
        bias_lr_mult=2.0,
        bias_decay_mult=0.5,
        norm_decay_mult=0.25,
        dwconv_decay_mult=0.125,
        dcn_offset_lr_mult=4.0,
    )
    assert multipliers(model, optimizer) == {
        "scale": (1, 1),
        "backbone.0.weight": (1, 1),
        "backbone.0.bias": (2, 0.5),
        "backbone.1.weight": (1, 0.25),
        "backbone.1.bias": (1, 0.25),
        "depthwise.weight": (1, 0.125),
        "depthwise.bias": (2, 0.125),
        "norm.weight": (1, 0.25),
        "norm.bias": (1, 0.25),
        "dcn.weight": (1, 1),
        "dcn.conv_offset.weight": (4, 1),
        "dcn.conv_offset.bias": (4, 1),
        "frozen": (1, 1),
    }


def test_the_longest_custom_key_counts_and_nothing_else_does() -> None:
    model = Model()
    optimizer = build(
        model,
        custom_keys={
            "backbone": {"lr_mult": 0.1},
            "backbone.1": {"lr_mult": 0.2, "decay_mult": 0.0},
            "bias": {"decay_mult": 0.5},
        },
        bias_lr_mult=3.0,
        norm_decay_mult=0.25,
    )
    found = multipliers(model, optimizer)
    assert found["backbone.0.weight"] == (0.1, 1)
    assert found["backbone.0.bias"] == (0.1, 1)  # "backbone" is longer than "bias"
    assert found["backbone.1.bias"] == (0.2, 0)
    assert found["depthwise.bias"] == (1, 0.5)
    assert found["norm.weight"] == (1, 0.25)
    assert found["norm.bias"] == (1, 0.5)


def test_of_equally_long_keys_the_first_in_the_alphabet_counts() -> None:
    model = Model()
    keys = {"norm": {"lr_mult": 5.0}, "bias": {"lr_mult": 7.0}}
    assert multipliers(model, build(model, custom_keys=keys))["norm.bias"] == (7, 1)


def test_a_key_may_begin_with_the_dot_of_a_parameter_of_the_model_itself() -> None:
    model = Model()
    found = multipliers(model, build(model, custom_keys={".scale": {"lr_mult": 3.0}}))
    assert found["scale"] == (3, 1)


def test_a_wrapped_model_is_named_as_it_is_without_the_wrapper() -> None:
    model = Model()
    wrapped = nn.DataParallel(model)
    optimizer = build(wrapped, custom_keys={".scale": {"lr_mult": 3.0}})
    assert multipliers(model, optimizer)["scale"] == (3, 1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight


def test_parameters_in_several_places() -> None:
    model = Tied()
    with pytest.raises(ValueError, match="bypass_duplicate=True"):
        build(model, bias_lr_mult=2.0)
    with pytest.warns(UserWarning, match=r"second\.weight is in the optimizer already"):
        optimizer = build(model, bias_lr_mult=2.0, bypass_duplicate=True)
    found = multipliers(model, optimizer)
    assert found == {"first.weight": (1, 1), "first.bias": (2, 1), "second.bias": (2, 1)}


def test_the_optimizers_own_defaults_are_multiplied() -> None:
    config = {"type": "AdamW", "paramwise_cfg": {"bias_lr_mult": 2.0, "norm_decay_mult": 0.0}}
    optimizer = build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), config)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 2e-3, 1e-3, 1e-3]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01, 0, 0]


def test_constructors_and_optimizers_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_modules", dict(OPTIMIZERS.module_dict))
    monkeypatch.setattr(OPTIMIZER_BUILDERS, "_modules", dict(OPTIMIZER_BUILDERS.module_dict))

    @OPTIMIZERS.register_module()
    class MySGD(torch.optim.SGD):
        pass

    @OPTIMIZER_BUILDERS.register_module()
    class Halved(DefaultOptimizerConstructor):
        def add_params(self, params: Any, module: Any, prefix: str = "", *rest: Any) -> None:
            super().add_params(params, module, prefix, *rest)
            for group in params:
                group["lr"] = self.base_lr / 2

    config = {**SGD, "type": "MySGD", "constructor": "Halved", "paramwise_cfg": {"bias_lr_mult": 9}}
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    assert type(optimizer) is MySGD
    assert [group["lr"] for group in optimizer.param_groups] == [LR / 2] * 2
    built = build_optimizer_constructor({"type": "Halved", "optimizer_cfg": SGD})
    assert type(built) is Halved


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"type": "AdmW"}, KeyError, "Did you mean 'AdamW'"),
        ({"lr": 0.1}, KeyError, "type"),
        ({**SGD, "momentun": 0.9}, TypeError, "Did you mean 'momentum'"),
        ({**SGD, "constructor": "Default"}, KeyError, "DefaultOptimizerConstructor"),
        ([SGD], TypeError, "is a dict, not list"),
        ({**SGD, "paramwise_cfg": [1]}, TypeError, "paramwise_cfg is a dict or None"),
        ({**SGD, "paramwise_cfg": {"bias_lr_mul": 2}}, TypeError, "Did you mean 'bias_lr_mult'"),
        ({**SGD, "paramwise_cfg": {"bias_lr_mult": "2"}}, TypeError, "must be a number, not '2'"),
        ({**SGD, "paramwise_cfg": {"bias_lr_mult": -1.0}}, ValueError, "at least 0 and finite"),
        ({**SGD, "paramwise_cfg": {"custom_keys": ["bias"]}}, TypeError, "custom_keys is a dict"),
        (
            {**SGD, "paramwise_cfg": {"custom_keys": {"bias": 0.5}}},
            TypeError,
            "must be a dict such as",
        ),
        (
            {**SGD, "paramwise_cfg": {"custom_keys": {"bias": {"lr_mul": 1}}}},
            TypeError,
            "Did you mean 'lr_mult'",
        ),
        (
            {**SGD, "paramwise_cfg": {"custom_keys": {"wieght": {"lr_mult": 1}}}},
            ValueError,
            "'wieght' is in the name of no parameter.*Did you mean 'weight'",
        ),
        (
            {"type": "LBFGS", "paramwise_cfg": {"bias_decay_mult": 0.0}},
            ValueError,
            "multiplies weight_decay",
        ),
        ({**SGD, "paramwise_cfg": {"bypass_duplicate": 1}}, TypeError, "must be a bool"),
        ({**SGD, "lr": "1e-4"}, TypeError, "lr must be a number, not the text '1e-4'"),
        ({**SGD, "weight_decay": "1e-4"}, TypeError, "weight_decay must be a number"),
        ({**SGD, "lr": float("nan")}, ValueError, "lr must be finite"),
        ({**SGD, "params": []}, TypeError, "has no params"),
    ],
)
def test_bad_configs_say_what_is_wrong(config: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build_optimizer(nn.Linear(2, 2), config)


def test_what_is_no_model_is_named() -> None:
    for config in (SGD, {**SGD, "paramwise_cfg": {"bias_lr_mult": 2}}):
        with pytest.raises(TypeError, match=r"the model is an nn.Module, not dict"):
            build_optimizer({}, config)  # type: ignore[arg-type]


def test_errors_show_the_config_without_the_parameters() -> None:
    with pytest.raises(TypeError) as caught:
        build_optimizer(nn.Linear(2, 2), {**SGD, "momentun": 0.9})
    [note] = caught.value.__notes__
    assert "'momentun': 0.9" in note
    assert "tensor(" not in note


def test_a_constructor_that_makes_the_groups_has_keys_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OPTIMIZER_BUILDERS, "_modules", dict(OPTIMIZER_BUILDERS.module_dict))

    @OPTIMIZER_BUILDERS.register_module()
    class Layerwise(DefaultOptimizerConstructor):
        def add_params(self, params: Any, module: Any, prefix: str = "", *rest: Any) -> None:
            for place, param in enumerate(module.parameters()):
                rate = self.base_lr * self.paramwise_cfg["decay_rate"] ** place
                params.append({"params": [param], "lr": rate})

    config = {**SGD, "constructor": "Layerwise", "paramwise_cfg": {"decay_rate": 0.5}}
    groups = build_optimizer(nn.Linear(2, 2), config).param_groups
    assert [group["lr"] for group in groups] == [LR, LR / 2]
