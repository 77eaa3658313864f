"""Warnings about runs that cannot train, before they begin, or do not, after some iterations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hookrun.core.hook import writes_of
from hookrun.core.masters import model_parameter
from hookrun.core.protocols import AveragesGradients, LendsWeights, implements
from hookrun.distributed import (
    averages_gradients,
    get_dist_info,
    parameters_outside_fsdp,
    unwrap_model,
)

from .any_runner import AnyRunner
from .optimizer_state import named_optimizers

# Iterations before the check: a loss scaler may skip the first steps.
_PATIENCE = 10


def warn_if_untrainable(runner: AnyRunner) -> None:
    """Warn about optimizers without parameters of the model, and about ranks that diverge.

    Called before the hooks' ``before_run``, which may replace the optimizers' parameters by
    masters.
    """
    model = unwrap_model(runner.model)
    if not isinstance(model, nn.Module):
        return
    own = {id(parameter) for parameter in model.parameters()}
    for name, optimizer in named_optimizers(runner.optimizer).items():
        entries = [model_parameter(entry) for entry in _entries(optimizer)]
        if own and entries and not any(id(entry) in own for entry in entries):
            runner.logger.warning(
                "the optimizer%s has none of the model's parameters, so that the model will not be "
                "trained: make it of runner.model.parameters(), after the model was copied, moved "
                "to another dtype or built anew",
                f" {name!r}" if name else "",
            )
    rank, world_size = get_dist_info()
    if rank != 0 or world_size == 1 or not own or runner.optimizer is None:
        return
    if any(
        implements(hook, AveragesGradients) and hook.averages_gradients(runner)
        for hook in runner.hooks
    ):
        return
    if not averages_gradients(runner.model):
        runner.logger.warning(
            "%d processes train separate models, since nothing averages their gradients: wrap "
            "the model into torch.nn.parallel.DistributedDataParallel, or shard it by fully_shard "
            "(a hook that averages them says so with a method averages_gradients(runner))",
            world_size,
        )

    outside = parameters_outside_fsdp(runner.model)
    if outside:
        runner.logger.warning(
            "%d parameters are outside of what fully_shard was called with, so that nothing "
            "averages their gradients, and each process trains its own: call fully_shard on the "
            "model too. They are: %s",
            len(outside),
            ", ".join(outside[:8]) + (", ..." if len(outside) > 8 else ""),
        )


class TrainingWatch:
    """Warns once if the first iterations train nothing.

    Nothing is trained if no optimizer is stepped, no parameter is written and none has a gradient.
    If an optimizer hook is registered, nothing is watched.

    Args:
        runner: the runner.
    """

    def __init__(self, runner: AnyRunner) -> None:
        self._optimizers = [*named_optimizers(runner.optimizer).values()]
        self._stepped = False
        self._swaps_weights = any(implements(hook, LendsWeights) for hook in runner.hooks)
        self._begin = runner.iter
        self._handles: list[Any] = []
        if not any({"parameters", "gradients"} <= writes_of(hook) for hook in runner.hooks):
            self._handles = [
                each.register_step_post_hook(self._note_step) for each in self._optimizers
            ]
        self._versions = self._write_counts()
        # Swapping weights in and out writes them too, but does not change them in the end.
        self._sums = self._values() if self._swaps_weights else []

    def due_at(self) -> int | None:
        """The iteration after which to check; None if nothing is watched."""
        return self._begin + _PATIENCE if self._handles else None

    def check(self, runner: AnyRunner) -> None:
        """Warn if nothing has been trained so far, and stop watching."""
        done = runner.iter - self._begin
        if self._handles and done > 0 and not self._has_trained() and get_dist_info()[0] == 0:
            runner.logger.warning(
                "nothing has been trained in %d iterations: no hook steps the optimizer, nor does "
                "the model's train_step. Give optimizer_config=dict() to register_training_hooks, "
                "or call register_optimizer_hook(dict())",
                done,
            )
        self.end()

    def check_if_due(self, runner: AnyRunner) -> None:
        """Call `check` after a step, once enough iterations are done."""
        due_at = self.due_at()
        if due_at is not None and runner.iter >= due_at:
            self.check(runner)

    def end(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def _has_trained(self) -> bool:
        return (
            self._stepped
            or (self._versions != self._write_counts() and self._values() != self._sums)
            or any(entry.grad is not None for entry in self._all_entries())
        )

    def _write_counts(self) -> list[int]:
        """The version counter of each parameter, which counts writes."""
        if not self._handles:
            return []
        return [0 if each.is_inference() else each._version for each in self._all_entries()]

    def _values(self) -> list[float]:
        """The sum of each parameter, if weights are swapped; else a value that equals nothing."""
        if not self._handles or not self._swaps_weights:
            return [math.nan]
        parts = (
            each.to_local() if hasattr(each, "to_local") else each for each in self._all_entries()
        )
        return [float(part.detach().double().sum()) for part in parts]

    def _all_entries(self) -> Iterator[Tensor]:
        for optimizer in self._optimizers:
            yield from _entries(optimizer)


@contextlib.contextmanager
def watching_training(runner: AnyRunner) -> Iterator[None]:
    """A context around the steps of a run, with a warning if they train nothing."""
    watch = TrainingWatch(runner)
    due_at = watch.due_at()
    # With several ranks, the check runs when they next agree whether to stop, or after the run.
    if due_at is not None and get_dist_info()[1] == 1:
        runner.check_at = min(runner.check_at, due_at)
    runner.boundary_checks.insert(0, watch.check_if_due)
    try:
        yield
        watch.check(runner)
    finally:
        runner.boundary_checks.remove(watch.check_if_due)
        watch.end()


def _entries(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
