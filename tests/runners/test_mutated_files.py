"""Checkpoints in which one thing is wrong: refused as a whole, or good enough to train on."""

from __future__ import annotations

import random
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import EMAHook, load_checkpoint
from hookrun.checkpoint import read_checkpoint
from hookrun.cli import verify

from .mutating import KINDS, mutated, others, replaced, silent, state_of

BLOCK = 25  # files of a test
TREES: dict[str, Any] = {}

# What only the loaders can tell, which a run is given after it has been resumed.
OF_LOADERS = (
    "resume with the loader of that run",
    "cannot go on within the epoch",
)


def verify_file(path: Path) -> None:
    verify.check_file(path, read_checkpoint(path, "cpu"))


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A checkpoint of each kind of run."""
    for name, kind in KINDS.items():
        TREES[name] = kind.checkpoint(tmp_path_factory.mktemp("run"))
    yield TREES
    TREES.clear()


def check(seed: int, trees: dict[str, Any], folder: Path) -> bool:
    """Resume from a file of this seed; whether it was refused."""
    names = list(KINDS)
    name = names[seed % len(names)]
    what, tree = mutated(trees[name], random.Random(seed))
    about = f"seed {seed}, {name}: {what}"
    file = folder / f"{seed}.pth"
    torch.save(tree, file)
    runner = KINDS[name].runner(folder / str(seed))
    before = state_of(runner)
    try:
        verify_file(file)
        is_good = True
    except ValueError:
        is_good = False
    try:
        runner.resume(file)
    except Exception as error:
        named = isinstance(error, ValueError) and file.name in str(error)
        if not named or state_of(runner) != before:
            raise AssertionError(about) from error
        return True
    assert is_good, f"{about}: verify refuses what can be resumed"
    try:
        KINDS[name].run(runner)
    except Exception as error:
        if not any(words in str(error) for words in OF_LOADERS):
            raise AssertionError(about) from error
    return False


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "block",
    [n if n < 6 else pytest.param(n, marks=pytest.mark.long) for n in range(1000 // BLOCK)],
)
def test_a_file_is_refused_or_trains(trees: dict[str, Any], tmp_path: Path, block: int) -> None:
    seeds = range(BLOCK * block, BLOCK * (block + 1))
    with silent():
        refused = sum(check(seed, trees, tmp_path) for seed in seeds)
    assert BLOCK // 4 < refused < BLOCK


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_changed_is_resumed_and_verified(
    trees: dict[str, Any], tmp_path: Path, name: str
) -> None:
    file = tmp_path / "whole.pth"
    torch.save(trees[name], file)
    verify_file(file)
    runner = KINDS[name].runner(tmp_path / "run")
    runner.resume(file)
    assert runner.iter == KINDS[name].save
    KINDS[name].run(runner)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_weights_are_loaded_or_left(
    trees: dict[str, Any], tmp_path: Path, name: str, strict: bool
) -> None:
    """``load_checkpoint`` changes no weight when it raises."""
    file, raised = tmp_path / "weights.pth", 0
    weights = {**trees[name], "state_dict": trees[name]["state_dict"]}
    for seed in range(15):
        what, tree = mutated({"state_dict": weights["state_dict"]}, random.Random(seed))
        if seed % 5 == 0:
            wrong = others(None)[seed]
            tree["state_dict"] = OrderedDict(weights["state_dict"])
            tree["state_dict"]._metadata = {"fc": {"version": wrong}}
            what = f"version {wrong!r}"
        torch.save(tree, file)
        model = KINDS[name].model()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with silent():
            try:
                load_checkpoint(model, file, strict=strict)
            except (ValueError, RuntimeError) as error:
                raised += 1
                same = all(
                    torch.equal(value, before[key]) for key, value in model.state_dict().items()
                )
                if not same or (isinstance(error, RuntimeError) and not strict):
                    raise AssertionError(f"{seed}: {what}") from error
            except Exception as error:
                raise AssertionError(f"{seed}: {what}") from error
    assert raised


WRONG: list[tuple[str, tuple[Any, ...], Any, str]] = [
    # the kind of run, where in its file, what is there, what is said of it
    ("mid-epoch", ("hookrun", "ranks", 0, "rng", "torch"), "x", "hookrun.ranks[0].rng.torch"),
    ("mid-epoch", ("hookrun", "ranks", 0, "rng", "numpy"), 3, "hookrun.ranks[0].rng.numpy"),
    ("mid-epoch", ("hookrun", "ranks", 0, "rng", "python"), (), "ranks[0].rng.python is a"),
    (
        "mid-epoch",
        ("hookrun", "ranks", 0, "loaders", 0, "begin", "sources", "generator"),
        torch.zeros(3, dtype=torch.uint8),
        "hookrun.ranks[0].loaders[0].begin.sources.generator is a tensor of shape (3,)",
    ),
    ("mid-epoch", ("hookrun", "inner_iter"), True, "hookrun.inner_iter is True, not a count"),
    ("mid-epoch", ("hookrun", "samples"), -1, "hookrun.samples is -1, not a count"),
    ("mid-epoch", ("hookrun", "phase", "index"), 1.5, "hookrun.phase.index is 1.5"),
    ("mid-epoch", ("hookrun", "phase", "workflow", 0), ["a"], "hookrun.phase.workflow[0]"),
    ("mid-epoch", ("hookrun", "counting", "step"), None, "hookrun.counting.step is None"),
    ("mid-epoch", ("hookrun", "hooks"), {1: {}}, "a key of hookrun.hooks is 1, not a string"),
    ("mid-epoch", ("hookrun", "group_options", "given"), 3, "group_options.given is 3"),
    ("mid-epoch", ("optimizer", "param_groups", 1, "lr"), "a", "param_groups[1].lr is 'a'"),
    ("mid-epoch", ("optimizer", "param_groups", 0, "lr"), float("nan"), "[0].lr is nan"),
    ("mid-epoch", ("optimizer", "param_groups", 0, "nesterov"), 1, "[0].nesterov is 1"),
    ("mid-epoch", ("optimizer", "param_groups", 0), {"params": [0], 3: 4}, "is 3, not a str"),
    ("mid-epoch", ("optimizer", "param_groups", 0, "params"), [1], "a parameter twice"),
    (
        "at the end of an epoch",
        ("optimizer", "state", 0, "step"),
        torch.ones(2),
        "optimizer.state[0].step is a tensor of shape (2,)",
    ),
    ("at the end of an epoch", ("averages", "swapped"), 1, "averages.swapped is 1"),
    ("at the end of an epoch", ("averages", "names", "fc.bias"), "a", "state_dict.a is None"),
    ("at the end of an epoch", ("meta", "hook_msgs"), 3, "meta.hook_msgs is 3, not a dict"),
    (
        "at the end of an epoch",
        ("hookrun", "hooks", "EvalHook/0", "evaluated"),
        True,
        "hookrun.hooks['EvalHook/0'].evaluated is True",
    ),
    (
        "by iteration",
        ("hookrun", "loaders", 0, "sampler", "seed"),
        "x",
        "hookrun.loaders[0].sampler.seed is 'x'",
    ),
    ("by iteration", ("hookrun", "world_size"), 0, "hookrun.world_size is 0"),
    (
        "masters",
        ("hookrun", "hooks", "Fp16OptimizerHook/0", "masters", 1),
        [1],
        "hookrun.hooks['Fp16OptimizerHook/0'].masters[1] is a list",
    ),
    (
        "masters",
        ("hookrun", "hooks", "Fp16OptimizerHook/0", "loss_scaler", "growth_interval"),
        0,
        "loss_scaler.growth_interval is 0, not a count above 0",
    ),
    ("masters", ("meta", "fp16", "loss_scaler", "scale"), -1.0, "meta.fp16.loss_scaler.scale"),
    (
        "accumulation",
        ("hookrun", "hooks", "GradientCumulativeOptimizerHook/0", "window", "done"),
        3,
        "window.done is 3, not below its length, 3",
    ),
    ("accumulation", ("optimizer", "b", "param_groups"), [], "optimizer.b.param_groups is empty"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_what_is_wrong_is_named_with_its_path_by_resume_and_verify_alike(
    trees: dict[str, Any], tmp_path: Path, case: int
) -> None:
    name, path, value, words = WRONG[case]
    file = tmp_path / "wrong.pth"
    torch.save(replaced(trees[name], path, lambda _: value), file)
    runner = KINDS[name].runner(tmp_path / "run")
    before = state_of(runner)
    messages = []
    for attempt in (runner.resume, verify_file):
        with pytest.raises(ValueError, match=re.escape(words)) as caught:
            attempt(file)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert state_of(runner) == before


def test_what_does_not_fit_the_hooks_of_the_run_is_refused_before_anything_changes(
    trees: dict[str, Any], tmp_path: Path
) -> None:
    masters = ("hookrun", "hooks", "Fp16OptimizerHook/0", "masters", 1)
    gradients = (*("hookrun", "hooks", "GradientCumulativeOptimizerHook/0"), "window", "gradients")
    for number, (name, path, words) in enumerate(
        [
            ("masters", masters, "masters[1] is a tensor of shape (3, 3)"),
            ("accumulation", (*gradients, "fc.bias"), "fc.bias'] is a tensor of shape (3, 3)"),
        ]
    ):
        file = tmp_path / f"{number}.pth"
        torch.save(replaced(trees[name], path, lambda _: torch.ones(3, 3)), file)
        verify_file(file)  # which knows no model
        runner = KINDS[name].runner(tmp_path / name)
        before = state_of(runner)
        with pytest.raises(ValueError, match=re.escape(words)):
            runner.resume(file)
        assert state_of(runner) == before


class Own(EMAHook):
    """A subclass with a state of its own."""

    def state_dict(self) -> dict[str, Any]:
        return {"swapped": "in its own way"}

    def load_state_dict(self, state: Any) -> None:
        self.received = state


def test_a_subclass_may_have_a_state_of_its_own(make_runner: Any, tmp_path: Path) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(Own(), 49)
    runner.save_checkpoint(tmp_path, filename_tmpl="own.pth")
    other = make_runner(max_epochs=1)
    hook = Own()
    other.register_hook(hook, 49)
    other.resume(tmp_path / "own.pth")
    assert hook.received == {"swapped": "in its own way"}
    verify_file(tmp_path / "own.pth")


def test_what_a_user_keeps_in_meta_is_his_own(make_runner: Any, tmp_path: Path) -> None:
    meta = {1: 2, "fp16": True, "palette": {0: (1, 2)}, "exp_name": None, ("a", 1): {"x"}}
    runner = make_runner(max_epochs=1, meta=meta)
    runner.save_checkpoint(tmp_path, filename_tmpl="own.pth")
    other = make_runner(max_epochs=1)
    other.resume(tmp_path / "own.pth")
    assert meta.items() <= other.meta.items()
    verify_file(tmp_path / "own.pth")
