"""Weights go from any wrapper to any other, by files of every kind."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from hookrun import export_safetensors, load_checkpoint, load_state_dict, save_checkpoint
from hookrun.checkpoint import read_checkpoint

from .wrappers import WITH_MORE, WRAPPERS, Net, compiled, compiled_parts, train_step, wrapped


def write(model: nn.Module, kind: str, path: Path) -> None:
    if kind == "checkpoint":
        save_checkpoint(model, path)
    elif kind == "state dict":
        torch.save(model.state_dict(), path)
    elif kind == "model key":
        torch.save({"model": model.state_dict(), "epoch": 3, "best": torch.tensor(1.0)}, path)
    else:
        export_safetensors(model, path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["checkpoint", "state dict", "model key", "weights.safetensors"])
@pytest.mark.parametrize("source", WRAPPERS)
def test_every_wrapper_loads_what_every_other_wrote(source: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    model, expected = wrapped(source, 0)
    write(model, kind, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in WRAPPERS:
            model, got = wrapped(target, 1)
            load_checkpoint(model, path, strict=True)
            assert all(map(torch.equal, got, expected)), target


# What safetensors itself, which knows no wrappers, cannot take out of these.
KEEP_THEIR_NAMES = {
    "one's own",
    "one's own around TrainStep",
    "all of it",
    "parallel parts",
    "averaged model",
}


@pytest.mark.parametrize("source", [each for each in WRAPPERS if each not in KEEP_THEIR_NAMES])
def test_an_exported_network_is_one_for_safetensors_too(source: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model, expected = wrapped(source, 0)
    export_safetensors(model, path)
    net = Net(1)
    safetensors.torch.load_model(net, str(path), strict=True)
    assert all(map(torch.equal, net.state_dict().values(), expected))
    safetensors.torch.save_model(net, str(path))
    model, got = wrapped(source, 2)
    load_checkpoint(model, path, strict=True)
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("name", ["TrainStep of a loss with weights"])
def test_an_exported_training_with_more_weights_keeps_them(name: str, tmp_path: Path) -> None:
    model, _ = wrapped(name, 0)
    export_safetensors(model, tmp_path / "a.safetensors")
    names = set(read_checkpoint(tmp_path / "a.safetensors")["state_dict"])
    assert names == set(model.state_dict())
    load_checkpoint(wrapped(name, 1)[0], tmp_path / "a.safetensors", strict=True)


EVERY = [*WRAPPERS, *WITH_MORE]


@pytest.mark.parametrize(
    ("source", "target"),
    [(a, b) for a in EVERY for b in EVERY if a in WITH_MORE or b in WITH_MORE],
)
def test_what_else_a_wrapper_has_is_told(source: str, target: str, tmp_path: Path) -> None:
    model, expected = wrapped(source, 0)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    model, got = wrapped(target, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_checkpoint(model, tmp_path / "a.pth")
    assert all(map(torch.equal, got, expected))
    texts = [str(each.message) for each in caught]
    assert all("weight" in text and "layer1" not in text for text in texts)
    assert len(texts) == (source != target)


@pytest.mark.parametrize("name", ["DataParallel", "compiled", "compiled parts", "sharded parts"])
def test_saved_names_are_those_of_the_plain_network(name: str, tmp_path: Path) -> None:
    model, _ = wrapped(name, 0)
    save_checkpoint(model, tmp_path / "a.pth")
    weights = read_checkpoint(tmp_path / "a.pth")["state_dict"]
    assert list(weights) == list(Net().state_dict())
    assert weights._metadata["layer1.1"] == {"version": 2}
    Net(1).load_state_dict(weights, strict=True)  # as torch loads


def test_versions_of_modules_come_along() -> None:
    class Versioned(nn.Linear):
        _version = 7
        seen: list[int | None]

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):  # type: ignore[no-untyped-def]
            self.seen = [local_metadata.get("version")]
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    for wrap in (compiled, train_step, lambda net: compiled(train_step(compiled(net)))):
        source = wrap(nn.Sequential(Versioned(2, 2), nn.Linear(2, 1)))
        target = nn.Sequential(Versioned(2, 2), nn.Linear(2, 1))
        load_state_dict(target, source.state_dict(), strict=True)
        assert target[0].seen == [7]  # type: ignore[union-attr]


def test_the_names_of_a_file_are_revised_first(tmp_path: Path) -> None:
    source, target = Net(0), train_step(compiled_parts(Net(1)))
    renamed = {f"module.old_{name}": value for name, value in source.state_dict().items()}
    torch.save(renamed, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=True, revise_keys=[(r"\.old_", ".")])
    got = target.model.state_dict().values()
    assert all(map(torch.equal, got, source.state_dict().values()))


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "a.pth")
    target = Net(1)
    before = target.head.weight.detach().clone()
    pattern = [(r"^(layer1\.0|head)\.", "head.")]
    with pytest.raises(ValueError, match=r"make 'head\.weight' of both 'layer1\.0\.weight' and"):
        load_checkpoint(target, tmp_path / "a.pth", revise_keys=pattern)
    assert torch.equal(target.head.weight, before)


def test_lazy_modules_take_their_shapes_from_the_file() -> None:
    target = nn.Sequential(nn.LazyLinear(2))
    source = nn.Sequential(nn.Linear(3, 2))
    load_state_dict(target, {f"module.{n}": v for n, v in source.state_dict().items()}, strict=True)
    assert torch.equal(target[0].weight, source[0].weight)  # type: ignore[arg-type]
