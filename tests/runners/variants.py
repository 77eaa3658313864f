"""The ways in which a runner can go: the native loop, and each reason to take the Python one."""

from __future__ import annotations

from typing import Any

import pytest

from hookrun import EpochBasedRunner, IterBasedRunner


class _Counting:
    """Counts the calls of the methods that a variant overrides."""

    def count(self, name: str) -> None:
        self.__dict__.setdefault("calls", []).append(name)


class CallHookEpochRunner(_Counting, EpochBasedRunner):
    def call_hook(self, event: str) -> None:
        self.count("call_hook")
        super().call_hook(event)


class RunIterEpochRunner(_Counting, EpochBasedRunner):
    def run_iter(self, data_batch: Any, train_mode: bool, **kwargs: Any) -> None:
        self.count("run_iter")
        super().run_iter(data_batch, train_mode, **kwargs)


class PhasesEpochRunner(_Counting, EpochBasedRunner):
    def train(self, data_loader: Any, **kwargs: Any) -> None:
        self.count("train")
        super().train(data_loader, **kwargs)

    def val(self, data_loader: Any, **kwargs: Any) -> None:
        self.count("val")
        super().val(data_loader, **kwargs)


class CallHookIterRunner(_Counting, IterBasedRunner):
    def call_hook(self, event: str) -> None:
        self.count("call_hook")
        super().call_hook(event)


class PhasesIterRunner(_Counting, IterBasedRunner):
    def train(self, data_loader: Any, **kwargs: Any) -> None:
        self.count("train")
        super().train(data_loader, **kwargs)

    def val(self, data_loader: Any, **kwargs: Any) -> None:
        self.count("val")
        super().val(data_loader, **kwargs)


EPOCH_VARIANTS: dict[str, tuple[type, bool]] = {
    "native": (EpochBasedRunner, False),
    "reference": (EpochBasedRunner, True),
    "call_hook": (CallHookEpochRunner, False),
    "run_iter": (RunIterEpochRunner, False),
    "train and val": (PhasesEpochRunner, False),
}
ITER_VARIANTS: dict[str, tuple[type, bool]] = {
    "native": (IterBasedRunner, False),
    "reference": (IterBasedRunner, True),
    "call_hook": (CallHookIterRunner, False),
    "train and val": (PhasesIterRunner, False),
}
LOOPS = [
    pytest.param(EPOCH_VARIANTS["native"], id="epoch-native"),
    pytest.param(EPOCH_VARIANTS["run_iter"], id="epoch-python"),
    pytest.param(ITER_VARIANTS["native"], id="iter-native"),
    pytest.param(ITER_VARIANTS["train and val"], id="iter-python"),
]


def limits(runner_type: type, epochs: int = 2, batches: int = 3) -> dict[str, int]:
    """The same length of training for both kinds of runner."""
    if issubclass(runner_type, EpochBasedRunner):
        return {"max_epochs": epochs}
    return {"max_iters": epochs * batches}
