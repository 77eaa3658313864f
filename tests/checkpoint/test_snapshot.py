"""Snapshots hold the state at one moment, whatever happens to it afterwards."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hookrun.checkpoint import make_checkpoint, read_checkpoint, write_checkpoint
from hookrun.checkpoint.snapshot import Snapshots, map_tensors, on_cpu
from hookrun.ops import explain


def tensors_in(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(tree, lambda tensor: found.append(tensor) or tensor)
    return found


def odd_tensors() -> dict[str, Tensor]:
    base = torch.arange(24.0)
    return {
        "whole": base,
        "view": base[4:10],
        "transposed": base.view(4, 6).t(),
        "expanded": torch.ones(1).expand(5),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "bool": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.float16),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "complex": torch.tensor([1 + 2j]),
        "conjugated": torch.tensor([1 + 2j]).conj(),
        "sparse": torch.eye(3).to_sparse(),
        "parameter": nn.Parameter(torch.ones(2)),
    }


@pytest.mark.parametrize("name", odd_tensors())
def test_every_kind_of_tensor_is_copied(name: str) -> None:
    tensor = odd_tensors()[name]
    expected = tensor.detach().clone()
    copied, synchronize = Snapshots().take([tensor])
    synchronize()
    with torch.no_grad():
        if not tensor.is_sparse and tensor.numel():
            (tensor.as_strided((1,), (1,)) if name == "expanded" else tensor).zero_()
    (got,) = copied
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert not got.requires_grad
    if expected.is_sparse:
        got, expected = got.to_dense(), expected.to_dense()
    assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_every_dtype_is_copied() -> None:
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    dtypes -= {torch.quint8, torch.qint8, torch.qint32, torch.quint4x2, torch.quint2x4}
    for dtype in sorted(dtypes, key=str):
        memory = torch.arange(64, dtype=torch.uint8).repeat(2)
        try:
            tensor = memory.view(dtype)
        except RuntimeError:  # a dtype that torch only reserves
            continue
        (copied,), _ = Snapshots().take([tensor])
        memory += 1
        assert copied.dtype == dtype
        expected = list(range(64)) * 2
        assert list(copied.untyped_storage()) == expected, dtype


def test_a_training_state_is_copied_and_stays(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()

    step()
    tree = make_checkpoint(model, optimizer, {"epoch": 1})
    before = copy.deepcopy(tree)
    copied, synchronize = Snapshots().take(tree)
    step()
    synchronize()
    write_checkpoint(copied, tmp_path / "a.pth")
    read = read_checkpoint(tmp_path / "a.pth")
    assert read["meta"] == before["meta"]
    assert read["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    pairs = list(zip(tensors_in(read), tensors_in(before), strict=True))
    assert len(pairs) == 4 + 3 + 4 * 3
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
    assert read["state_dict"]._metadata == model.state_dict()._metadata
    assert not torch.equal(read["state_dict"]["0.weight"], model[0].weight)


def test_tensors_that_share_memory_share_it_in_the_copy() -> None:
    base = torch.arange(10.0)
    copied, _ = Snapshots().take({"a": base, "b": base[2:4], "other": torch.ones(10)})
    copied["a"][2] = 99
    assert copied["b"][0] == 99
    assert base[2] == 2
    assert copied["other"][2] == 1


def test_a_part_that_comes_before_its_whole_shares_memory_with_it() -> None:
    base = torch.arange(10.0)
    (part, whole), _ = Snapshots().take([base[2:4], base])
    assert torch.equal(whole, base)
    part[0] = 99
    assert whole[2] == 99


@pytest.mark.parametrize("order", [(3, 10), (10, 3)])
def test_storages_that_begin_at_one_address_keep_their_lengths(order: tuple[int, int]) -> None:
    memory = np.arange(10.0)
    copied, _ = Snapshots().take([torch.from_numpy(memory[:length]) for length in order])
    for tensor, length in zip(copied, order, strict=True):
        assert tensor.tolist() == list(range(length))


def test_a_default_device_takes_no_copies_away_from_the_cpu() -> None:
    base = torch.arange(10.0)
    with torch.device("meta"):
        copied, _ = Snapshots().take([torch.ones(3, device="cpu"), base[2:4]])
    assert [tensor.tolist() for tensor in copied] == [[1, 1, 1], [2, 3]]


@pytest.mark.parametrize("backend", ["triton", "reference", "cpu"])
def test_copies_need_no_backend_of_the_operations(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setenv("HOOKRUN_BACKEND", backend)
    base = torch.arange(10.0)
    before = explain()
    copied, _ = Snapshots().take([base, base[2:4]])
    assert [tensor.tolist() for tensor in copied] == [base.tolist(), [2, 3]]
    assert explain() == before


def test_memory_of_inference_mode_is_used_again_outside_of_it() -> None:
    snapshots = Snapshots()
    with torch.inference_mode():
        (first,), _ = snapshots.take([torch.zeros(3)])
    assert not first.is_inference()
    snapshots.recycle()
    (second,), _ = snapshots.take([torch.ones(3)])
    assert second.data_ptr() == first.data_ptr()
    assert second.tolist() == [1, 1, 1]


def test_a_tensor_without_memory_is_refused(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"shape \(3,\) that has no memory"):
        Snapshots().take([tensor])
    with pytest.raises(ValueError, match="has no memory"):
        write_checkpoint({"a": tensor}, tmp_path / "a.pth")
    assert list(tmp_path.iterdir()) == []


def test_memory_is_used_again_only_once_a_copy_is_not_needed() -> None:
    snapshots = Snapshots()
    first, _ = snapshots.take([torch.zeros(100)])
    second, _ = snapshots.take([torch.ones(100)])
    assert torch.equal(first[0], torch.zeros(100))
    addresses = {first[0].data_ptr(), second[0].data_ptr()}
    assert len(addresses) == 2
    snapshots.recycle()
    third, _ = snapshots.take([torch.ones(100), torch.ones(50)])
    assert third[0].data_ptr() in addresses
    snapshots.recycle()
    fourth, _ = snapshots.take([torch.ones(100)])
    assert fourth[0].data_ptr() == third[0].data_ptr()


def test_a_tree_keeps_its_kinds_of_containers() -> None:
    tree = {"a": OrderedDict(b=[1, (torch.ones(1), "x")]), "n": None}
    copied, _ = Snapshots().take(tree)
    assert type(copied["a"]) is OrderedDict
    assert copied["a"]["b"][1][1] == "x"
    assert type(copied["a"]["b"][1]) is tuple
    assert copied["n"] is None
    assert copied["a"]["b"] is not tree["a"]["b"]


def test_on_the_cpu_nothing_is_copied() -> None:
    tree = {"a": torch.ones(2)}
    assert on_cpu(tree)["a"] is tree["a"]


@pytest.mark.gpu
def test_a_gpus_tensors_are_those_of_the_moment() -> None:
    model = nn.Linear(2000, 2000, device="cuda")
    expected = model.weight.detach().clone()
    snapshots = Snapshots()
    for _ in range(2):
        copied, synchronize = snapshots.take(model.state_dict())
        with torch.no_grad():
            model.weight.zero_()
        synchronize()
        assert copied["weight"].is_pinned()
        assert torch.equal(copied["weight"], expected.cpu())
        snapshots.recycle()
        with torch.no_grad():
            model.weight.copy_(expected)
