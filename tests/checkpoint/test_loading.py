"""Loading says what does not fit, in every case, and changes nothing where it raises."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hookrun import TrainStep, load_checkpoint, load_state_dict

from .wrappers import Net, compiled_parts


def linear(*sizes: int) -> nn.Linear:
    return nn.Linear(*(sizes or (4, 2)))


def two(**parts: nn.Module) -> dict[str, Any]:
    """A state dict of parts."""
    return dict(nn.ModuleDict(parts).state_dict())


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# A file, and what its error says that the model Linear(4, 2) makes of it.
NOTHING: dict[str, tuple[Callable[[], Any], str]] = {
    "other names": (
        lambda: two(conv=nn.Conv1d(1, 1, 1), fc=linear(1, 1)),
        r"the model has 'weight', 'bias', and the file 'fc\.weight', .*revise_keys=\[\(pattern",
    ),
    "other shapes": (
        linear(3, 3).state_dict,
        r"no shape fits: 'weight' is \(3, 3\), and the model's 'weight' is \(2, 4\)",
    ),
    "other shapes in a wrapper": (
        lambda: two(module=linear(3, 3)),
        r"no shape fits: 'module\.weight' is \(3, 3\), and the model's 'weight' is \(2, 4\)",
    ),
    "two that fit": (
        lambda: two(student=linear(), teacher=linear()),
        r"in several ways, as those that begin with 'student\.' and 'teacher\.': choose one with "
        r"revise_keys=\[\('\^student\\\\\.', ''\)\]",
    ),
    "dicts of weights": (
        lambda: {"params": linear().state_dict(), "params_ema": linear().state_dict()},
        r"in nested dicts, 'params', 'params_ema': .* to load_state_dict\(\)",
    ),
    "a dict of weights in state_dict": (
        lambda: {"state_dict": {"net": linear().state_dict()}},
        r"in nested dicts, 'net': read it with torch\.load\(\) and pass",
    ),
    "empty": (dict, "it holds nothing"),
    "no weights": (lambda: {"epoch": 3, "lr": 0.1}, "it holds no tensors, but 'epoch', 'lr'"),
    "an optimizer": (
        lambda: {"optimizer": torch.optim.SGD([torch.ones(1)]).state_dict(), "iter": 1},
        "it holds no tensors, but 'optimizer', 'iter'",
    ),
    "empty state_dict": (lambda: {"state_dict": {}, "meta": {}}, "it holds nothing"),
    "averages only": (lambda: {"ema_weight": torch.ones(2, 4)}, "and the file 'ema_weight'"),
}


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize("strict", [False, True])
def test_a_file_of_which_nothing_fits_is_an_error(kind: str, strict: bool, tmp_path: Path) -> None:
    make, message = NOTHING[kind]
    torch.save(make(), tmp_path / "a.pth")
    for wrap in (lambda net: net, nn.DataParallel, lambda net: TrainStep(net, print)):
        model = wrap(linear())  # type: ignore[no-untyped-call]
        before = copy_of(model)
        with pytest.raises(RuntimeError if strict else ValueError) as raised:
            load_checkpoint(model, tmp_path / "a.pth", strict=strict)
        assert "a.pth" in str(raised.value)
        after = copy_of(model)
        assert all(torch.equal(before[name], after[name]) for name in before)
    model = linear()
    with pytest.raises((RuntimeError, ValueError), match=message):
        load_checkpoint(model, tmp_path / "a.pth", strict=strict)


INNER = "_orig_mod"


@pytest.mark.parametrize("wrap", [linear, lambda: TrainStep(linear(), print), Net])
@pytest.mark.parametrize(
    "parts",
    [
        ("student", "teacher"),
        ("module.student", "module.teacher"),
        (f"student.{INNER}", f"teacher.{INNER}"),
        (f"module.{INNER}.student", f"module.{INNER}.teacher"),
        ("encoder_q", "encoder_k", "encoder_m"),
        ("m.a.x", "n.b.x"),
        ("a.net", "b.module.net"),
        ("0", "1"),
        ("net", "ema_model"),
        ("model+", "model*"),
    ],
)
def test_the_cure_for_several_parts_that_fit_loads_one_of_them(
    wrap: Callable[[], nn.Module], parts: tuple[str, ...], tmp_path: Path
) -> None:
    model = wrap()
    inside: Any = model.model if isinstance(model, TrainStep) else model
    weights = {f"{part}.{n}": v + i for i, part in enumerate(parts)
               for n, v in inside.state_dict().items()}  # fmt: skip
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="in several ways") as raised:
        load_checkpoint(model, tmp_path / "a.pth")
    (pattern,) = re.findall(r"revise_keys=\[\((.*), ''\)\]", str(raised.value))
    with pytest.warns(UserWarning, match="not in the model"):
        load_checkpoint(model, tmp_path / "a.pth", revise_keys=[(ast.literal_eval(pattern), "")])
    name = next(iter(inside.state_dict()))
    chosen = [
        part for part in parts if torch.equal(inside.state_dict()[name], weights[f"{part}.{name}"])
    ]
    assert len(chosen) == 1
    assert repr(f"{chosen[0]}.") in str(raised.value)


@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel])
@pytest.mark.parametrize("parts", [("student", "teacher"), ("0", "1"), ("a", "b", "c")])
def test_several_parts_of_the_model_that_a_file_fits_are_named(
    wrap: Callable[[nn.Module], nn.Module], parts: tuple[str, ...]
) -> None:
    model = nn.ModuleDict({part: linear() for part in parts})
    named = " and ".join(map(repr, parts))
    with pytest.raises(ValueError, match=f"fits several parts of the model, {named}: give the"):
        load_state_dict(wrap(model), linear().state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_state_dict(model.get_submodule(parts[0]), linear().state_dict())


# A file, and what loading it into Sequential(Linear(4, 2), Linear(2, 2)) reports.
PARTLY: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "missing": (
        lambda: {f"0.{n}": v for n, v in linear().state_dict().items()},
        ["2 missing in the file: 1.weight, 1.bias"],
    ),
    "unexpected": (
        lambda: {**nn.Sequential(linear(), linear(2, 2)).state_dict(), "more": torch.ones(1)},
        ["1 not in the model: more"],
    ),
    "shape": (
        lambda: nn.Sequential(linear(), linear(2, 3)).state_dict(),
        ["1.weight has shape (3, 2) in the file and (2, 2) in the model", "1.bias has shape (3,)"],
    ),
    "all three, in a wrapper": (
        lambda: {
            **{f"model.{n}": v for n, v in nn.Sequential(linear(3, 2)).state_dict().items()},
            "model.more": torch.ones(1),
            "loss.weight": torch.ones(2),
        },
        [
            "model.0.weight has shape (2, 3) in the file and (2, 4) in the model",
            "2 missing in the file: 1.weight, 1.bias",
            "2 not in the model: model.more, loss.weight",
        ],
    ),
    "what looks like an average, of nothing": (
        lambda: {**nn.Sequential(linear(), linear(2, 2)).state_dict(), "ema_x": torch.ones(1)},
        ["1 not in the model: ema_x"],
    ),
    "what looks like an average, of another shape": (
        lambda: {
            **nn.Sequential(linear(), linear(2, 2)).state_dict(),
            "ema_0_weight": torch.ones(1),
        },
        ["1 not in the model: ema_0_weight"],
    ),
}


@pytest.mark.parametrize("kind", PARTLY)
def test_what_does_not_fit_is_told_with_a_logger_and_without(
    kind: str, tmp_path: Path, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    make, texts = PARTLY[kind]
    torch.save(make(), tmp_path / "a.pth")
    models = [nn.Sequential(linear(), linear(2, 2)) for _ in range(3)]
    with pytest.warns(UserWarning, match="do not match") as caught:
        load_checkpoint(models[0], tmp_path / "a.pth")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(models[1], tmp_path / "a.pth", logger=logger)
    with pytest.raises(RuntimeError) as raised:
        load_checkpoint(models[2], tmp_path / "a.pth", strict=True)
    for text in texts:
        assert text in str(caught[0].message)
        assert text in caplog.text
        assert text in str(raised.value)
    assert "a.pth" in str(caught[0].message)


def test_a_state_dict_is_treated_alike() -> None:
    with pytest.warns(UserWarning, match="1 not in the model: more") as caught:
        load_state_dict(linear(), {**linear().state_dict(), "more": torch.ones(1)})
    assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="nothing in the state dict fits the model Linear"):
        load_state_dict(linear(), {"x": torch.ones(1)})


@pytest.mark.parametrize("weights", [None, "raw"])
@pytest.mark.parametrize(
    "make",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 1},
        lambda weights: {"model": weights, "loss": torch.ones(())},
        lambda weights: {"model": weights, "model_ema": weights},
        lambda weights: {"model": {"type": "Linear"}, "state_dict": weights},
        lambda weights: {"model": {"type": "Linear"}, "net": weights, "acc": 0.5},
        lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
        lambda weights: {"module": weights, "ds_version": "0.1"},
        lambda weights: {"params": weights},
        lambda weights: {"state_dict": {f"module.{n}": v for n, v in weights.items()}},
    ],
)
def test_where_a_file_keeps_its_weights(make: Any, weights: Any, tmp_path: Path) -> None:
    source, target = linear(), linear()
    torch.save(make(source.state_dict()), tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=True, weights=weights)
    assert torch.equal(source.weight, target.weight)


class Quantizer(nn.Module):
    """Has averages of its own, which are no EMAHook's."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2))
        self.register_buffer("ema_w", torch.randn(2))
        self.register_buffer("ema_cluster", torch.randn(3))


class Named(nn.Module):
    """Its parts are called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module, self.model, self.head = linear(2, 2), linear(2, 2), linear(2, 2)


@pytest.mark.parametrize("kind", [Quantizer, Named, Net])
def test_names_like_wrappers_or_averages_do_not_mislead(kind: Any, tmp_path: Path) -> None:
    wrappers: list[Any] = [lambda net: net, nn.DataParallel, lambda net: TrainStep(net, print)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for there in wrappers:
            for here in wrappers:
                source, target = kind(), kind()
                torch.save(there(source).state_dict(), tmp_path / "a.pth")
                load_checkpoint(here(target), tmp_path / "a.pth", strict=True)
                ours, theirs = source.state_dict(), target.state_dict()
                assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_counter_of_averaged_models_is_neither_missing_nor_left_over() -> None:
    source, target = Net(0), AveragedModel(Net(1))
    load_state_dict(target, source.state_dict(), strict=True)
    assert torch.equal(target.module.head.weight, source.head.weight)
    target.update_parameters(Net(2))
    again = Net(3)
    load_state_dict(again, target.state_dict(), strict=True)
    assert torch.equal(again.head.weight, target.module.head.weight)


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    torch.save(linear().state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="'meta': read the file with another map_location"):
        load_checkpoint(linear(), tmp_path / "a.pth", map_location="meta")
    with pytest.raises(ValueError, match=r"'meta': call model\.to_empty\(device=\.\.\.\) first"):
        load_checkpoint(nn.Linear(4, 2, device="meta"), tmp_path / "a.pth")


def test_an_error_amid_loading_leaves_everything_as_it_was(tmp_path: Path) -> None:
    class Stubborn(nn.Linear):
        def set_extra_state(self, state: Any) -> None:
            if state != self.name:
                raise KeyError("no such state")

        def get_extra_state(self) -> Any:
            return self.name

        name = "mine"

    for wrap in (lambda net: net, compiled_parts):
        model = Net(0)
        model.head = Stubborn(4, 2)
        wrap(model)  # type: ignore[no-untyped-call]
        before = {n: v.clone() for n, v in model.state_dict().items() if isinstance(v, Tensor)}
        weights = {**Net(1).state_dict(), "head._extra_state": "theirs"}
        torch.save(weights, tmp_path / "a.pth")
        with pytest.raises(KeyError, match="no such state"):
            load_checkpoint(model, tmp_path / "a.pth")
        after = model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_model_without_entries_needs_nothing() -> None:
    load_state_dict(nn.ReLU(), {}, strict=True)
    with pytest.warns(UserWarning, match="2 not in the model: weight, bias"):
        load_state_dict(nn.ReLU(), linear().state_dict())
