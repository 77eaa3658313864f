"""What no checkpoint can hold is found before the first iteration, and the rest comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hookrun import CheckpointHook, ClosureHook, EpochBasedRunner, EvalHook, Hook, IterBasedRunner
from tests.support import TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


class Stateful(Hook):
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.state}

    def load_state_dict(self, state: Any) -> None:
        self.state = state["kept"]


class Extra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"hook": print}


def with_meta(runner: Any) -> None:
    runner.meta = {"a": {"fn": print}}


def with_classes(runner: Any) -> None:
    runner.model.CLASSES = [object()]


def with_state(runner: Any) -> None:
    runner.register_hook(Stateful([lambda: 0]))


def with_option(runner: Any) -> None:
    runner.optimizer.param_groups[0]["layer"] = runner.model.fc


def with_options(runner: Any) -> None:
    runner.optimizer = {"d": runner.optimizer}
    with_option_of = runner.optimizer["d"].param_groups[0]
    with_option_of["layer"] = runner.model.fc


def with_extra(runner: Any) -> None:
    runner.model.extra = Extra(1, 1)


def with_late_meta(runner: Any) -> None:
    def tell(runner: Any) -> None:
        runner.meta = {"config": type("Config", (), {})()}

    runner.register_hook(ClosureHook("before_run", tell), priority="LOWEST")


WRONG: list[tuple[Callable[[Any], None], str]] = [
    (with_meta, r"runner\.meta\['a'\]\['fn'\] is a builtin_function_or_method"),
    (with_classes, r"model\.CLASSES\[0\] is a object"),
    (with_state, r"Stateful/0\.state_dict\(\)\['kept'\]\[0\] is a function"),
    (with_option, r"optimizer\.param_groups\[0\]\['layer'\] is a Linear"),
    (with_options, r"optimizer\['d'\]\.param_groups\[0\]\['layer'\] is a Linear"),
    (with_extra, r"extra\.get_extra_state\(\)\['hook'\] is a builtin_function_or_method"),
    (with_late_meta, r"runner\.meta\['config'\] is a Config"),
]
SAVERS: list[Callable[[], Hook]] = [
    lambda: CheckpointHook(100),
    lambda: CheckpointHook(3, by_epoch=False),
    lambda: EvalHook(make_loader(), interval=9, save_best="acc"),
]


@pytest.mark.parametrize("saver", SAVERS)
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_it_is_found_before_the_first_iteration(
    make_runner: MakeRunner, spoil: Any, message: str, kind: type, saver: Callable[[], Hook]
) -> None:
    runner = make_runner(kind)
    runner.register_hook(saver())
    spoil(runner)
    with pytest.raises(TypeError, match=message + ", which a checkpoint cannot hold"):
        runner.run([make_loader()], TRAIN)
    assert runner.iter == 0


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"a": [print]}, r"CheckpointHook: meta\['a'\]\[0\] is a builtin"),
        ({"a": {(1, print)}}, r"CheckpointHook: list\(|list\(CheckpointHook: meta\['a'\]\)"),
        ({print: 1}, r"a key of CheckpointHook: meta is a builtin"),
        ([1], r"CheckpointHook: meta must be a dict or None, not list"),
    ],
)
def test_the_meta_of_the_hook(make_runner: MakeRunner, meta: Any, message: str) -> None:
    runner = make_runner()
    runner.register_checkpoint_hook({"interval": 100, "meta": meta})
    with pytest.raises(TypeError, match=message):
        runner.run([make_loader()], TRAIN)
    assert runner.iter == 0


def test_what_is_not_saved_need_not_be_held(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with_option(runner)
    runner.register_hook(CheckpointHook(1, save_optimizer=False))
    runner.run([make_loader()], TRAIN)
    assert (Path(runner.work_dir) / "epoch_2.pth").exists()


@pytest.mark.parametrize(("handles", "warned"), [(True, True), (False, False)])
@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_where_only_a_signal_saves_it_is_a_warning(
    make_runner: MakeRunner, caplog: Any, spoil: Any, message: str, handles: bool, warned: bool
) -> None:
    runner = make_runner(handle_signals=handles)
    spoil(runner)
    runner.run([make_loader()], TRAIN)
    found = [
        each.getMessage() for each in caplog.records if "it cannot be saved" in each.getMessage()
    ]
    assert len(found) == warned


def test_meta_that_changes_in_the_run_is_named_when_it_is_saved(make_runner: MakeRunner) -> None:
    def tell(runner: Any) -> None:
        runner.meta = {"a": {"b": [0, print]}}

    runner = make_runner()
    runner.register_hook(ClosureHook("before_train_epoch", tell))
    runner.register_checkpoint_hook({"interval": 1})
    with pytest.raises(TypeError, match=r"meta\['a'\]\['b'\]\[1\] is a builtin_function_or_method"):
        runner.run([make_loader()], TRAIN)
    assert runner.iter == 4


def test_a_state_that_is_not_there_yet_is_no_error(make_runner: MakeRunner) -> None:
    class Later(Hook):
        def after_train_iter(self, runner: Any) -> None:
            self.seen = {runner.iter}

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen}

    runner = make_runner()
    runner.register_hook(Later(), priority="HIGH")
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader()], TRAIN)
    assert (Path(runner.work_dir) / "epoch_2.pth").exists()


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("kind", [EpochBasedRunner, IterBasedRunner])
def test_arrays_sets_and_their_like_are_kept(
    make_runner: MakeRunner, tmp_path: Path, kind: type, background: bool
) -> None:
    palette = np.arange(6, dtype=np.uint8).reshape(2, 3)
    meta = {"palette": palette, "seen": {1, 2}, "pair": (1, frozenset("ab")), "at": Path("a")}
    runner = make_runner(kind, meta={**meta, "score": np.float32(0.1)})
    runner.model.CLASSES = np.array(["cat", "dog"])
    runner.register_hook(Stateful({"counts": np.ones(2), "ids": {np.int64(3)}}))
    by_epoch = kind is EpochBasedRunner
    config = {"interval": 1, "by_epoch": by_epoch, "meta": {"split": {"a"}}}
    runner.register_checkpoint_hook({**config, "background": background})
    runner.run([make_loader()], TRAIN)
    path = tmp_path / "run" / "latest.pth"
    torch.load(path, weights_only=True)  # without hookrun

    again = make_runner(kind, **{"max_epochs" if by_epoch else "max_iters": 4})
    again.register_hook(Stateful(None))
    again.register_checkpoint_hook(config)
    again.resume(path)
    again.run([make_loader()], TRAIN)  # and saved again
    third = make_runner(kind)
    third.register_hook(last := Stateful(None))
    third.resume(path)
    kept = third.meta
    assert kept["palette"].dtype == np.uint8
    assert kept["palette"].tolist() == palette.tolist()
    assert {key: kept[key] for key in meta if key != "palette"} == {
        key: value for key, value in meta.items() if key != "palette"
    }
    assert isinstance(kept["at"], Path)
    assert kept["split"] == {"a"}
    assert isinstance(kept["score"], np.float32)
    assert kept["CLASSES"].tolist() == ["cat", "dog"]
    assert last.state["counts"].tolist() == [1.0, 1.0]
    assert last.state["ids"] == {3}


def test_it_is_of_the_model(make_runner: MakeRunner) -> None:
    class Wrapped(TinyModel):
        CLASSES = ("a", frozenset({1}))

    runner = make_runner(model=Wrapped())
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader()], TRAIN)
    runner.resume(Path(runner.work_dir) / "latest.pth")
    assert runner.meta["CLASSES"] == ("a", frozenset({1}))
