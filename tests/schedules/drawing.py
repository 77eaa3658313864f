"""Random schedules: hook configs, and runs for them.

Only the standard library is used, so that the script that makes the stored vectors can import this
next to MMCV, and hypothesis can shrink what it draws (it gives a ``random.Random`` of its own).
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """A training run, as far as schedules see it.

    Attributes:
        bases: the learning rate, or momentum, that each parameter group starts with.
        epochs: 0 for a run that is measured in iterations.
        length: iterations of an epoch, or of the run that has no epochs.
        betas: whether the momentum is ``betas[0]``.
        optimizers: names of optimizers with these groups each; empty for a single one.
    """

    bases: tuple[float, ...]
    epochs: int
    length: int
    betas: bool = False
    optimizers: tuple[str, ...] = ()

    @property
    def iters(self) -> int:
        return max(self.epochs, 1) * self.length

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def draw_run(rng: random.Random, momentum: bool) -> Run:
    top = 0.99 if momentum else 1.0
    return Run(
        bases=tuple(_between(rng, 1e-3, top) for _ in range(rng.randint(1, 3))),
        epochs=rng.randint(0, 6),
        length=rng.randint(1, 8),
        betas=momentum and rng.random() < 0.5,
        optimizers=("a", "b") if rng.random() < 0.1 else (),
    )


def draw_hook(rng: random.Random, run: Run, kind: str, momentum: bool) -> dict[str, Any]:
    """The config of a hook that MMCV and hookrun both take, and that suits the run.

    Args:
        kind: the policy's name, as in the hook's.
        momentum: whether a momentum hook is wanted.
    """
    suffix = "MomentumUpdaterHook" if momentum else "LrUpdaterHook"
    by_epoch = run.epochs > 0 and rng.random() < 0.5 and kind not in ("Cyclic", "OneCycle")
    total = run.epochs if by_epoch else run.iters
    arguments = {"by_epoch": by_epoch, **_DRAW[kind](rng, total, momentum)}
    return {"type": kind + suffix, **arguments, **_draw_warmup(rng, run, momentum)}


def _draw_warmup(rng: random.Random, run: Run, momentum: bool) -> dict[str, Any]:
    kind = rng.choice([None, "constant", "linear", "exp"])
    if kind is None:
        return {}
    warmup = {
        "warmup": kind,
        "warmup_iters": rng.randint(1, run.iters + 2),
        "warmup_ratio": _between(rng, 0.001, 1.0),
    }
    if not momentum and run.epochs > 0 and rng.random() < 0.3:
        warmup |= {"warmup_by_epoch": True, "warmup_iters": rng.randint(1, run.epochs + 1)}
    return warmup


def _between(rng: random.Random, low: float, high: float) -> float:
    # The ends come up, and most values have few digits, which is what users write.
    return min(max(round(rng.uniform(low, high), rng.randint(1, 15)), low), high)


def _minimum(rng: random.Random, momentum: bool) -> dict[str, float]:
    name = "min_momentum" if momentum else "min_lr"
    if rng.random() < 0.5:
        return {name: _between(rng, 0.0, 0.1)}
    return {f"{name}_ratio": _between(rng, 0.0, 1.05 if momentum else 1.0)}


def _fixed(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return {}


def _step(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    marks = sorted(rng.sample(range(1, total + 6), rng.randint(1, 5)))
    config: dict[str, Any] = {
        "step": rng.randint(1, total + 1) if rng.random() < 0.5 else marks,
        "gamma": _between(rng, 0.01, 1.5),
    }
    if rng.random() < 0.4:
        config["min_momentum" if momentum else "min_lr"] = _between(rng, 0.0, 0.5)
    return config


def _exp(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return {"gamma": _between(rng, 0.01, 1.2)}


def _poly(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return {"power": _between(rng, 0.0, 3.0), "min_lr": _between(rng, 0.0, 0.1)}


def _inv(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return {"gamma": _between(rng, 0.0, 2.0), "power": _between(rng, -1.0, 3.0)}


def _annealing(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return _minimum(rng, momentum)


def _flat_cosine(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    return {"start_percent": _between(rng, 0.0, 1.0), **_minimum(rng, momentum)}


def _cosine_restart(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    periods = [rng.randint(1, total)]
    while sum(periods) < total:
        periods.append(rng.randint(1, total))
    weights = [_between(rng, 0.0, 1.5) for _ in periods]
    return {"periods": periods, "restart_weights": weights, **_minimum(rng, momentum)}


def _cyclic(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    config = {
        "target_ratio": [_between(rng, 0.1, 10.0), _between(rng, 0.0, 1.0)],
        "cyclic_times": rng.randint(1, total),
        "step_ratio_up": _between(rng, 0.0, 0.99),
        "anneal_strategy": rng.choice(["cos", "linear"]),
        "gamma": _between(rng, 0.1, 1.0),
    }
    if int(config["step_ratio_up"] * (total // config["cyclic_times"])) == 0:
        config["gamma"] = 1.0  # MMCV applies it to the wrong end where nothing goes up
    return config


def _one_cycle(rng: random.Random, total: int, momentum: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "pct_start": _between(rng, 0.0, 1.0),
        "anneal_strategy": rng.choice(["cos", "linear"]),
        "three_phase": rng.random() < 0.5,
    }
    steps = total
    if momentum:
        config |= {
            "base_momentum": _between(rng, 0.1, 0.9),
            "max_momentum": _between(rng, 0.5, 0.99),
        }
    else:
        config |= {
            "max_lr": _between(rng, 1e-3, 1.0),
            "div_factor": _between(rng, 1.0, 30.0),
            "final_div_factor": _between(rng, 1.0, 1e4),
        }
        if rng.random() < 0.5:
            steps = config["total_steps"] = total + rng.randint(0, 5)
    if config["pct_start"] * steps == 1.0:
        config["pct_start"] = 0.9 / steps  # MMCV divides by zero
    return config


_DRAW = {
    "Fixed": _fixed,
    "Step": _step,
    "Exp": _exp,
    "Poly": _poly,
    "Inv": _inv,
    "CosineAnnealing": _annealing,
    "LinearAnnealing": _annealing,
    "FlatCosineAnnealing": _flat_cosine,
    "CosineRestart": _cosine_restart,
    "Cyclic": _cyclic,
    "OneCycle": _one_cycle,
}
LR_KINDS = tuple(_DRAW)
MOMENTUM_KINDS = ("Step", "CosineAnnealing", "LinearAnnealing", "Cyclic", "OneCycle")
