"""Weights to and from safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from hookrun import export_safetensors, load_checkpoint
from hookrun.checkpoint import read_checkpoint
from tests.support import TinyModel


def test_weights_and_meta_come_back(tmp_path: Path) -> None:
    model, other = TinyModel(0), TinyModel(1)
    export_safetensors(model, tmp_path / "w.safetensors", {"epoch": 3, "classes": ["a"]})
    checkpoint = load_checkpoint(other, tmp_path / "w.safetensors", strict=True)
    assert checkpoint["meta"] == {"epoch": 3, "classes": ["a"]}
    assert torch.equal(model.fc.weight, other.fc.weight)


def test_the_library_reads_ours_and_we_read_the_librarys(tmp_path: Path) -> None:
    model = TinyModel(0)
    export_safetensors(model, tmp_path / "a.safetensors")
    assert safetensors.torch.load_file(tmp_path / "a.safetensors").keys() == {
        "fc.weight",
        "fc.bias",
    }
    safetensors.torch.save_file(dict(model.state_dict()), tmp_path / "b.safetensors")
    read = read_checkpoint(tmp_path / "b.safetensors", map_location="cpu")
    assert read["meta"] == {}
    assert torch.equal(read["state_dict"]["fc.weight"], model.fc.weight)


def test_tied_and_strided_weights_are_written(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.two = nn.Linear(3, 3)
            self.two.weight = self.one.weight
            self.register_buffer("turned", torch.arange(6.0).view(2, 3).t())

    model, other = Tied(), Tied()
    export_safetensors(model, tmp_path / "a.safetensors")
    load_checkpoint(other, tmp_path / "a.safetensors", strict=True)
    assert other.two.weight is other.one.weight
    assert torch.equal(other.one.weight, model.one.weight)
    assert torch.equal(other.turned, model.turned)


@pytest.mark.parametrize("length", [0, 4, 8, 40, -1])
def test_damaged_files_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    export_safetensors(TinyModel(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"a\.safetensors.*safetensors"):
        read_checkpoint(path)


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'a' is a int"):
        export_safetensors({"a": 1}, tmp_path / "a.safetensors")  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="JSON"):
        export_safetensors(TinyModel(), tmp_path / "a.safetensors", {"x": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []
    export_safetensors(TinyModel(), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="takes a device"):
        read_checkpoint(tmp_path / "a.safetensors", lambda storage, location: storage)
