"""Curves of a schedule without training: the hooks themselves, driven through an empty run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hookrun import _native
from hookrun.core.dispatcher import make_dispatcher
from hookrun.core.hook import HOOKS, Hook, tie_to_runner
from hookrun.core.policy_config import policy_hook_config

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What the hooks set before each training iteration.

    Attributes:
        iters: the iterations, counted from 0; shape (N,).
        lr: learning rates; shape (N,), or (N, groups) where several base values were given.
        momentum: the momentum in the same shape.
        iters_per_epoch: None for a run without epochs.
    """

    iters: NDArray[np.int64]
    lr: Array
    momentum: Array
    iters_per_epoch: int | None

    @property
    def epochs(self) -> Array | None:
        """The iterations in epochs; shape (N,). None for a run without epochs."""
        return None if self.iters_per_epoch is None else self.iters / self.iters_per_epoch


class DryRun(_native.RunState):
    """A runner with nothing but an optimizer, counters and schedule hooks.

    Args:
        optimizer: an optimizer or a dict of them.
        length: iterations of an epoch, or of the whole run where it has no epochs.
        epochs: epochs of the run; None for a run that is measured in iterations.
    """

    def __init__(self, optimizer: Any, length: int, epochs: int | None) -> None:
        self.optimizer = optimizer
        self.data_loader = range(length)
        self.epoch_length = length
        self._max_epochs = epochs
        self._max_iters = length * (epochs or 1)
        self._dispatcher = make_dispatcher(self)
        self._schedule_hooks: list[tuple[Hook, int]] = []

    def register(self, hook: Hook) -> None:
        """Add a hook behind the others."""
        self._schedule_hooks.append((hook, 0))
        self.refresh_hooks()
        tie_to_runner(hook, self.refresh_hooks)

    def refresh_hooks(self) -> None:
        self._dispatcher.replace(self._schedule_hooks)

    def iterations(self) -> Iterator[None]:
        """Go through the run from where the counters stand; yields at each training iteration."""
        assert self._max_iters is not None
        self.call_hook("before_run")
        if self._max_epochs is None:
            self.call_hook("before_epoch")
        while self._iter < self._max_iters:
            if self._max_epochs is not None:
                self.call_hook("before_train_epoch")
            while self._inner_iter < len(self.data_loader):
                self.call_hook("before_train_iter")
                yield
                self._iter += 1
                self._inner_iter += 1
            self._epoch += self._max_epochs is not None
            self._inner_iter = 0


def preview(
    lr_config: Mapping[str, Any] | Hook | None,
    momentum_config: Mapping[str, Any] | Hook | None = None,
    max_epochs: int | None = None,
    iters_per_epoch: int | None = None,
    base_lr: float | Sequence[float] = 0.1,
    *,
    max_iters: int | None = None,
    base_momentum: float = 0.9,
) -> Curves:
    """The learning rate and the momentum of every iteration of a run.

    The hooks are built and called as in a run, so that nothing can differ: this works for hooks and
    policies of your own, too.

    Args:
        lr_config, momentum_config: as for ``register_lr_hook``: a policy config, a hook (it is
            copied), or None for none.
        max_epochs, iters_per_epoch: the length of the run, or
        max_iters: the length of a run that is measured in iterations.
        base_lr: the optimizer's learning rate; several for as many parameter groups.
        base_momentum: the optimizer's momentum.

    Raises:
        ValueError, TypeError: a wrong length; and whatever the hooks find wrong.
        KeyError: an unknown policy.

    Examples:
        >>> curves = preview(dict(policy="step", step=[1]), max_epochs=2, iters_per_epoch=2)
        >>> curves.lr.round(3).tolist()
        [0.1, 0.1, 0.01, 0.01]
    """
    length = _length(max_epochs, iters_per_epoch, max_iters)
    rates = [base_lr] if isinstance(base_lr, (int, float)) else list(base_lr)
    groups = [{"params": [torch.zeros((), device="cpu")], "lr": lr} for lr in rates]
    optimizer = torch.optim.SGD(groups, lr=rates[0], momentum=base_momentum)
    run = DryRun(optimizer, length, max_epochs)
    for config, suffix, name in (
        (lr_config, "LrUpdaterHook", "lr_config"),
        (momentum_config, "MomentumUpdaterHook", "momentum_config"),
    ):
        if config is not None:
            run.register(_make_hook(config, suffix, name))
    recorded = np.asarray(
        [
            [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
            for _ in run.iterations()
        ]
    )
    lr, momentum = recorded[..., 0], recorded[..., 1]
    if isinstance(base_lr, (int, float)):
        lr, momentum = lr[:, 0], momentum[:, 0]
    return Curves(np.arange(len(recorded)), lr, momentum, iters_per_epoch)


def _make_hook(config: Any, suffix: str, name: str) -> Hook:
    if isinstance(config, Mapping):
        config = HOOKS.build(policy_hook_config(config, suffix, name))
    if not isinstance(config, Hook):
        raise TypeError(f"{name} is a config dict or a hook, not {config!r}")
    return copy.deepcopy(config)


def _length(max_epochs: int | None, iters_per_epoch: int | None, max_iters: int | None) -> int:
    """Iterations of an epoch, or of the run that has none."""
    given = {"max_epochs": max_epochs, "iters_per_epoch": iters_per_epoch, "max_iters": max_iters}
    names = [name for name, value in given.items() if value is not None]
    if names not in (["max_epochs", "iters_per_epoch"], ["max_iters"]):
        raise ValueError(
            "preview() needs max_epochs and iters_per_epoch, or max_iters alone, not "
            + (" and ".join(names) or "none of them")
        )
    for name in names:
        value = given[name]
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be a positive int, not {value!r}")
        if value <= 0:
            raise ValueError(f"{name} must be a positive int, not {value!r}")
    return given[names[-1]] or 0
