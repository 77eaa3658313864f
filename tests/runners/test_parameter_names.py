"""A resumed run whose optimizer has the same parameters in another order, or in other groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hookrun import Fp16OptimizerHook, IterBasedRunner, OptimizerHook, TrainStep
from tests.support import TinyModel, make_loader

from .restoring_support import spoiled

MakeRunner = Callable[..., Any]
Groups = Sequence[Sequence[int]]


class Layers(TinyModel):
    """Three layers of one shape."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
        self.to(dtype)

    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        outputs = self.fc(data_batch["x"].to(self.fc[0].weight.dtype)).float()
        return {"loss": (outputs - data_batch["y"]).square().mean()}


def with_rates(groups: Groups) -> list[tuple[Sequence[int], float]]:
    """Each group has a rate that follows from what is in it."""
    return [(group, 0.01 * (1 + min(group))) for group in groups]


def optimizer_of(kind: str, model: nn.Module, groups: Groups) -> torch.optim.Optimizer:
    named = list(model.named_parameters())
    dicts = [
        {"params": [named[i] if kind == "named" else named[i][1] for i in group], "lr": lr}
        for group, lr in with_rates(groups)
    ]
    if kind == "adamw":
        return torch.optim.AdamW(dicts, lr=0.1)
    return torch.optim.SGD(dicts, lr=0.1, momentum=0.9)


def train(
    make_runner: MakeRunner,
    kind: str,
    groups: Groups,
    iters: int,
    folder: Path,
    resume: dict[str, Any] | None = None,
) -> Any:
    model = Layers(torch.float16 if kind == "masters" else torch.float32)
    optimizer = optimizer_of(kind, model, groups)
    runner = make_runner(
        IterBasedRunner, model=model, optimizer=optimizer, max_iters=iters, work_dir=str(folder)
    )
    masters = kind == "masters"
    runner.register_hook(
        Fp16OptimizerHook(loss_scale=8.0) if masters else OptimizerHook(), "ABOVE_NORMAL"
    )
    if resume is not None:
        runner.resume(folder / "iter_3.pth", **resume)
    else:
        runner.register_checkpoint_hook({"interval": 3, "by_epoch": False})
    runner.run([make_loader(6)], [("train", 1)])
    return runner


def state_of(runner: Any) -> dict[str, Tensor]:
    """The weights, and for each the optimizer's state and what it steps."""
    optimizer, found = runner.optimizer, dict(runner.model.state_dict())
    names = {id(p): name for name, p in runner.model.named_parameters()}
    for group in optimizer.param_groups:
        for entry in group["params"]:
            name = names[id(getattr(entry, "_hookrun_stands_for", entry))]
            found[f"{name} stepped"] = entry.detach()
            found[f"{name} rate"] = torch.tensor(group["lr"])
            for key, value in optimizer.state[entry].items():
                found[f"{name} {key}"] = value
    return found


@st.composite
def partitions(draw: st.DrawFn) -> list[list[int]]:
    order = draw(st.permutations(range(6)))
    cuts = sorted(draw(st.sets(st.integers(1, 5), max_size=3)))
    return [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]


@pytest.mark.parametrize("kind", ["sgd", "named", "adamw", "masters"])
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(groups=partitions(), data=st.data())
def test_groups_in_another_order_go_on_as_if_they_were_in_the_old_one(
    make_runner: MakeRunner, tmp_path: Path, kind: str, groups: list[list[int]], data: st.DataObject
) -> None:
    straight = state_of(train(make_runner, kind, groups, 6, tmp_path))
    order = data.draw(st.permutations(groups))
    others = [data.draw(st.permutations(group)) for group in order]
    which = data.draw(st.sampled_from(["file", "given"]))
    resumed = state_of(train(make_runner, kind, others, 6, tmp_path, {"param_groups": which}))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


@pytest.mark.parametrize("kind", ["sgd", "named", "adamw", "masters"])
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(groups=partitions(), others=partitions())
def test_other_groups_take_the_state_with_the_options_given(
    make_runner: MakeRunner, tmp_path: Path, kind: str, groups: Groups, others: Groups
) -> None:
    if sorted(map(sorted, groups)) == sorted(map(sorted, others)):
        return
    train(make_runner, kind, groups, 3, tmp_path)
    with pytest.raises(ValueError, match=r"other groups in the file .*: param_groups='given'"):
        train(make_runner, kind, others, 6, tmp_path, {})
    before = state_of(train(make_runner, kind, groups, 3, tmp_path))
    resumed = train(make_runner, kind, others, 3, tmp_path, {"param_groups": "given"})
    assert [group["lr"] for group in resumed.optimizer.param_groups] == [
        lr for _, lr in with_rates(others)
    ]
    found = state_of(resumed)
    for name in (name for name in before if not name.endswith("rate")):
        assert torch.equal(before[name], found[name]), name


@pytest.mark.parametrize("which", ["file", "given"])
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1, 2, 3, 4]], r"has 1 parameters that the run does not have, such as 'fc\.2\.bias'"),
        ([[0], [1, 2]], r"has 3 parameters that the run does not have"),
        (
            [[0, 1], [2, 3, 5]],
            r"has 1 parameters that the run does not have, such as 'fc\.2\.weight'",
        ),
    ],
)
def test_other_parameters_are_refused(
    make_runner: MakeRunner, tmp_path: Path, groups: Groups, message: str, which: str
) -> None:
    train(make_runner, "sgd", [range(6)], 3, tmp_path)
    with pytest.raises(ValueError, match=rf"{message}.*resume_optimizer=False"):
        train(make_runner, "sgd", groups, 6, tmp_path, {"param_groups": which})


@pytest.mark.parametrize(
    ("saved", "now"), [([[0, 1]], [[2, 3]]), ([[0], [1, 3]], [[2], [3, 1]]), ([[0]], [[4]])]
)
def test_as_many_of_the_same_shapes_are_not_the_same(
    make_runner: MakeRunner, tmp_path: Path, saved: Groups, now: Groups
) -> None:
    train(make_runner, "adamw", saved, 3, tmp_path)
    with pytest.raises(ValueError, match=r"and in the run .* that the file does not have, such as"):
        train(make_runner, "adamw", now, 6, tmp_path, {})


def mean_square(outputs: Tensor, _: Tensor) -> Tensor:
    return outputs.square().mean()


class Bare(nn.Sequential):
    def train_step(self, data_batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"loss": mean_square(self(data_batch[0]), data_batch[1])}


@pytest.mark.parametrize("turned", [True, False])
def test_names_are_those_of_the_model_whatever_is_around_it(
    make_runner: MakeRunner, turned: bool
) -> None:
    nets = [Bare(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2)]
    models = [nets[0], TrainStep(nets[1], mean_square)]
    parameters = [list(net.parameters()) for net in nets]
    kept, runners = [*parameters], []
    parameters[1] = [*parameters[1][2:], *parameters[1][:2]]
    for model, its_parameters in sorted(
        zip(models, parameters, strict=True), key=lambda pair: pair[0] is nets[0], reverse=turned
    ):
        optimizer = torch.optim.SGD(its_parameters, lr=0.1, momentum=0.9)
        runners.append(make_runner(model=model, optimizer=optimizer))
        runners[-1].register_optimizer_hook({})
        runners[-1].register_checkpoint_hook({"interval": 1})
        if len(runners) == 1:
            runners[0].run([[(torch.ones(2, 2), torch.ones(2, 2))] * 2], [("train", 1)])
    runners[1].resume(Path(runners[0].work_dir) / "epoch_2.pth")
    states = [*runners[0].optimizer.state.items(), *runners[1].optimizer.state.items()]
    momentum = {id(p): state["momentum_buffer"] for p, state in states}
    for one, other in zip(*kept, strict=True):
        assert torch.equal(momentum[id(one)], momentum[id(other)])


@pytest.mark.parametrize(
    "names",
    [
        *(None, {}, {"": []}, {"other": [["fc.0.weight"]]}, {"": [[None] * 6]}, {"": [["a"]]}),
        {"": [["fc.0.weight"] * 6]},
    ],
)
def test_files_that_do_not_say_are_taken_in_their_order(
    make_runner: MakeRunner, tmp_path: Path, names: Any
) -> None:
    before = state_of(train(make_runner, "sgd", [range(6)], 3, tmp_path))
    spoiled(tmp_path / "iter_3.pth", lambda saved: saved["hookrun"].update(parameters=names))
    after = state_of(train(make_runner, "sgd", [range(6)], 3, tmp_path, {}))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("names", [7, "names", {"": 3}, {"": [3]}, {"": [["fc.0.weight"]]}])
def test_names_that_make_no_sense_are_refused(
    make_runner: MakeRunner, tmp_path: Path, names: Any
) -> None:
    train(make_runner, "sgd", [range(6)], 3, tmp_path)
    spoiled(tmp_path / "iter_3.pth", lambda saved: saved["hookrun"].update(parameters=names))
    with pytest.raises(ValueError, match=r"hookrun\.parameters|its content is invalid"):
        train(make_runner, "sgd", [range(6)], 3, tmp_path, {})
