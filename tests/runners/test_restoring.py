"""What resuming restores besides the place in the run, and what it refuses without a trace."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from hookrun import CheckpointHook, ClosureHook, Hook, OptimizerHook
from tests.support import TinyModel, make_loader

from .restoring_support import saved, spoiled


def outcome(runner: Any) -> Any:
    """Weights, momentum buffers, learning rates and counters."""
    state = runner.optimizer.state_dict()
    return (
        {name: value.tolist() for name, value in runner.model.state_dict().items()},
        [state["state"][key]["momentum_buffer"].tolist() for key in state["state"]],
        runner.current_lr(),
        (runner.epoch, runner.iter),
    )


class Memory(Hook):
    """A hook with state."""

    def __init__(self, value: int = 0, fails: bool = False) -> None:
        self.value, self.fails = value, fails

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: Any) -> None:
        if self.fails:
            raise KeyError("this hook cannot")
        self.value = state["value"]


def drop_weight(checkpoint: Any) -> None:
    del checkpoint["state_dict"]["fc.bias"]


def reshape_weight(checkpoint: Any) -> None:
    checkpoint["state_dict"]["fc.weight"] = torch.zeros(3, 3)


def drop_group(checkpoint: Any) -> None:
    checkpoint["optimizer"]["param_groups"][0]["params"].pop()


def other_optimizer(checkpoint: Any) -> None:
    adam = torch.optim.Adam(TinyModel().parameters())
    checkpoint["optimizer"] = adam.state_dict()


def no_optimizer_state(checkpoint: Any) -> None:
    checkpoint["optimizer"] = {"lr": 1}


def newer_format(checkpoint: Any) -> None:
    checkpoint["hookrun"]["format"] = 99


def no_format(checkpoint: Any) -> None:
    checkpoint["hookrun"] = {"hooks": {}}


def no_counters(checkpoint: Any) -> None:
    checkpoint["meta"] = {"epoch": "one"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_weight, "is not a checkpoint of this model"),
        (reshape_weight, r"fc.weight has shape \(3, 3\) in the file and \(1, 2\) in the model"),
        (drop_group, "groups of"),
        (other_optimizer, "of another kind"),
        (no_optimizer_state, "no state of one optimizer"),
        (newer_format, "has format 99.*install a newer one"),
        (no_format, "is damaged"),
        (no_counters, "does not say which epoch and iteration"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    make_runner: Any, change: Any, words: str
) -> None:
    _, file = saved(make_runner)
    other, _ = saved(make_runner, model=TinyModel(seed=7), meta={"mine": 1})
    before = outcome(other), dict(other.meta)
    with pytest.raises(ValueError, match=words) as caught:
        other.resume(spoiled(file, change))
    assert file.name in str(caught.value)
    assert (outcome(other), other.meta) == before
    assert other.resumed is None


def test_a_hook_that_cannot_take_its_state_is_named_and_the_runner_stays_as_it_was(
    make_runner: Any,
) -> None:
    _, file = saved(make_runner, Memory(3))
    other = make_runner(model=TinyModel(seed=7), max_epochs=3)
    other.register_hook(Memory(fails=True))
    weights = [p.tolist() for p in other.model.parameters()]
    with pytest.raises(ValueError, match="while restoring the hook Memory/0"):
        other.resume(file)
    assert (other.epoch, other.iter, other.meta, other.resumed) == (0, 0, None, None)
    assert [p.tolist() for p in other.model.parameters()] == weights
    assert not other.optimizer.state_dict()["state"]
    other.register_hook(Memory())  # nothing of the file waits for it
    assert other.hooks[1].value == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_get_their_state_whether_registered_before_or_after(
    make_runner: Any, when: str
) -> None:
    _, file = saved(make_runner, Memory(1), Memory(2), Memory(3))
    runner = make_runner(max_epochs=3)
    if when == "after":
        runner.resume(file)
    hooks = [Memory(), Memory(), Memory()]
    for hook, priority in zip(hooks, (90, 80, 70), strict=True):  # last registered, first called
        runner.register_hook(hook, priority=priority)
    if when == "before":
        runner.resume(file)
    assert [hook.value for hook in hooks] == [1, 2, 3]


def test_messages_of_hooks_and_what_the_run_was_given_are_kept(make_runner: Any) -> None:
    given = {"seed": 1, "exp_name": "old", "hook_msgs": {"best_score": 0.9}}
    _, file = saved(make_runner, meta=given)
    assert given == {"seed": 1, "exp_name": "old", "hook_msgs": {"best_score": 0.9}}
    runner = make_runner(meta={"config": "new", "hook_msgs": {"mine": 2}})
    runner.resume(file)
    assert runner.meta["seed"] == 1
    assert runner.meta["config"] == "new"
    assert runner.meta["hook_msgs"]["best_score"] == 0.9
    assert runner.meta["hook_msgs"]["mine"] == 2


def test_weights_saved_inside_a_parallel_wrapper_fit_the_bare_model(make_runner: Any) -> None:
    _, file = saved(make_runner)
    wrapped = torch.nn.DataParallel(TinyModel(seed=3))
    wrapped.train_step = wrapped.module.train_step
    runner = make_runner(model=wrapped)
    runner.resume(file)
    assert runner.model_name == "TinyModel"
    expected = torch.load(file)["state_dict"]
    assert all(torch.equal(runner.model.module.state_dict()[n], v) for n, v in expected.items())


def test_only_the_next_run_sees_what_was_resumed(make_runner: Any) -> None:
    _, file = saved(make_runner)
    runner = make_runner(max_epochs=2)
    seen = []
    runner.register_hook(ClosureHook("before_run", lambda r: seen.append(r.resumed is not None)))
    runner.resume(file)
    runner.run([make_loader(2)], [("train", 1)])
    assert seen == [True]
    assert runner.resumed is None


def test_a_file_name_cannot_leave_its_folder(make_runner: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot leave its folder"):
        make_runner().save_checkpoint(tmp_path, filename_tmpl="../epoch_{}.pth")


def test_the_callers_meta_stays_as_it_is(make_runner: Any, tmp_path: Path) -> None:
    meta = {"note": {"a": 1}}
    make_runner(meta={"seed": 1}).save_checkpoint(tmp_path, meta=meta)
    assert meta == {"note": {"a": 1}}
    with pytest.raises(TypeError, match="meta must be a dict"):
        make_runner().save_checkpoint(tmp_path, meta=[1])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("hookrun", {"format": 1, "inner_iter": 0, "hooks": 3}),
        ("hookrun", {"format": 1, "inner_iter": "a"}),
        ("hookrun", {"format": -1, "inner_iter": 0}),
        ("meta", {"epoch": 10**30, "iter": 0}),
        ("meta", {"epoch": -5, "iter": 0}),
        ("meta", {"epoch": 1, "iter": 3, "hook_msgs": 3}),
        ("optimizer", {"state": {}, "param_groups": 3}),
        ("state_dict", {1: 2}),
    ],
)
def test_parts_of_a_wrong_type_name_the_file(make_runner: Any, part: str, value: Any) -> None:
    _, file = saved(make_runner)
    checkpoint = torch.load(file, weights_only=True)
    checkpoint[part] = value
    torch.save(checkpoint, file)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        make_runner(max_epochs=3).resume(file)


def test_a_loader_shorter_than_what_was_seen_is_refused(make_runner: Any) -> None:
    runner = make_runner(max_epochs=1)
    runner.register_hook(CheckpointHook(interval=3, by_epoch=False, save_last=False))
    runner.run([make_loader(4)], [("train", 1)])
    again = make_runner(max_epochs=1)
    again.resume(f"{runner.work_dir}/iter_3.pth")
    with pytest.raises(ValueError, match=r"after 3 batches .* has only 2"):
        again.run([make_loader(2)], [("train", 1)])


def test_state_waits_for_its_hook_through_further_runs(make_runner: Any) -> None:
    _, file = saved(make_runner, Memory(3))
    between = make_runner(max_epochs=2)
    between.resume(file)
    between.save_checkpoint(file.parent, filename_tmpl="between.pth")
    runner = make_runner(max_epochs=3)
    runner.resume(file.with_name("between.pth"))
    runner.register_hook(Memory())
    assert runner.hooks[0].value == 3


def test_hooks_that_took_their_state_give_it_back_where_another_cannot(make_runner: Any) -> None:
    _, file = saved(make_runner, Memory(1), Memory(2))
    runner = make_runner(max_epochs=3)
    hooks = [Memory(5), Memory(6, fails=True)]
    for hook in hooks:
        runner.register_hook(hook)
    with pytest.raises(ValueError, match="while restoring the hook Memory/1"):
        runner.resume(file)
    assert [hook.value for hook in hooks] == [5, 6]


def test_weights_that_the_model_has_not_are_named(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, file = saved(make_runner)

    def add(checkpoint: Any) -> None:
        checkpoint["state_dict"].update({f"head.{i}": torch.zeros(1) for i in range(3)})
        checkpoint["state_dict"]["ema_fc_weight"] = torch.zeros(1, 2)  # waits for an EMAHook

    make_runner(max_epochs=3).resume(spoiled(file, add))
    assert "3 not in the model: head.0, head.1, head.2" in caplog.text
    assert "ema_fc_weight" not in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"loaders": 3},
        {"loaders": [{"epoch": 0}]},
        {"loaders": [{"epoch": 0, "batches": -1}]},
        {"phase": {"index": "a"}},
        {"phase": {"workflow": [1]}},
        {"ranks": {"x": {}}},
        {"ranks": 7},
        {"world_size": "two"},
        {"world_size": 0},
        {"world_size": -5},
        {"samples": "many"},
    ],
)
def test_a_position_that_is_none_names_the_file(make_runner: Any, change: Any) -> None:
    _, file = saved(make_runner)
    spoiled(file, lambda checkpoint: checkpoint["hookrun"].update(change))
    runner = make_runner(max_epochs=3)
    with pytest.raises(ValueError, match=re.escape(str(file))):
        runner.resume(file)
    assert (runner.epoch, runner.iter, runner.resumed) == (0, 0, None)


def test_random_numbers_of_a_process_that_are_missing_are_reported(
    make_runner: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, file = saved(make_runner)
    spoiled(file, lambda checkpoint: checkpoint["hookrun"].update(ranks={}))
    make_runner(max_epochs=3).resume(file)
    assert "no random numbers of process 0: call runner.gather_state()" in caplog.text


@pytest.mark.parametrize("source", ["epoch_1.pth", "auto"])
def test_an_old_pickled_file_is_resumed_with_trust_only(
    make_runner: Any, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    first, file = saved(make_runner, meta={"seed": 3})
    spoiled(file, lambda checkpoint: checkpoint["meta"].update(args=Namespace(lr=0.1)))
    runner = make_runner(max_epochs=2)
    refusal = r"Namespace.*resume\(\).*with trust=True"
    if source == "auto":
        runner.resume("auto")
        assert re.search(f"passing over.*{refusal}", caplog.text)
    else:
        source = str(file)
        with pytest.raises(ValueError, match=refusal):
            runner.resume(source)
    assert runner.epoch == 0
    with pytest.warns(UserWarning, match="runs code"):
        runner.resume(source, trust=True)
    assert outcome(runner) == outcome(first)
    assert "not resumed: meta['args'] is a Namespace" in caplog.text
    runner.register_hook(OptimizerHook())
    runner.register_checkpoint_hook({"interval": 1})
    runner.run([make_loader(2)], [("train", 1)])
    after = torch.load(file.with_name("epoch_2.pth"), weights_only=True)["meta"]
    assert (after["epoch"], after["seed"]) == (2, 3)
    assert "args" not in after
