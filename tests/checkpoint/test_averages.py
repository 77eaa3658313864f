"""Which of a file's two sets of weights is where, and loading either."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hookrun import (
    EMAHook,
    EpochBasedRunner,
    Hook,
    IterBasedRunner,
    OptimizerHook,
    TrainStep,
    load_checkpoint,
    save_checkpoint,
)
from hookrun.checkpoint import find_averages, read_checkpoint, state_dict_of
from hookrun.checkpoint.averages import average_names


class Colliding(nn.Module):
    """Names whose averages would be called alike, and a buffer that is called as an average."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a_b = nn.Parameter(torch.randn(2))
        self.c = nn.Parameter(torch.randn(2))
        self.a = nn.Module()
        self.a.b = nn.Parameter(torch.randn(2))
        self.register_buffer("ema_c", torch.randn(2))


class Tied(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.emb, self.head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
        self.head.weight = self.emb.weight


class WithBuffers(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.fc = nn.BatchNorm1d(3), nn.Linear(3, 2)


class Keep(Hook):
    """Keeps raw weights and averages at the end of each iteration."""

    def after_train_iter(self, runner: Any) -> None:
        ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        inner = runner.model
        self.names = dict(ema.param_ema_buffer)
        net = inner.model
        parameters = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        self.raw = {name: parameters[name].detach().clone() for name in self.names}
        self.averages = {n: getattr(inner, e).clone() for n, e in self.names.items()}


def trained(make_runner: Any, runner_type: type, net: nn.Module, **ema: Any) -> tuple[Any, Keep]:
    """A run of two epochs of two iterations."""

    def step(batch: Any, optimizer: Any = None, **kwargs: Any) -> dict[str, Any]:
        loss = sum((p * p.detach().sign()).sum() for p in model.parameters())
        return {"loss": loss, "log_vars": {}, "num_samples": 1}

    model = TrainStep(net, print)
    model.train_step = step  # type: ignore[method-assign, assignment]
    limit = {"max_epochs": 2} if runner_type is EpochBasedRunner else {"max_iters": 4}
    runner = make_runner(
        runner_type, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), **limit
    )
    runner.register_hook(OptimizerHook(), "ABOVE_NORMAL")
    runner.register_hook(EMAHook(0.2, warm_up=0, **ema), 45)
    runner.register_hook(keep := Keep(), 47)
    runner.register_checkpoint_hook({"interval": 2, "by_epoch": False})
    runner.register_checkpoint_hook({"interval": 1, "filename_tmpl": "end_{}.pth"}) if (
        runner_type is EpochBasedRunner
    ) else None
    runner.run([[0, 1]], [("train", 1)])
    return runner, keep


def values(net: nn.Module, names: Any) -> dict[str, Tensor]:
    parameters = dict(net.named_parameters(remove_duplicate=False))
    return {name: parameters[name].detach() for name in names}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("kind", [Colliding, Tied, WithBuffers])
@pytest.mark.parametrize(
    ("runner_type", "file"),
    [
        (EpochBasedRunner, "end_2.pth"),
        (EpochBasedRunner, "iter_4.pth"),
        (IterBasedRunner, "iter_4.pth"),
    ],
)
@pytest.mark.parametrize("renamed", [False, True])
def test_a_runs_files_know_which_is_where(
    make_runner: Any, kind: Any, runner_type: type, file: str, renamed: bool, tmp_path: Path
) -> None:
    runner, keep = trained(make_runner, runner_type, kind())
    path = Path(runner.work_dir) / file
    if renamed:
        path = path.rename(tmp_path / "best.pth")
    for weights, expected in (("raw", keep.raw), ("ema", keep.averages)):
        net = kind(1)
        checkpoint = load_checkpoint(net, path, strict=True, weights=weights)
        assert_equal(values(net, keep.names), expected)
    found = find_averages(checkpoint, state_dict_of(checkpoint))
    assert found is not None
    assert found.swapped
    net = kind(1)
    load_checkpoint(net, path, strict=True)
    assert_equal(values(net, keep.names), keep.averages)


def test_a_model_saved_by_hand_knows_it_too(make_runner: Any, tmp_path: Path) -> None:
    class Save(Hook):
        def after_train_iter(self, runner: Any) -> None:
            save_checkpoint(runner.model, tmp_path / "during.pth")

    runner, keep = trained(make_runner, EpochBasedRunner, WithBuffers())
    save_checkpoint(runner.model, tmp_path / "after.pth")
    save_checkpoint(copy.deepcopy(runner.model), tmp_path / "copy.pth")
    for file in ("after.pth", "copy.pth"):
        for weights, expected in (("raw", keep.raw), ("ema", keep.averages)):
            net = WithBuffers(1)
            load_checkpoint(net, tmp_path / file, strict=True, weights=weights)
            assert_equal(values(net, keep.names), expected)
    runner._max_epochs = 3
    runner.register_hook(Save(), 99)
    runner.run([[0, 1]], [("train", 1)])
    for weights, expected in (("raw", keep.raw), ("ema", keep.averages)):
        net = WithBuffers(1)
        load_checkpoint(net, tmp_path / "during.pth", strict=True, weights=weights)
        assert_equal(values(net, keep.names), expected)


def test_buffers_are_averaged_or_come_along(make_runner: Any) -> None:
    for buffers in ("copy", "average"):
        runner, _ = trained(make_runner, EpochBasedRunner, WithBuffers(), buffers=buffers)
        net = WithBuffers(1)
        load_checkpoint(net, f"{runner.work_dir}/end_2.pth", strict=True, weights="ema")
        assert_equal(dict(net.norm.named_buffers()), dict(runner.model.model.norm.named_buffers()))


# Files of others, which record nothing


def mmcv_file(net: nn.Module, prefix: str = "", half: bool = False) -> dict[str, Any]:
    """As MMCV writes it: the averages are entries of the model itself."""
    weights = dict(net.state_dict())
    for name, _ in net.named_parameters():
        average = torch.randn_like(weights[name])
        weights[f"ema_{name.replace('.', '_')}"] = average.half() if half else average
    weights = {prefix + name: value for name, value in weights.items()}
    return {"meta": {"epoch": 2, "iter": 8, "mmcv_version": "1.7.2"}, "state_dict": weights}


@pytest.mark.parametrize(
    ("name", "swapped"),
    [
        ("epoch_2.pth", True),
        ("latest.pth", True),
        ("best_acc_epoch_2.pth", True),
        ("model_final.pth", True),
        ("iter_8.pth", False),
        ("best_mIoU_iter_8.pth", False),
        ("my_iter_8.pth.pth", True),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_files_of_mmcv_are_of_the_runner_that_names_them_so(
    name: str, swapped: bool, prefix: str, tmp_path: Path
) -> None:
    source = WithBuffers()
    checkpoint = mmcv_file(source, prefix)
    torch.save(checkpoint, tmp_path / name)
    weights = checkpoint["state_dict"]
    beside = {
        n: weights[f"{prefix}ema_{n.replace('.', '_')}"] for n, _ in source.named_parameters()
    }
    inside = {n: weights[prefix + n] for n, _ in source.named_parameters()}
    for which, expected in (
        ("ema", inside if swapped else beside),
        ("raw", beside if swapped else inside),
        (None, inside),
    ):
        net = WithBuffers(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_checkpoint(net, tmp_path / name, strict=True, weights=which)  # type: ignore[arg-type]
        assert_equal({n: p.detach() for n, p in net.named_parameters()}, expected)


def test_a_link_is_of_the_file_that_it_means(tmp_path: Path) -> None:
    torch.save(checkpoint := mmcv_file(WithBuffers()), tmp_path / "iter_8.pth")
    (tmp_path / "latest.pth").symlink_to("iter_8.pth")
    net = WithBuffers(1)
    load_checkpoint(net, tmp_path / "latest.pth", weights="ema")
    assert torch.equal(net.fc.weight, checkpoint["state_dict"]["ema_fc_weight"])


# The entries of a state dict, and the averages among them by what they average.
NAMED = [
    ("a.b ema_a_b", {"a.b": "ema_a_b"}),
    ("a_b a.b ema_a_b ema_a_b_1", {"a_b": "ema_a_b", "a.b": "ema_a_b_1"}),
    ("a_b a.b a_b_1 ema_a_b ema_a_b_1 ema_a_b_1_1",
     {"a_b": "ema_a_b", "a.b": "ema_a_b_1", "a_b_1": "ema_a_b_1_1"}),
    ("a.b norm.mean ema_a_b", {"a.b": "ema_a_b"}),
    ("module.a.b module.ema_a_b", {"module.a.b": "module.ema_a_b"}),
    ("module.a.b ema_module_a_b", {"module.a.b": "ema_module_a_b"}),
    ("a._orig_mod.b ema_a_b", {"a._orig_mod.b": "ema_a_b"}),
    ("a._orig_mod.b ema_a__orig_mod_b", {"a._orig_mod.b": "ema_a__orig_mod_b"}),
    ("model.a ema_model_a", {"model.a": "ema_model_a"}),
    ("a.b ema_c", {}),
    ("a.w a.ema_w", {}),
    ("ema.a b", {}),
    ("ema_a", {}),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "expected"), NAMED)
def test_averages_are_found_by_their_names(entries: str, expected: dict[str, str]) -> None:
    assert average_names({name: torch.ones(2) for name in entries.split()}) == expected


def test_another_shape_is_no_average() -> None:
    assert average_names({"w": torch.ones(2), "ema_w": torch.ones(3)}) == {}
    assert average_names({"w": torch.ones(2), "ema_w": torch.ones(2, dtype=torch.long)}) == {}


def test_a_file_without_averages_says_so(tmp_path: Path) -> None:
    net = Colliding()  # has a buffer that is called as an average of c would be
    before = copy.deepcopy(net.state_dict())
    path = tmp_path / "a.pth"
    runner_file = {"hookrun": {"format": 1, "hooks": {}}, "meta": {}, "state_dict": before}
    for checkpoint in (runner_file, {"weight": torch.ones(1)}):
        torch.save(checkpoint, path)
        with pytest.raises(ValueError, match=r"a\.pth' has no averages, which weights='ema' asks"):
            load_checkpoint(net, path, weights="ema")
    torch.save(runner_file, path)
    load_checkpoint(net, path, weights="raw", strict=True)
    for wrong in ("EMA", "average", True, 1):
        with pytest.raises(ValueError, match="weights must be 'ema', 'raw' or None, not"):
            load_checkpoint(net, path, weights=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.update(averages=3),
        lambda file: file.update(averages={"names": {"a": 1}, "swapped": True}),
        lambda file: file["averages"].pop("swapped"),
        lambda file: file["averages"].update(swapped="yes"),
        lambda file: file["averages"].pop("names"),
        lambda file: file["state_dict"].pop("ema_fc_bias"),
        lambda file: file["state_dict"].update(ema_fc_bias=3),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(
    make_runner: Any, damage: Callable[[Any], Any], tmp_path: Path
) -> None:
    runner, _ = trained(make_runner, EpochBasedRunner, WithBuffers())
    checkpoint = read_checkpoint(f"{runner.work_dir}/end_2.pth")
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "a.pth")
    net = WithBuffers(1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="the checkpoint is damaged"):
        load_checkpoint(net, tmp_path / "a.pth", weights="ema")
    assert all(map(torch.equal, net.state_dict().values(), before.values()))


def test_tied_weights_of_a_file_that_has_them_twice_follow_the_average(tmp_path: Path) -> None:
    """As MMCV writes them from a GPU: equal, but in two memories."""
    checkpoint = mmcv_file(Tied())
    weights = checkpoint["state_dict"]
    weights["head.weight"] = weights["head.weight"].clone()
    torch.save(checkpoint, tmp_path / "epoch_1.pth")
    net = Tied(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(net, tmp_path / "epoch_1.pth", strict=True, weights="raw")
    assert torch.equal(net.head.weight, weights["ema_emb_weight"])
