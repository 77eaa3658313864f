"""Tied weights and views: files of safetensors of either side, and torch's, strictly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from hookrun import TrainStep, export_safetensors, load_checkpoint, save_checkpoint
from hookrun.checkpoint import read_checkpoint


class Parts(nn.Module):
    """A module whose entries are what a function gives it."""

    def __init__(self, build: Callable[[Parts], None], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        build(self)


def one_tie(model: Parts) -> None:
    model.emb, model.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    model.head.weight = model.emb.weight


def the_later_name_first(model: Parts) -> None:
    model.z, model.a = nn.Linear(3, 3), nn.Linear(3, 3)
    model.a.weight, model.a.bias = model.z.weight, model.z.bias


def several_ties(model: Parts) -> None:
    model.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    for layer in list(model.layers)[1:3]:
        layer.weight = model.layers[0].weight
    model.layers[4].bias = model.layers[3].bias


def a_whole_module_twice(model: Parts) -> None:
    model.encoder = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model.decoder = model.encoder
    model.out = nn.Linear(3, 1)


def a_buffer_of_a_parameter(model: Parts) -> None:
    model.fc = nn.Linear(3, 2)
    model.register_buffer("seen", model.fc.weight.detach())


def a_view_of_a_parameter(model: Parts) -> None:
    model.whole = nn.Parameter(torch.randn(6, 2))
    model.query = nn.Parameter(model.whole.detach()[:2])


def a_view_in_another_shape(model: Parts) -> None:
    model.flat = nn.Parameter(torch.randn(12))
    model.matrix = nn.Parameter(model.flat.detach().view(3, 4))


def strided_and_not_tied(model: Parts) -> None:
    model.turned = nn.Parameter(torch.randn(3, 4).t())
    model.register_buffer("every_other", torch.randn(4, 4)[:, ::2].clone().t())


def no_elements(model: Parts) -> None:
    model.fc = nn.Linear(3, 2)
    model.none = nn.Parameter(torch.empty(0, 3))
    model.none_either = nn.Parameter(torch.empty(0, 3))


def nothing_tied(model: Parts) -> None:
    model.fc = nn.Linear(3, 2)


def half(model: Parts) -> None:
    one_tie(model)
    model.half()


KINDS = [
    one_tie,
    the_later_name_first,
    several_ties,
    a_whole_module_twice,
    a_buffer_of_a_parameter,
    a_view_of_a_parameter,
    a_view_in_another_shape,
    strided_and_not_tied,
    no_elements,
    nothing_tied,
    half,
]


# safetensors itself neither writes nor reads these, or does not read what it writes.


def a_batch_norm_twice(model: Parts) -> None:
    model.one = nn.BatchNorm1d(3)
    model.two = model.one


def transposed(model: Parts) -> None:
    model.weight = nn.Parameter(torch.randn(3, 4))
    model.turned = nn.Parameter(model.weight.detach().t())


def three_views_and_the_whole(model: Parts) -> None:
    model.whole = nn.Parameter(torch.randn(6, 2))
    for number, name in enumerate(("query", "key", "value")):
        setattr(model, name, nn.Parameter(model.whole.detach()[2 * number : 2 * number + 2]))


def views_of_a_memory_that_is_no_entry(model: Parts) -> None:
    memory = torch.randn(10)
    model.first, model.second = nn.Parameter(memory[:4]), nn.Parameter(memory[4:])
    model.third = nn.Parameter(memory[:4])
    model.within = nn.Parameter(memory[5:7])


def views_that_overlap(model: Parts) -> None:
    memory = torch.randn(10)
    model.first, model.second = nn.Parameter(memory[:6]), nn.Parameter(memory[4:])


def columns(model: Parts) -> None:
    memory = torch.randn(4, 4)
    model.left, model.right = nn.Parameter(memory[:, :2]), nn.Parameter(memory[:, 2:])
    model.first = nn.Parameter(memory[:, 0])


OURS = [
    a_batch_norm_twice,
    transposed,
    three_views_and_the_whole,
    views_of_a_memory_that_is_no_entry,
    views_that_overlap,
    columns,
]


def pair(kind: Callable[[Parts], None]) -> tuple[Parts, Parts]:
    return Parts(kind, 0), Parts(kind, 1)


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(autouse=True)
def no_warnings() -> Callable[[], None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_loads_what_hookrun_exports(
    kind: Callable[[Parts], None], tmp_path: Path
) -> None:
    source, target = pair(kind)
    export_safetensors(source, tmp_path / "a.safetensors")
    safetensors.torch.load_model(target, tmp_path / "a.safetensors", strict=True)
    assert_equal(source, target)


@pytest.mark.parametrize("kind", [*KINDS, a_batch_norm_twice])
def test_hookrun_loads_what_safetensors_saves(
    kind: Callable[[Parts], None], tmp_path: Path
) -> None:
    source, target = pair(kind)
    safetensors.torch.save_model(source, str(tmp_path / "a.safetensors"))
    load_checkpoint(target, tmp_path / "a.safetensors", strict=True)
    assert_equal(source, target)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("kind", [*KINDS, *OURS])
def test_hookrun_loads_its_own(kind: Callable[[Parts], None], suffix: str, tmp_path: Path) -> None:
    source, target = pair(kind)
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        save_checkpoint(source, path)
    else:
        export_safetensors(source, path)
    load_checkpoint(target, path, strict=True)
    assert_equal(source, target)


@pytest.mark.parametrize("kind", [one_tie, several_ties, a_view_in_another_shape])
def test_names_may_have_a_wrapper_in_front(kind: Callable[[Parts], None], tmp_path: Path) -> None:
    source, target = pair(kind)
    export_safetensors(TrainStep(source, nn.functional.mse_loss), tmp_path / "a.safetensors")
    load_checkpoint(target, tmp_path / "a.safetensors", strict=True)
    assert_equal(source, target)
    export_safetensors(source, tmp_path / "b.safetensors")
    _, target = pair(kind)
    load_checkpoint(
        TrainStep(target, nn.functional.mse_loss), tmp_path / "b.safetensors", strict=True
    )
    assert_equal(source, target)


def untied(model: Parts) -> None:
    model.emb, model.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)


@pytest.mark.parametrize("writer", ["hookrun", "safetensors"])
def test_a_model_that_is_not_tied_takes_both_from_a_tied_file(writer: str, tmp_path: Path) -> None:
    source, target = Parts(one_tie, 0), Parts(untied, 1)
    if writer == "hookrun":
        export_safetensors(source, tmp_path / "a.safetensors")
    else:
        safetensors.torch.save_model(source, str(tmp_path / "a.safetensors"))
    load_checkpoint(target, tmp_path / "a.safetensors", strict=True)
    assert_equal(source, target)
    assert target.emb.weight is not target.head.weight


@pytest.mark.parametrize("strict", [False, True])
def test_a_tied_model_tells_that_a_file_has_two_weights_for_one(
    strict: bool, tmp_path: Path
) -> None:
    source, target = Parts(untied, 0), Parts(one_tie, 1)
    before = target.emb.weight.detach().clone()
    save_checkpoint(source, tmp_path / "a.pth")
    message = r"emb\.weight, head\.weight are one tensor in the model and differ in the file"
    if strict:
        with pytest.raises(RuntimeError, match=message):
            load_checkpoint(target, tmp_path / "a.pth", strict=True)
        assert torch.equal(target.emb.weight, before)
    else:
        with pytest.warns(UserWarning, match=f"{message}: emb.weight is taken"):
            load_checkpoint(target, tmp_path / "a.pth")
        assert torch.equal(target.head.weight, source.emb.weight)


def test_equal_weights_of_an_untied_file_are_no_difference(tmp_path: Path) -> None:
    source, target = Parts(untied, 0), Parts(one_tie, 1)
    with torch.no_grad():
        source.emb.weight[0] = float("nan")
        source.head.weight.copy_(source.emb.weight)
    save_checkpoint(source, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=True)
    assert torch.equal(target.head.weight[1:], source.head.weight[1:])


def test_one_name_is_enough_in_a_state_dict(tmp_path: Path) -> None:
    for missing in ("emb.weight", "head.weight"):
        source, target = pair(one_tie)
        weights = source.state_dict()
        del weights[missing]
        torch.save(weights, tmp_path / "a.pth")
        load_checkpoint(target, tmp_path / "a.pth", strict=True)
        assert_equal(source, target)


def test_a_part_is_not_enough_for_the_whole(tmp_path: Path) -> None:
    source, target = pair(a_view_of_a_parameter)
    torch.save({"query": source.query.detach().clone()}, tmp_path / "a.pth")
    with pytest.raises(RuntimeError, match="1 missing in the file: whole"):
        load_checkpoint(target, tmp_path / "a.pth", strict=True)


def test_the_file_has_each_memory_once(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {"a": torch.ones(3), "b": torch.zeros(2)}
    weights["c"] = weights["a"]
    export_safetensors(weights, tmp_path / "a.safetensors", {"epoch": 1})
    assert safetensors.torch.load_file(tmp_path / "a.safetensors").keys() == {"a", "b"}
    read = read_checkpoint(tmp_path / "a.safetensors")
    assert read["tied_weights"] == {"c": "a"}
    assert read["meta"] == {"epoch": 1}


def test_a_name_that_the_format_uses_itself_hurts_nothing(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.a = nn.Parameter(torch.randn(2))
            self.register_parameter("format", self.a)

    source, target = Named(0), Named(1)
    export_safetensors(source, tmp_path / "a.safetensors")
    load_checkpoint(target, tmp_path / "a.safetensors", strict=True)
    assert_equal(source, target)
