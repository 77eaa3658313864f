"""EarlyStoppingHook: ends a run after evaluations without improvement, and at the same one when
resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hookrun import (
    EarlyStoppingHook,
    EpochBasedRunner,
    EvalHook,
    Hook,
    IterBasedRunner,
    OptimizerHook,
)
from tests.distributed.workers import run_workers
from tests.support import Recorder, TinyModel, make_loader

NAN = math.nan


def scores(*values: float, name: str = "acc") -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def make(make_runner: Any, kind: type, hook: Hook, given: Any, **arguments: Any) -> Any:
    by_epoch = issubclass(kind, EpochBasedRunner)
    limit = {"max_epochs": 12} if by_epoch else {"max_iters": 24}
    runner = make_runner(kind, model=TinyModel(), **{**limit, **arguments})
    runner.register_hook(OptimizerHook(), priority=40)
    interval = 1 if by_epoch else 2
    loader = make_loader(1, scores=given)
    runner.register_hook(EvalHook(loader, interval=interval, by_epoch=by_epoch))
    runner.register_hook(hook)
    return runner


def train(runner: Any) -> Any:
    runner.run([make_loader(2)], [("train", 1)])
    return runner


KINDS = [EpochBasedRunner, IterBasedRunner]
SEQUENCES: dict[str, tuple[dict[str, Any], list[float], int]] = {
    "never better": ({}, [0.5, 0.4, 0.5, 0.3], 4),
    "better again": ({"patience": 2}, [0.1, 0.0, 0.2, 0.2, 0.2], 5),
    "not a number": ({"patience": 2}, [0.1, NAN, NAN], 3),
    "never a number": ({"patience": 2}, [NAN, NAN], 2),
    "first not a number": ({"patience": 2}, [NAN, 0.1, 0.1, NAN], 4),
    "threshold": ({"patience": 2, "threshold": 0.1}, [0.1, 0.15, 0.25, 0.3, 0.3], 5),
    "as much as the threshold": ({"patience": 1, "threshold": 0.5}, [1.0, 2.0, 2.5], 3),
    "less": ({"patience": 1, "mode": "less"}, [0.5, 0.4, 0.45], 3),
    "min": ({"patience": 1, "mode": "min"}, [0.5, 0.4, 0.45], 3),
    "infinite": ({"patience": 2}, [math.inf, math.inf, math.inf], 3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SEQUENCES)
def test_the_run_ends_after_so_many_evaluations(
    make_runner: Any, kind: type, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments, values, expected = SEQUENCES[name]
    recorder, rest = Recorder(), [0.0] * 12
    hook = EarlyStoppingHook("acc", **arguments)
    runner = make(make_runner, kind, hook, scores(*values, *rest))
    runner.register_hook(recorder)
    train(runner)
    assert runner.iter == 2 * expected
    assert recorder.names[-1] == "after_run"
    (line,) = [each for each in caplog.messages if "the run ends" in each]
    assert f"acc has not improved for {hook.patience} evaluations" in line


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["saved before the evaluation", "saved after it"])
def test_a_resumed_run_ends_where_the_straight_run_does(
    make_runner: Any, tmp_path: Path, kind: type, order: str
) -> None:
    values = [0.1, 0.4, 0.3, 0.5, 0.2, 0.5, 0.1, 0.0, 0.0]
    by_epoch = issubclass(kind, EpochBasedRunner)
    config = {"interval": 1 if by_epoch else 2, "by_epoch": by_epoch}

    def run(folder: str, given: list[float], at: int | None = None) -> Any:
        hook = EarlyStoppingHook("acc")
        arguments = {"work_dir": str(tmp_path / folder)}
        runner = make(make_runner, kind, hook, scores(*given), **arguments)
        runner.register_checkpoint_hook({**config, "priority": 49 if "before" in order else 51})
        if at is not None:
            template = f"epoch_{at}.pth" if by_epoch else f"iter_{2 * at}.pth"
            runner.resume(tmp_path / "straight" / template)
            assert runner.iter == 2 * at
        return train(runner), hook

    straight, hook = run("straight", values)
    assert straight.iter == 14
    for at in range(1, 8):
        # A file written before the evaluation of its epoch is evaluated when it is resumed.
        again, other = run(f"from {at}", values[at - ("before" in order) :], at)
        assert again.iter == 14
        assert (other.best, other.waited) == (hook.best, hook.waited)


def test_resumed_from_the_best_checkpoint(make_runner: Any, tmp_path: Path) -> None:
    """It holds the evaluation that it is the best of, which is not repeated."""
    given = [{"acc": acc, "loss": loss} for acc, loss in zip(
        (0.5, 0.9, 0.6, 0.7, 0.8), (5.0, 4.0, 6.0, 3.0, 2.0), strict=True
    )]  # fmt: skip

    def run(folder: str, resume_from: str = "", begin: int = 0) -> Any:
        hook = EarlyStoppingHook("acc", patience=3)
        runner = make_runner(work_dir=str(tmp_path / folder), max_epochs=12)
        loader = make_loader(1, scores=given[begin:])
        runner.register_hook(EvalHook(loader, save_best=["acc", "loss"]))
        runner.register_hook(hook)
        if resume_from:
            runner.resume(resume_from)
        return train(runner), hook

    straight, hook = run("straight")
    assert (straight.epoch, hook.best) == (5, 0.9)
    for name, epoch in (("acc", 2), ("loss", 5)):
        again, other = run(name, tmp_path / "straight" / f"best_{name}_epoch_{epoch}.pth", epoch)
        assert (again.epoch, other.best, other.waited) == (5, hook.best, hook.waited)


def test_a_larger_patience_lets_a_stopped_run_go_on(make_runner: Any) -> None:
    given = scores(0.5, 0.1, 0.1, 0.1, 0.1, 0.1)
    runner = train(make(make_runner, EpochBasedRunner, EarlyStoppingHook("acc", 2), given))
    assert runner.epoch == 3
    runner.save_checkpoint(runner.work_dir, filename_tmpl="stopped.pth")
    for patience, expected in ((2, 3), (4, 5)):
        hook = EarlyStoppingHook("acc", patience)
        again = make(make_runner, EpochBasedRunner, hook, given[3:])
        again.resume(Path(again.work_dir) / "stopped.pth")
        assert train(again).epoch == expected


@pytest.mark.parametrize("changed", [{"monitor": "mAP"}, {"mode": "less"}])
def test_the_state_of_another_score_is_not_used(make_runner: Any, changed: Any) -> None:
    hook = EarlyStoppingHook("acc")
    for score in (0.5, 0.4, 0.3):
        hook.observe(score)
    other = EarlyStoppingHook(**{"monitor": "acc", **changed})
    other.load_state_dict(hook.state_dict())
    assert (other.best, other.waited) == (None, 0)
    same = EarlyStoppingHook("acc")
    same.load_state_dict(hook.state_dict())
    assert (same.best, same.waited) == (0.5, 2)


@given(
    st.lists(st.floats(-2, 2) | st.just(NAN), min_size=1, max_size=20),
    st.sampled_from(["greater", "less"]),
    st.sampled_from([0.0, 0.25]),
)
def test_against_a_definition(values: list[float], mode: str, threshold: float) -> None:
    """A score improves if it is better by more than the threshold than the last that improved."""
    hook = EarlyStoppingHook("x", mode=mode, threshold=threshold)
    improved: list[float] = []
    since = 0
    for value in values:
        sign = 1 if mode == "greater" else -1
        better = not math.isnan(value) and (
            not improved or sign * (value - improved[-1]) > threshold
        )
        improved += [value] if better else []
        since = 0 if better else since + 1
        assert hook.observe(value) == better
        assert hook.waited == since


# Bad input


def test_a_score_that_no_evaluation_gives(make_runner: Any) -> None:
    given = [{"acc": 0.5, "mAP_50": 0.1}] * 3
    runner = make(make_runner, EpochBasedRunner, EarlyStoppingHook("mAP"), given)
    with pytest.raises(KeyError) as caught:
        train(runner)
    assert "no evaluation gives monitor='mAP'. The scores are: acc, mAP_50. Did you" in str(
        caught.value
    )
    assert runner.iter == 2


def test_of_several_evaluations_one_must_give_the_score(make_runner: Any) -> None:
    for monitor, ends in (("Points/top5", True), ("mAP", False)):
        hook = EarlyStoppingHook(monitor, patience=1)
        runner = make(make_runner, EpochBasedRunner, hook, scores(*[0.5] * 4), max_epochs=4)
        second = make_loader(1, scores=scores(0.5, 0.5, name="top5"))
        runner.register_hook(EvalHook(second, interval=2))
        if ends:
            assert train(runner).epoch == 4
        else:
            with pytest.raises(KeyError, match="The scores are: Points/top5, acc"):
                train(runner)


def test_without_an_evaluation_the_run_does_not_begin(make_runner: Any) -> None:
    runner = make_runner()
    runner.register_hook(EarlyStoppingHook("acc"))
    with pytest.raises(ValueError, match="nothing gives the score 'acc', since the run has no Eva"):
        train(runner)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"monitor": 3}, TypeError, "monitor is the name of a score, not 3"),
        ({"patience": 0}, ValueError, "patience must be at least 1, not 0"),
        ({"patience": 2.0}, TypeError, "patience must be an int, not 2.0"),
        ({"patience": True}, TypeError, "patience must be an int"),
        ({"mode": "maximum"}, ValueError, r"mode must be 'greater' \('max'\).*not 'maximum'"),
        ({"threshold": -1}, ValueError, "threshold must be at least 0 and finite, not -1"),
        ({"threshold": NAN}, ValueError, "threshold must be at least 0 and finite, not nan"),
        ({"threshold": "0"}, TypeError, "threshold must be a number, not '0'"),
        ({"monitor": "quux"}, ValueError, "greater or a smaller 'quux' better?.*give mode='great"),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EarlyStoppingHook(**{"monitor": "acc", **arguments})


def test_a_score_that_is_no_number(make_runner: Any) -> None:
    runner = make(make_runner, EpochBasedRunner, EarlyStoppingHook("acc"), [{"acc": [1, 2]}])
    with pytest.raises(TypeError, match=r"monitor='acc' compares numbers, but the score is \[1, 2"):
        train(runner)


def test_a_tensor_is_a_score(make_runner: Any) -> None:
    given = [{"acc": torch.tensor(value)} for value in (0.5, 0.4, 0.4, 0.4)]
    assert train(make(make_runner, EpochBasedRunner, EarlyStoppingHook("acc"), given)).epoch == 4


# Ranks

PROGRAM = """
from hookrun import EarlyStoppingHook, EpochBasedRunner, EvalHook, IterBasedRunner
from tests.support import TinyModel, make_loader

def run(name, kind, evaluates, values, resume=None):
    by_epoch = kind is EpochBasedRunner
    runner = kind(
        TinyModel(),
        work_dir=folder / name,
        **({"max_epochs": 10**6} if by_epoch else {"max_iters": 10**7}),
    )
    runner.logger.setLevel("ERROR")
    if rank in evaluates:
        # Those of rank 1 would never end the run.
        given = [{"acc": value if rank == 0 else number} for number, value in enumerate(values)]
        given += [{"acc": 0.0 if rank == 0 else 10.0 + number} for number in range(10**4)]
        loader = make_loader(1, scores=given)
        runner.register_hook(EvalHook(loader, interval=1 if by_epoch else 2, by_epoch=by_epoch))
    if rank in evaluates:
        runner.register_hook(EarlyStoppingHook("acc"))
    config = {"interval": 1 if by_epoch else 2, "by_epoch": by_epoch, "max_keep_ckpts": 3}
    runner.register_checkpoint_hook(config)
    if resume:
        runner.resume(resume)
    runner.run([make_loader(2)], [("train", 1)])
    found[name] = runner.iter

values = [0.1, 0.4, 0.3, 0.5, 0.2, 0.5, 0.1]
run("by epoch", EpochBasedRunner, [0, 1], values)
run("resumed", EpochBasedRunner, [0, 1], values[5:], folder / "by epoch" / "epoch_5.pth")
run("by iteration", IterBasedRunner, [0, 1], values)
run("rank 0 only", EpochBasedRunner, [0], values)
"""


def test_all_ranks_end_at_the_epoch_of_one_rank(tmp_path: Path) -> None:
    """Where all evaluate at the same points; else soon after, all at the same step."""
    first, second = run_workers(PROGRAM, tmp_path)
    assert first == second
    assert first.pop("rank 0 only") >= 14
    assert first == {"by epoch": 14, "resumed": 14, "by iteration": 14}
