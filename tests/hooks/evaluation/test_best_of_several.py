"""EvalHook: a best checkpoint for each of several scores, and for each of several EvalHooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hookrun import EvalHook, Hook, IterBasedRunner
from hookrun.checkpoint import read_checkpoint
from tests.support import Points, make_loader

from .test_best import best_files

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]
SCORES = [{"acc": 0.1, "loss": 1.0}, {"acc": 0.3, "loss": 2.0}, {"acc": 0.2, "loss": 0.0}]
NAN = float("nan")


def run(make_runner: MakeRunner, scores: list[Any], resume: Any = None, **arguments: Any) -> Any:
    """A run of an epoch for each of these scores; gives the runner."""
    folder = arguments.pop("folder", None)
    runner = make_runner(**({} if folder is None else {"work_dir": str(folder)}))
    runner.register_hook(EvalHook(make_loader(scores=scores), **arguments))
    if resume is not None:
        runner.resume(resume)
    runner._max_epochs = runner.epoch + len(scores)
    runner.run([make_loader(1)], TRAIN)
    return runner


def test_each_score_has_its_best_file_and_the_first_is_the_one_mmcv_knows(
    make_runner: MakeRunner,
) -> None:
    runner = run(make_runner, SCORES, save_best=["acc", "loss"])
    assert best_files(runner) == ["best_acc_epoch_2.pth", "best_loss_epoch_3.pth"]
    folder, messages = Path(runner.work_dir), runner.meta["hook_msgs"]
    assert messages["best_score"] == 0.3
    assert messages["best_ckpt"] == str(folder / "best_acc_epoch_2.pth")
    assert messages["best"] == {
        "acc": {"score": 0.3, "ckpt": str(folder / "best_acc_epoch_2.pth"), "rule": "greater"},
        "loss": {"score": 0.0, "ckpt": str(folder / "best_loss_epoch_3.pth"), "rule": "less"},
    }
    assert read_checkpoint(folder / "best_loss_epoch_3.pth")["meta"]["hook_msgs"] == messages


def test_files_of_one_evaluation_know_all_its_best_scores(make_runner: MakeRunner) -> None:
    runner = run(make_runner, SCORES[:1], save_best=["acc", "loss"])
    for name in best_files(runner):
        best = read_checkpoint(Path(runner.work_dir) / name)["meta"]["hook_msgs"]["best"]
        assert {key: each["score"] for key, each in best.items()} == SCORES[0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, {"acc": 0.3, "loss": 0.0}),
        ("less", {"acc": 0.1, "loss": 0.0}),
        (["less", "greater"], {"acc": 0.1, "loss": 2.0}),
        ([None, "greater"], {"acc": 0.3, "loss": 2.0}),
    ],
)
def test_rules_of_several_scores(
    make_runner: MakeRunner, rule: Any, expected: dict[str, float]
) -> None:
    runner = run(make_runner, SCORES, save_best=["acc", "loss"], rule=rule)
    best = runner.meta["hook_msgs"]["best"]
    assert {key: each["score"] for key, each in best.items()} == expected


def test_a_nan_of_one_score_leaves_the_others_alone(make_runner: MakeRunner) -> None:
    scores = [{"acc": NAN, "loss": 0.5}, {"acc": 0.0, "loss": NAN}]
    runner = run(make_runner, scores, save_best=["acc", "loss"])
    assert best_files(runner) == ["best_acc_epoch_2.pth", "best_loss_epoch_1.pth"]


@pytest.mark.parametrize("second", [["acc", "loss"], ["loss", "acc"], "loss", ["acc"]])
def test_all_best_scores_survive_a_resume_in_any_order(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, second: Any
) -> None:
    first = run(make_runner, SCORES[:2], save_best=["acc", "loss"])
    assert best_files(first) == ["best_acc_epoch_2.pth", "best_loss_epoch_1.pth"]
    caplog.clear()
    worse = [{"acc": 0.2, "loss": 1.5}]
    file = Path(first.work_dir) / "best_acc_epoch_2.pth"
    again = run(make_runner, worse, resume=file, save_best=second)
    assert best_files(again) == best_files(first)
    assert "starts anew" not in caplog.text
    expected = 0.3 if second[0] == "acc" else 1.0
    assert again.meta["hook_msgs"]["best_score"] == expected
    better = run(make_runner, [{"acc": 0.9, "loss": 0.1}], resume=file, save_best=second)
    keys = [second] if isinstance(second, str) else second
    for key in ("acc", "loss"):
        names = [name for name in best_files(better) if f"_{key}_" in name]
        number = 3 if key in keys else {"acc": 2, "loss": 1}[key]
        assert names == [f"best_{key}_epoch_{number}.pth"]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"score": NAN, "rule": "less"}, "is nan, which is not a number"),
        ({"score": "low", "rule": "less"}, "is 'low', which is not a number"),
        ({"score": 0.1, "rule": "greater"}, "was chosen by the other rule"),
        (3.0, "was chosen by the other rule"),
        ({}, "is None, which is not a number"),
    ],
)
def test_what_cannot_be_compared_of_further_scores_starts_anew(
    make_runner: MakeRunner, caplog: pytest.LogCaptureFixture, record: Any, why: str
) -> None:
    runner = make_runner(meta={"hook_msgs": {"best": {"loss": record}}}, max_epochs=1)
    hook = EvalHook(make_loader(scores=SCORES), save_best=["acc", "loss"])
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
    assert f"the best score so far {why}, but save_best is 'loss'" in caplog.text
    assert runner.meta["hook_msgs"]["best"]["loss"]["score"] == 1.0


def test_the_callers_meta_is_not_modified(make_runner: MakeRunner) -> None:
    best = {"acc": {"score": 0.0, "ckpt": "", "rule": "greater"}}
    meta = {"hook_msgs": {"best": best}}
    runner = make_runner(meta=meta, max_epochs=1)
    runner.register_hook(EvalHook(make_loader(scores=SCORES), save_best=["acc", "loss"]))
    runner.run([make_loader(1)], TRAIN)
    assert meta == {"hook_msgs": {"best": {"acc": {"score": 0.0, "ckpt": "", "rule": "greater"}}}}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"save_best": []}, ValueError, "names no score"),
        ({"save_best": ""}, ValueError, "names no score"),
        ({"save_best": ["acc", "acc"]}, ValueError, "one of them twice"),
        ({"save_best": ["acc", "auto"]}, ValueError, "'auto' takes the first score of all"),
        ({"save_best": ["acc", 1]}, TypeError, "name of a score or a list of names"),
        ({"save_best": {"acc"}}, TypeError, "name of a score or a list of names"),
        ({"save_best": ["acc", "loss"], "rule": ["less"]}, ValueError, "1 rules for 2 scores"),
        ({"save_best": ["acc", "loss"], "rule": ["less", "up"]}, KeyError, "not 'up'"),
        ({"save_best": ["acc", "score"]}, ValueError, "smaller 'score' better"),
        ({"name": ""}, TypeError, "name is a text"),
        ({"name": 3}, TypeError, "name is a text"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EvalHook(make_loader(), **arguments)


def test_a_further_key_that_is_lacking_lists_those_there_are(make_runner: MakeRunner) -> None:
    with pytest.raises(KeyError, match=r"save_best='mAP' is not among the scores.*acc, loss"):
        run(make_runner, SCORES, save_best=["acc", "mAP"])


class Keep(Hook):
    """Keeps the output of each evaluation."""

    def __init__(self) -> None:
        self.outputs: list[set[str]] = []

    def after_train_epoch(self, runner: Any) -> None:
        self.outputs.append(set(runner.log_buffer.output) - {"loss", "eval_iter_num"})


def named(name: str) -> Any:
    loader = make_loader(scores=SCORES)
    loader.dataset.name = name  # type: ignore[attr-defined]
    return loader


def test_several_hooks_are_kept_apart_by_name_or_dataset(make_runner: MakeRunner) -> None:
    runner, keep = make_runner(max_epochs=3), Keep()
    for loader, name in [
        (make_loader(scores=SCORES), None),
        (make_loader(scores=SCORES[::-1]), "test"),
        (make_loader(scores=SCORES), None),
        (named("coco"), None),
        (make_loader(scores=SCORES), None),
    ]:
        runner.register_hook(EvalHook(loader, save_best="acc", name=name))
    runner.register_hook(keep)
    runner.run([make_loader(1)], TRAIN)
    labels = ["acc", "test/acc", "Points/acc", "coco/acc", "Points_2/acc"]
    messages = runner.meta["hook_msgs"]
    assert list(messages["best"]) == labels
    assert messages["best_key"] == "acc"
    assert best_files(runner) == sorted(
        f"best_{label.replace('/', '_')}_epoch_2.pth" for label in labels
    )
    losses = {label.replace("acc", "loss") for label in labels[1:]}
    assert keep.outputs[0] == {*labels, *losses}  # and "loss", which training reports too


def test_hooks_of_one_dataset_may_share_it_by_scores_of_their_own(make_runner: MakeRunner) -> None:
    runner, loader = make_runner(max_epochs=1), make_loader(scores=SCORES * 2)
    runner.register_hook(EvalHook(loader, save_best="acc"))
    runner.register_hook(EvalHook(loader, save_best="loss"))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_acc_epoch_1.pth", "best_loss_epoch_1.pth"]
    assert runner.meta["hook_msgs"]["best_key"] == "acc"


@pytest.mark.parametrize("keys", [("acc", "acc"), ("auto", "loss"), (["loss", "acc"], "acc")])
@pytest.mark.parametrize("name", [None, "test"])
def test_hooks_that_would_delete_each_others_files_are_refused(
    make_runner: MakeRunner, keys: Any, name: str | None
) -> None:
    runner, loader = make_runner(), make_loader()
    for key in keys:
        runner.register_hook(EvalHook(loader, save_best=key, name=name))
    with pytest.raises(ValueError, match=r"delete each other's files: give each of them a name"):
        runner.run([make_loader(1)], TRAIN)


@pytest.mark.parametrize(
    "settings",
    [
        [{"save_best": "acc", "name": "a"}, {"save_best": "a_acc"}],
        [{"save_best": "b/acc", "name": "a"}, {"save_best": "acc", "name": "a/b"}],
        [{"save_best": ["a/acc", "a_acc"]}],
    ],
)
def test_names_that_give_the_same_file_are_refused(
    make_runner: MakeRunner, settings: list[dict[str, Any]]
) -> None:
    runner = make_runner()
    for each in settings:
        runner.register_hook(EvalHook(make_loader(), **each))
    with pytest.raises(ValueError, match=r"would be the same file, best_a_.*acc_epoch_N\.pth"):
        runner.run([make_loader(1)], TRAIN)


def test_names_that_give_the_same_file_in_other_folders_are_not(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(max_epochs=1)
    scores: list[Any] = [{"a_acc": 0.5}]
    runner.register_hook(EvalHook(make_loader(scores=[{"acc": 1}]), save_best="acc", name="a"))
    folder = str(tmp_path / "other")
    runner.register_hook(EvalHook(make_loader(scores=scores), save_best="a_acc", out_dir=folder))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_a_acc_epoch_1.pth"]
    assert [path.name for path in (tmp_path / "other").rglob("*.pth")] == ["best_a_acc_epoch_1.pth"]


def test_names_of_scores_need_not_be_texts(make_runner: MakeRunner) -> None:
    """Such as the numbers of classes."""
    runner = make_runner(max_epochs=2)
    scores: list[Any] = [{1: 0.5, 2: 0.25}, {1: 0.25, 2: 1}]
    runner.register_hook(EvalHook(make_loader(scores=scores), save_best="auto", rule="less"))
    runner.run([make_loader(1)], TRAIN)
    assert best_files(runner) == ["best_1_epoch_2.pth"]


def test_the_best_of_named_hooks_survives_a_resume(make_runner: MakeRunner) -> None:
    def make(scores: list[Any], epochs: int) -> Any:
        runner = make_runner(IterBasedRunner, max_iters=epochs)
        for name in ("one", "two"):
            hook = EvalHook(make_loader(scores=scores), by_epoch=False, name=name, save_best="acc")
            runner.register_hook(hook)
        return runner

    first = make(SCORES[:2], 2)
    first.run([make_loader(1)], TRAIN)
    assert best_files(first) == ["best_one_acc_iter_2.pth", "best_two_acc_iter_2.pth"]
    second = make([{"acc": 0.2}, {"acc": 0.9}], 4)
    second.resume(Path(first.work_dir) / "best_two_acc_iter_2.pth")
    second.run([make_loader(1)], TRAIN)
    assert best_files(second) == ["best_one_acc_iter_4.pth", "best_two_acc_iter_4.pth"]


def test_scores_may_be_any_mapping_and_are_kept_for_others(make_runner: MakeRunner) -> None:
    from types import MappingProxyType

    class Proxies(Points):
        def evaluate(self, results: Any, logger: Any = None, **keywords: Any) -> Any:
            return MappingProxyType({"acc": 0.0})

    runner, loader = make_runner(max_epochs=1), make_loader()
    loader.dataset.__class__ = Proxies
    hook = EvalHook(loader, save_best=("acc",), name="val")
    runner.register_hook(hook)
    runner.run([make_loader(1)], TRAIN)
    assert hook.scores == {"val/acc": 0.0}
    assert best_files(runner) == ["best_val_acc_epoch_1.pth"]


def test_hooks_are_told_of_each_evaluation_and_find_its_scores(make_runner: MakeRunner) -> None:
    class Follow(Hook):
        def __init__(self) -> None:
            self.seen: list[Any] = []
            self.batches = 0

        def evaluation_begins(self, runner: Any) -> None:
            self.seen.append(runner.epoch)

        def watch_evaluation(self, loader: Any) -> Any:
            for batch in loader:
                self.batches += 1
                yield batch

        def evaluation_ends(self, runner: Any) -> None:
            output = runner.log_buffer.output
            self.seen.append({key: output[key] for key in output if "acc" in key})

    runner, follow = make_runner(max_epochs=3), Follow()
    runner.register_hook(follow, "HIGHEST")
    runner.register_hook(EvalHook(make_loader(5, scores=SCORES), interval=2, name="val"))
    runner.register_hook(EvalHook(make_loader(3, scores=SCORES), start=3))
    runner.run([make_loader(1)], TRAIN)
    assert follow.seen == [1, {"val/acc": 0.1}, 2, {"val/acc": 0.1, "acc": 0.1}]
    assert follow.batches == 8


def test_empty_scores_are_warned_about_and_training_goes_on(make_runner: MakeRunner) -> None:
    with pytest.warns(UserWarning, match=r"returned no scores"):
        runner = run(make_runner, [{}, SCORES[0]], save_best=["acc", "loss"])
    assert runner.epoch == 2
    assert best_files(runner) == ["best_acc_epoch_2.pth", "best_loss_epoch_2.pth"]
