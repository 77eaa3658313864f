"""Thousands of random schedules against MMCV 1.7.2: stored, and live where it is installed."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hookrun import HOOKS
from hookrun.schedules.preview import DryRun
from tests.oracle import import_mmcv

from .drawing import LR_KINDS, MOMENTUM_KINDS, Run, draw_hook, draw_run
from .driving import make_optimizer, read, record_calls

VECTORS = Path(__file__).parents[1] / "fixtures" / "schedules" / "vectors.npz"
ALL_KINDS = [(kind, False) for kind in LR_KINDS] + [(kind, True) for kind in MOMENTUM_KINDS]


@cache
def stored_cases() -> dict[str, list[tuple[dict[str, Any], Run, np.ndarray]]]:
    """Config, run and MMCV's values (iterations, groups), by the hook's name."""
    with np.load(VECTORS) as data:
        cases = json.loads(data["cases"].tobytes())
        values = data["values"]
    by_hook: dict[str, list[tuple[dict[str, Any], Run, np.ndarray]]] = {}
    position = 0
    for case in cases:
        run = Run(**{name: _tuples(value) for name, value in case["run"].items()})
        groups = len(run.bases) * max(len(run.optimizers), 1)
        count = run.iters * groups
        expected = values[position : position + count].reshape(run.iters, groups)
        position += count
        by_hook.setdefault(case["config"]["type"], []).append((case["config"], run, expected))
    assert position == len(values)
    return by_hook


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def run_native(config: dict[str, Any], run: Run, momentum: bool) -> list[list[float]]:
    """What the hook sets in a run whose events the dispatcher fires."""
    dry_run = DryRun(make_optimizer(run), run.length, run.epochs or None)
    hook = HOOKS.build(config)
    dry_run.register(hook)
    values = [read(dry_run.optimizer, momentum) for _ in dry_run.iterations()]
    assert hook._compiled != (hook.by_epoch and hook.warmup is None)
    return values


def tolerance(config: dict[str, Any], run: Run) -> np.ndarray:
    """1e-12 x the base value of each group."""
    bases = [config.get("max_lr", config.get("max_momentum", base)) for base in run.bases]
    return 1e-12 * np.asarray(bases * max(len(run.optimizers), 1))


def assert_close(got: list[list[float]], expected: Any, config: dict[str, Any], run: Run) -> None:
    error = np.abs(np.asarray(got) - np.asarray(expected))
    assert (error <= tolerance(config, run)).all(), (config, run, error.max())


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("kind", "momentum"), ALL_KINDS)
def test_values_are_those_of_mmcv(
    kind: str, momentum: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = stored_cases()[kind + ("MomentumUpdaterHook" if momentum else "LrUpdaterHook")]
    assert len(cases) >= 200
    for config, run, expected in cases:
        assert_close(run_native(config, run, momentum), expected, config, run)
    monkeypatch.setenv("HOOKRUN_BACKEND", "reference")
    for config, run, expected in cases:
        assert_close(record_calls(HOOKS.build(config), run, momentum), expected, config, run)


@given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(ALL_KINDS))
@settings(max_examples=300)
def test_native_and_python_set_the_same_bits(rng: random.Random, kind: tuple[str, bool]) -> None:
    name, momentum = kind
    run = draw_run(rng, momentum)
    config = draw_hook(rng, run, name, momentum)
    native = run_native(config, run, momentum)
    python = record_calls(HOOKS.build(config), run, momentum)
    assert native == python, config


@pytest.mark.parametrize("examples", [300, pytest.param(20_000, marks=pytest.mark.long)])
def test_values_are_those_of_mmcv_live(examples: int) -> None:
    hooks = import_mmcv("mmcv.runner.hooks")

    @given(rng=st.randoms(use_true_random=False), kind=st.sampled_from(ALL_KINDS))
    @settings(max_examples=examples)
    def check(rng: random.Random, kind: tuple[str, bool]) -> None:
        name, momentum = kind
        run = draw_run(rng, momentum)
        config = draw_hook(rng, run, name, momentum)
        arguments = {
            key: _tuples(value) if key == "target_ratio" else value for key, value in config.items()
        }
        module = hooks.momentum_updater if momentum else hooks.lr_updater
        oracle = getattr(module, arguments.pop("type"))(**arguments)
        expected = record_calls(oracle, run, momentum)
        assert_close(run_native(config, run, momentum), expected, config, run)

    check()
