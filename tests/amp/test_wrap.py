"""wrap_fp16_model: flags alone, or parameters in fp16 with norms in fp32."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import auto_fp16, wrap_fp16_model
from tests.oracle import import_mmcv


class Net(nn.Module):
    """Has every kind of norm, a tied weight and a buffer of counts."""

    def __init__(self) -> None:
        super().__init__()
        self.fp16_enabled = False
        self.conv = nn.Conv2d(3, 4, 1)
        self.norms = nn.Sequential(
            nn.BatchNorm2d(4),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        )
        self.layer_norm = nn.LayerNorm(4)
        self.rms_norm = nn.RMSNorm(4)
        self.fc = nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.fc.weight
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(1))
        self.inner = nn.Identity()
        self.inner.fp16_enabled = False

    @auto_fp16()
    def forward(self, x: Tensor) -> Tensor:
        x = self.norms(self.conv(x)).relu().mean((2, 3))
        return self.tied(self.rms_norm(self.layer_norm(self.fc(x))))


NORMS = ("norms", "layer_norm", "rms_norm")


def make(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def test_by_default_only_flags_are_set() -> None:
    model, plain = make(), make()
    wrap_fp16_model(model)
    assert model.fp16_enabled is True
    assert model.inner.fp16_enabled is True
    assert not hasattr(model.fc, "fp16_enabled")
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_the_flags_are_those_of_mmcv() -> None:
    wrap = import_mmcv("mmcv.runner").wrap_fp16_model
    ours, theirs = make(), make()
    wrap_fp16_model(ours)
    wrap(theirs)
    flags = [
        [getattr(module, "fp16_enabled", None) for module in model.modules()]
        for model in (ours, theirs)
    ]
    assert flags[0] == flags[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_parameters_and_fp32_norms(dtype: torch.dtype) -> None:
    model, plain = make(), make()
    before = dict(model.named_parameters())
    plain.norms[0].weight.data += 1e-5
    model.norms[0].weight.data += 1e-5  # lost in fp16, where MMCV sends it through
    wrap_fp16_model(model, half=True, dtype=dtype)
    for name, value in model.state_dict().items():
        norm = name.startswith(NORMS)
        original = plain.state_dict()[name]
        expected = dtype if original.is_floating_point() and not norm else original.dtype
        assert value.dtype == expected, name
        assert torch.equal(value, original.to(expected)), name
    for name, parameter in model.named_parameters():
        assert parameter is before[name]  # optimizers keep their references
    assert model.tied.weight is model.fc.weight


@pytest.mark.parametrize("training", [True, False])
def test_a_half_model_computes_what_the_fp32_one_does(training: bool) -> None:
    model, plain = make().train(training), make().train(training)
    wrap_fp16_model(model, half=True)
    seen: dict[str, torch.dtype] = {}

    def note(name: str) -> Any:
        return lambda module, args, output: seen.update({name: output.dtype})

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    x = torch.randn(6, 3, 5, 5)
    output = model(x)
    assert output.dtype == torch.float16
    for name in ("conv", "norms.0", "norms.1", "norms.2", "layer_norm", "rms_norm", "tied"):
        assert seen[name] == torch.float16, name
    torch.testing.assert_close(output.float(), plain(x), atol=2e-2, rtol=2e-2)
    output.float().square().sum().backward()
    assert model.fc.weight.grad.dtype == torch.float16
    assert model.layer_norm.weight.grad.dtype == torch.float32


def test_wrapping_twice_adds_nothing() -> None:
    model = make()
    wrap_fp16_model(model, half=True)
    wrap_fp16_model(model, half=True)
    assert len(model.layer_norm._forward_pre_hooks) == 1
    assert model(torch.randn(2, 3, 2, 2)).dtype == torch.float16


def test_copies_of_a_half_model_stand_alone() -> None:
    model = make().eval()
    wrap_fp16_model(model, half=True)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.layer_norm.weight.data.zero_()
        x = torch.randn(2, 3, 2, 2)
        assert not model(x).eq(0).all()
        assert twin(x).eq(0).all()


def test_a_model_without_flags_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="no module of Linear has fp16_enabled"):
        wrap_fp16_model(nn.Linear(1, 1))


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not dict"):
        wrap_fp16_model({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="half must be True or False, not 'yes'"):
        wrap_fp16_model(make(), half="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dtype must be .* not torch.float64"):
        wrap_fp16_model(make(), dtype=torch.float64)
