"""EvalHook: the best so far of a file, where another score decides, or its folder has moved."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hookrun import EpochBasedRunner, EvalHook, FileClient, IterBasedRunner
from hookrun.hooks.evaluation.best import file_to_delete
from tests.support import Points, TinyModel, make_loader

MakeRunner = Callable[..., Any]
TRAIN = [("train", 1)]


def run(
    make_runner: MakeRunner,
    folder: Path,
    scores: list[dict[str, float]],
    resume: Any = None,
    by_epoch: bool = True,
    done: int = 0,
    **arguments: Any,
) -> Any:
    """A run that evaluates to these scores, one behind each epoch or iteration."""
    until = done + len(scores)
    limit = {"max_epochs": until} if by_epoch else {"max_iters": until}
    kind = EpochBasedRunner if by_epoch else IterBasedRunner
    runner = make_runner(kind, work_dir=str(folder), optimizer=None, **limit)
    hook = EvalHook(make_loader(scores=scores), by_epoch=by_epoch, **arguments)
    runner.register_hook(hook)
    runner.register_checkpoint_hook({"interval": 1, "by_epoch": by_epoch, "create_symlink": False})
    if resume is not None:
        runner.resume(resume)
    runner.run([make_loader(1)], TRAIN)
    return runner


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("best_"))


def without_key(checkpoint: Any) -> None:
    for name in ("best_key", "best_rule", "best"):
        del checkpoint["meta"]["hook_msgs"][name]


def without_name(checkpoint: Any) -> None:
    without_key(checkpoint)
    del checkpoint["meta"]["hook_msgs"]["best_ckpt"]


def with_score(value: Any) -> Callable[[Any], None]:
    return lambda checkpoint: checkpoint["meta"]["hook_msgs"].update(best_score=value)


ACC, LOSS, AUTO = {"save_best": "acc"}, {"save_best": "loss"}, {"save_best": "auto"}
LOWER = {"save_best": "acc", "rule": "less"}
BEST = [  # the first run's, the second's, a change to the file in between, what the warning says
    (ACC, ACC, None, None),
    (ACC, AUTO, None, None),
    (AUTO, ACC, None, None),
    (AUTO, AUTO, None, None),
    (LOWER, LOWER, None, None),
    (ACC, ACC, without_key, None),  # an old file: the name of the best file tells the score
    (LOWER, LOWER, without_key, None),
    (ACC, LOSS, None, "is of 'acc', but save_best is 'loss'"),
    (LOSS, ACC, None, "is of 'loss', but save_best is 'acc'"),
    (LOSS, AUTO, None, "is of 'loss', but save_best is 'acc'"),
    (ACC, LOWER, None, "was chosen by the other rule"),
    (LOWER, ACC, None, "was chosen by the other rule"),
    (ACC, LOSS, without_key, "is of 'acc', but save_best is 'loss'"),
    (LOSS, AUTO, without_key, "is of 'loss', but save_best is 'acc'"),
    (ACC, ACC, without_name, "does not say of which score it is"),
    (ACC, ACC, with_score(float("nan")), "is nan, which is not a number"),
    (ACC, ACC, with_score("high"), "is 'high', which is not a number"),
]


@pytest.mark.parametrize(("first", "second", "change", "warns"), BEST)
def test_another_score_than_the_files_starts_anew_and_says_so(
    make_runner: MakeRunner,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    first: Any,
    second: Any,
    change: Any,
    warns: str | None,
) -> None:
    by_epoch = BEST.index((first, second, change, warns)) % 2 == 0
    folder = tmp_path / "run"
    # Never better for the rule of the first run: only a start anew makes it the best.
    scores = [{"acc": 0.5, "loss": 0.5}, {"acc": 0.5, "loss": 0.5}]
    run(make_runner, folder, scores, by_epoch=by_epoch, **first)
    kind = "epoch" if by_epoch else "iter"
    old = files(folder)
    assert len(old) == 1
    file = folder / f"{kind}_2.pth"
    if change is not None:
        checkpoint = torch.load(file)
        change(checkpoint)
        torch.save(checkpoint, file)
    caplog.clear()
    again = run(make_runner, folder, scores[:1], file, by_epoch, 2, **second)
    if warns is None:
        assert warnings_in(caplog) == []
        assert files(folder) == old
        return
    (text,) = warnings_in(caplog)
    assert warns in text
    messages = again.meta["hook_msgs"]
    name = f"best_{messages['best_key']}_{kind}_3.pth"
    assert files(folder) == sorted([*old, name])
    assert (messages["best_score"], Path(messages["best_ckpt"]).name) == (0.5, name)
    assert (messages["best_key"], messages["best_rule"]) == (
        again.hooks[0].key_indicator,
        again.hooks[0].rule,
    )


@pytest.mark.parametrize("out_dir", [False, True])
@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("how", ["moved", "copied", "elsewhere", "stayed"])
def test_the_best_file_of_a_moved_folder_is_replaced(
    make_runner: MakeRunner, tmp_path: Path, how: str, by_epoch: bool, out_dir: bool
) -> None:
    def arguments(top: Path) -> dict[str, Any]:
        return {"save_best": "acc", **({"out_dir": str(top / "out")} if out_dir else {})}

    def best_folder(top: Path) -> Path:
        return top / "out" / "run" if out_dir else top / "run"

    one, other = tmp_path / "one", tmp_path / "other"
    runner = run(make_runner, one / "run", [{"acc": 0.1}], by_epoch=by_epoch, **arguments(one))
    kind = "epoch" if by_epoch else "iter"
    (old,) = files(best_folder(one))
    top = other
    if how == "moved":
        one.rename(other)
    elif how == "copied":
        shutil.copytree(one, other)
    elif how == "stayed":
        top = one
    file = best_folder(top if how != "elsewhere" else one) / old
    again = run(make_runner, top / "run", [{"acc": 0.2}], file, by_epoch, 1, **arguments(top))
    new = f"best_acc_{kind}_2.pth"
    assert files(best_folder(top)) == ([old, new] if how == "copied" else [new])
    assert again.meta["hook_msgs"]["best_ckpt"] == str(best_folder(top) / new)
    if how in ("copied", "elsewhere"):
        assert files(best_folder(one)) == [old]  # the first run keeps its own
    assert runner.iter == 1


PLANTED = [
    "train.py",
    "epoch_9.pth",
    "best_acc.pth",
    "best_acc_epoch_1.pth.bak",
    "best_loss_epoch_1.pth",
    "best_acc_epoch_x.pth",
    "best_acc_step_1.pth",
    "best_acc_epoch_1.pt",
    "xbest_acc_epoch_1.pth",
    "sub/train.py",
    "sub/best_acc_epoch_1.pth",
]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("key", ["acc", None])
def test_what_a_file_names_as_its_best_is_no_instruction(
    make_runner: MakeRunner, tmp_path: Path, name: str, key: str | None
) -> None:
    folder = tmp_path / "run"
    (folder / "sub").mkdir(parents=True)
    (folder / name).write_text("x")
    messages = {"best_score": 0.0, "best_ckpt": str(folder / name)}
    if key is not None:
        messages |= {"best_key": key, "best_rule": "greater"}
    meta = {"epoch": 0, "iter": 0, "hook_msgs": messages}
    given = tmp_path / "given.pth"
    torch.save({"meta": meta, "state_dict": TinyModel().state_dict()}, given)
    run(make_runner, folder, [{"acc": 0.5}], given, save_best="acc")
    assert (folder / name).read_text() == "x"
    assert (folder / "best_acc_epoch_1.pth").is_file()


@pytest.mark.parametrize(
    "value", [None, 3, ["a"], {"a": 1}, "", "/", "..", "best_acc_epoch_1.pth/..", "\0", "a" * 5000]
)
def test_a_best_file_that_is_none_is_ignored(tmp_path: Path, value: Any) -> None:
    (tmp_path / "best_acc_epoch_1.pth").mkdir()
    assert file_to_delete(value, "acc", str(tmp_path), FileClient("disk")) is None
    name = str(tmp_path / "best_acc_epoch_1.pth")  # a folder
    assert file_to_delete(name, "acc", str(tmp_path), FileClient("disk")) is None


def test_the_best_file_of_another_storage_stays(tmp_path: Path) -> None:
    client, local = FileClient("memory"), FileClient("disk")
    for folder in ("one", "two"):
        client.put(b"x", f"memory://best/{folder}/best_acc_epoch_1.pth")
    (tmp_path / "best_acc_epoch_1.pth").write_text("x")
    name = "best_acc_epoch_1.pth"
    for old, folder, expected in [
        (f"memory://best/one/{name}", "memory://best/one", f"memory://best/one/{name}"),
        (f"memory://best/two/{name}", "memory://best/one", None),
        (f"memory://best/gone/{name}", "memory://best/one", f"memory://best/one/{name}"),
        (f"/nowhere/{name}", "memory://best/one", None),
        (f"s3://elsewhere/{name}", "memory://best/one", None),
    ]:
        assert file_to_delete(old, "acc", folder, client) == expected, old
    assert file_to_delete(f"s3://elsewhere/{name}", "acc", str(tmp_path), local) is None
    moved = file_to_delete(f"/nowhere/{name}", "acc", str(tmp_path), local)
    assert moved == str(tmp_path / name)


class _OwnEvaluation(EvalHook):
    """Evaluates as those of code bases on MMCV, which keep the results."""

    def _do_evaluate(self, runner: Any) -> None:
        self.latest_results = self.test_fn(runner.model, self.dataloader)
        score = self.evaluate(runner, self.latest_results)
        if self.save_best and score:
            self._save_ckpt(runner, score)


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("kind_of_hook", [EvalHook, _OwnEvaluation])
def test_a_resumed_run_with_start_is_evaluated_first_and_trains_as_it_would_have(
    make_runner: MakeRunner, tmp_path: Path, by_epoch: bool, kind_of_hook: type[EvalHook]
) -> None:
    """Also where the checkpoint was written after its evaluation, which is then repeated."""
    evaluated: list[tuple[int, float]] = []

    def go(folder: str, resume: Any = None, start: int | None = 1) -> Any:
        kind, limit = (
            (EpochBasedRunner, "max_epochs") if by_epoch else (IterBasedRunner, "max_iters")
        )
        runner = make_runner(kind, work_dir=str(tmp_path / folder), **{limit: 4})
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(Points(4), 2, shuffle=True, generator=generator)

        def draw(results: Any, logger: Any = None) -> dict[str, float]:
            numbers = [random.random(), np.random.rand(), torch.rand(()).item()]
            evaluated.append((runner.epoch if by_epoch else runner.iter, sum(numbers)))
            return {"acc": len(evaluated)}

        loader.dataset.evaluate = draw  # type: ignore[attr-defined]
        runner.register_optimizer_hook({})
        hook = kind_of_hook(loader, start=start, by_epoch=by_epoch, save_best="acc")
        runner.register_hook(hook, 40)
        runner.register_checkpoint_hook({"interval": 1, "by_epoch": by_epoch})
        if resume is not None:
            runner.resume(resume)
        train = DataLoader(Points(8), 2, shuffle=True)
        runner.run([train], TRAIN)
        return [p.tolist() for p in runner.model.parameters()], list(generator.get_state())

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    end = go("whole")
    draws = evaluated.copy()
    assert [at for at, _ in draws] == [0, 1, 2, 3]
    file = tmp_path / "whole" / f"{'epoch' if by_epoch else 'iter'}_2.pth"
    evaluated.clear()
    assert go("resumed", file) == end
    assert [at for at, _ in evaluated] == [2, 2, 3]  # before training, and after each
    assert evaluated[1:] == draws[2:]
    evaluated.clear()
    assert go("without", file, start=None) == end
    assert evaluated == draws[2:]
