"""Flags and paths that are none: each is refused by name when the hook is made."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from hookrun import CheckpointHook, DistEvalHook, EMAHook, EvalHook, TextLoggerHook
from hookrun.hooks import HOOKS, TensorboardLoggerHook
from tests.support import make_loader

# Only for compatibility with MMCV's signature.
WITHOUT_EFFECT = {("Fp16OptimizerHook", "coalesce"), ("Fp16OptimizerHook", "distributed")}

# These import their client before the base class checks its arguments, which takes seconds.
SLOW = {"MlflowLoggerHook", "NeptuneLoggerHook"}

NEEDED: dict[str, Any] = {
    "dataloader": make_loader(1),
    "fn": print,
    "fn_name": "after_run",
    "gamma": 0.5,
    "max_lr": 0.1,
    "min_lr": 0.0,
    "min_momentum": 0.0,
    "monitor": "loss",
    "periods": [1],
    "step": [1],
}


def flags() -> list[tuple[str, str]]:
    """Every argument of a shipped hook whose default is True or False."""
    return [
        (name, parameter)
        for name in sorted(HOOKS.module_dict)
        if HOOKS.module_dict[name].__module__.startswith("hookrun.")
        for parameter, each in inspect.signature(
            HOOKS.module_dict[name].__init__
        ).parameters.items()
        if isinstance(each.default, bool) and (name, parameter) not in WITHOUT_EFFECT
        if name not in SLOW or parameter not in ("ignore_last", "reset_flag", "by_epoch")
    ]


@pytest.mark.parametrize(("name", "parameter"), flags())
def test_a_flag_is_true_or_false(name: str, parameter: str) -> None:
    """``'no'`` would count as True."""
    cls = HOOKS.module_dict[name]
    known = inspect.signature(cls.__init__).parameters
    needed = {key: value for key, value in NEEDED.items() if key in known}
    for wrong in ("no", 1.5, None):
        with pytest.raises(TypeError, match=f"{parameter} must be (True or False|a bool), not"):
            cls(**{**needed, parameter: wrong})


def test_there_are_many_flags() -> None:
    assert len(flags()) >= 50


@pytest.mark.parametrize("wrong", [3, True, ["out"]])
def test_a_path_is_a_path(wrong: Any) -> None:
    for make, name in (
        (lambda **given: CheckpointHook(1, **given), "out_dir"),
        (lambda **given: EvalHook(make_loader(1), **given), "out_dir"),
        (TextLoggerHook, "out_dir"),
        (TensorboardLoggerHook, "log_dir"),
        (EMAHook, "resume_from"),
        (lambda **given: DistEvalHook(make_loader(1), **given), "tmpdir"),
    ):
        with pytest.raises(TypeError, match=f"Hook: {name} must be a path or None, not "):
            make(**{name: wrong})


def test_paths_may_be_path_objects(tmp_path: Path) -> None:
    assert CheckpointHook(1, out_dir=tmp_path).out_dir == str(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, [3]])
def test_keys_of_scores_are_texts(wrong: Any) -> None:
    with pytest.raises(TypeError, match="greater_keys"):
        EvalHook(make_loader(1), greater_keys=wrong)
