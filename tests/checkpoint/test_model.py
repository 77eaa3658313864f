"""Weights of a model to and from checkpoints."""

from __future__ import annotations

import logging
from collections import OrderedDict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hookrun import (
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    weights_to_cpu,
)
from hookrun.checkpoint import make_checkpoint, read_checkpoint
from tests.support import TinyModel

DATA = Path(__file__).parents[1] / "fixtures"


class Wider(nn.Module):
    """TinyModel's names, but another shape and one more parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 1)
        self.extra = nn.Parameter(torch.zeros(1))


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_a_model_and_its_optimizer_come_back(tmp_path: Path) -> None:
    model, other = TinyModel(0), TinyModel(1)
    optimizer = torch.optim.Adam(model.parameters())
    model.fc(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    meta = {"epoch": 3, "nested": {"list": [1]}}
    save_checkpoint(model, tmp_path / "a.pth", optimizer, meta)
    checkpoint = load_checkpoint(other, tmp_path / "a.pth", strict=True)
    assert same(model, other)
    torch.optim.Adam(other.parameters()).load_state_dict(checkpoint["optimizer"])
    assert checkpoint["meta"]["nested"] == {"list": [1]}
    assert meta == {"epoch": 3, "nested": {"list": [1]}}  # "time" went into a copy


def test_several_optimizers_are_kept_by_name() -> None:
    model = TinyModel()
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.1) for name in ("g", "d")}
    assert make_checkpoint(model, optimizers)["optimizer"].keys() == {"g", "d"}


def test_what_could_not_be_read_back_is_refused_when_saving(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["schedule"] = Decimal(1)
    with pytest.raises(TypeError, match=r"optimizer\['param_groups'\]\[0\]\['schedule'\]"):
        save_checkpoint(model, tmp_path / "a.pth", optimizer)
    with pytest.raises(TypeError, match=r"meta\['cfg'\] is a object"):
        save_checkpoint(model, tmp_path / "a.pth", meta={"cfg": object()})
    with pytest.raises(TypeError, match="meta must be a dict"):
        save_checkpoint(model, tmp_path / "a.pth", meta=[1])
    model.CLASSES = ["cat", object()]
    with pytest.raises(TypeError, match=r"model\.CLASSES\[1\]"):
        save_checkpoint(model, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def test_extra_state_that_could_not_be_read_back_is_refused() -> None:
    class Stateful(TinyModel):
        def get_extra_state(self) -> Any:
            return Decimal(1)

    with pytest.raises(TypeError, match=r"state_dict\['_extra_state'\] is a Decimal"):
        make_checkpoint(Stateful())


def test_classes_of_the_model_are_kept() -> None:
    model = TinyModel()
    model.CLASSES = ("cat", "dog")
    assert make_checkpoint(model)["meta"]["CLASSES"] == ("cat", "dog")


def test_strict_loading_lists_names_and_both_shapes_and_changes_nothing() -> None:
    model = Wider()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {**TinyModel().state_dict(), "more": torch.zeros(1)}
    with pytest.raises(RuntimeError) as raised:
        load_state_dict(model, weights, strict=True)
    text = str(raised.value)
    assert "fc.weight has shape (1, 2) in the file and (1, 5) in the model" in text
    assert "1 missing in the file: extra" in text
    assert "1 not in the model: more" in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_loading_that_is_not_strict_takes_what_fits_and_warns(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    model, source = Wider(), TinyModel()
    weight = model.fc.weight.clone()
    load_state_dict(model, source.state_dict(), logger=logger)
    assert torch.equal(model.fc.bias, source.fc.bias)
    assert torch.equal(model.fc.weight, weight)
    assert "(1, 2) in the file and (1, 5) in the model" in caplog.text


def test_module_in_front_of_names_is_stripped_and_names_can_be_revised(tmp_path: Path) -> None:
    source, model = TinyModel(0), TinyModel(1)
    torch.save({f"module.{n}": v for n, v in source.state_dict().items()}, tmp_path / "a.pth")
    load_checkpoint(model, tmp_path / "a.pth", strict=True)
    assert same(source, model)
    model = TinyModel(1)
    torch.save({f"net.{n}": v for n, v in source.state_dict().items()}, tmp_path / "a.pth")
    load_checkpoint(model, tmp_path / "a.pth", strict=True, revise_keys=[(r"^net\.", "")])
    assert same(source, model)


def test_batch_norm_counters_may_be_missing() -> None:
    weights = nn.BatchNorm1d(2).state_dict()
    del weights["num_batches_tracked"]
    load_state_dict(nn.BatchNorm1d(2), weights, strict=True)


def test_a_checkpoint_of_mmcv_loads() -> None:
    model = TinyModel()
    checkpoint = load_checkpoint(model, DATA / "mmcv_epoch_2.pth")
    assert torch.equal(model.fc.weight.detach(), checkpoint["state_dict"]["fc.weight"])


def test_a_state_dict_that_is_no_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": [1, 2]}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a dict, not a list"):
        load_checkpoint(TinyModel(), tmp_path / "a.pth")


def test_weights_to_cpu_keeps_the_metadata() -> None:
    weights = TinyModel().state_dict()
    assert weights_to_cpu(weights)._metadata == weights._metadata


def test_storage_that_is_not_known_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no storage 'petrel' .*backend='s3'"):
        save_checkpoint(TinyModel(), tmp_path / "a.pth", file_client_args={"backend": "petrel"})
    save_checkpoint(TinyModel(), tmp_path / "a.pth", file_client_args={"backend": "disk"})
    assert "state_dict" in read_checkpoint(tmp_path / "a.pth")


def test_what_is_no_tensor_is_refused_and_changes_nothing() -> None:
    model = TinyModel(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {"fc.weight": torch.zeros(1, 2), "fc.bias": 3}
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"fc\.bias is a tensor in the model, but a int here"):
            load_state_dict(model, weights, strict=strict)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_state_that_cannot_be_read_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = TinyModel(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "a.pth"
    save_checkpoint(TinyModel(1), path)
    whole = path.read_bytes()
    for data, message in ((b"", "it is empty"), (whole[:-1], "damaged"), (whole[:99], "damaged")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weights_go_to_other_storage_and_come_back() -> None:
    model, other = TinyModel(0), TinyModel(1)
    save_checkpoint(model, "memory://weights/a.pth")
    load_checkpoint(other, "memory://weights/a.pth", strict=True)
    assert same(model, other)
    save_checkpoint(model, "b.pth", file_client_args={"backend": "memory"})
    assert "state_dict" in load_checkpoint(other, "b.pth", file_client_args={"backend": "memory"})


def test_weights_without_names_are_refused(tmp_path: Path) -> None:
    torch.save({1: torch.ones(1)}, tmp_path / "file.pth")
    with pytest.raises(TypeError, match="a key is 1"):
        load_checkpoint(torch.nn.Linear(1, 1), tmp_path / "file.pth")


def test_state_dict_without_wrappers() -> None:
    """Names of a model in a wrapper, or with wrapped parts, under a prefix and in a dict given."""
    inner = nn.Sequential(nn.BatchNorm1d(2), nn.DataParallel(nn.Linear(2, 2)))
    model = nn.DataParallel(inner)
    plain = get_state_dict(model)
    assert [*plain] == [name.replace("1.module.", "1.") for name in inner.state_dict()]
    assert plain._metadata["0"] == {"version": 2}  # type: ignore[attr-defined]
    given = OrderedDict(other=torch.zeros(1))
    assert get_state_dict(model, given, "net.", keep_vars=True) is given
    assert [*given] == ["other", *(f"net.{name}" for name in plain)]
    assert given["net.1.weight"] is inner[1].module.weight
    assert given._metadata["net.0"] == {"version": 2}  # type: ignore[attr-defined]
    nn.ModuleDict({"net": nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))}).load_state_dict(
        OrderedDict((name, value) for name, value in given.items() if name != "other")
    )
