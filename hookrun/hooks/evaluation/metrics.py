"""Metrics that are updated batch by batch, so that no outputs are kept."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hookrun.distributed import (
    all_gather_objects,
    broadcast_object,
    check_lengths,
    fail_together,
    gather_parts,
    get_dist_info,
    samples_of_rank,
    watch_failures,
    without_buffer_sync,
)

from .joining import first_samples, join_ranks, leaves
from .progress import progress_over
from .testing import predict, size_of_set, target_of

_WHAT = "updating metrics"


class StreamingMetric(Protocol):
    """A metric that is updated batch by batch, such as those of torchmetrics."""

    def update(self, outputs: Any, targets: Any) -> Any:
        """Take in the outputs of the model for a batch, and the batch's targets."""

    def compute(self) -> Any:
        """The value so far: a number, or a dict of values by name."""

    def reset(self) -> Any:
        """Start anew."""


class SyncsMetric(Protocol):
    """A metric that can combine its state over ranks, on the device.

    Those of torchmetrics do it by themselves. The batches of any other metric are sent to rank 0,
    one after the other, where it is updated for all ranks.
    """

    def sync(self) -> Any:
        """Replace the state by that of all ranks together; called on all ranks, before
        ``compute``."""


class StreamingMetrics:
    """One metric or several, by name.

    Args:
        metrics: one metric, or a dict of them.
    """

    def __init__(self, metrics: StreamingMetric | Mapping[str, StreamingMetric]) -> None:
        self._is_one = not isinstance(metrics, Mapping)
        self._metrics: dict[str, Any] = (
            {type(metrics).__name__: metrics} if not isinstance(metrics, Mapping) else {**metrics}
        )

    @property
    def can_sync(self) -> bool:
        """Whether all of them can combine their states over ranks."""
        return all(_is_torchmetric(m) or hasattr(m, "sync") for m in self._metrics.values())

    def reset(self) -> None:
        for metric in self._metrics.values():
            metric.reset()

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in a batch; metrics that are modules, and targets, move to the outputs' device."""
        device = next((each.device for each in leaves(outputs) if isinstance(each, Tensor)), None)
        for metric in self._metrics.values():
            if device is not None and isinstance(metric, nn.Module):
                metric.to(device)
            metric.update(outputs, targets if device is None else _moved(targets, device))

    def compute(self, all_ranks: bool) -> dict[str, Any]:
        """The values by name.

        A metric whose value is a dict gives each of its entries; behind the metric's own name where
        there are several metrics.

        Args:
            all_ranks: whether to combine the states of all ranks first.
        """
        values: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            with _synchronized(metric, all_ranks):
                value = metric.compute()
            if not isinstance(value, Mapping):
                values[name] = value
            else:
                front = "" if self._is_one else f"{name}_"
                values |= {f"{front}{key}": each for key, each in value.items()}
        return values

    def keys(self) -> list[str]:
        """The names of the metrics, or of those in a single collection of them."""
        if not self._is_one:
            return list(self._metrics)
        (metric,) = self._metrics.values()
        names = getattr(metric, "keys", None)
        return list(map(str, names())) if callable(names) else []


def streaming_metrics(metrics: Any) -> StreamingMetrics | None:
    """The metrics that EvalHook was given, if they are updated batch by batch; None for a function.

    Raises:
        TypeError: it is neither, or lacks a method.
    """
    if isinstance(metrics, Mapping) and callable(metrics):
        return None
    several = metrics if isinstance(metrics, Mapping) else {"metrics": metrics}
    if isinstance(metrics, Mapping) and not metrics:
        raise TypeError("EvalHook: metrics must be callable or a dict of metrics, which is empty")
    streaming = [_is_streaming(name, metric) for name, metric in several.items()]
    if isinstance(metrics, Mapping) and not all(streaming):
        names = [name for name, each in zip(several, streaming, strict=True) if not each]
        raise TypeError(
            f"EvalHook: each of several metrics must have update(outputs, targets), compute() and "
            f"reset(), but {names} have not: give one function that returns all scores instead"
        )
    return StreamingMetrics(metrics) if all(streaming) else None


@torch.no_grad()
def stream(model: nn.Module, data_loader: Iterable[Any], metrics: StreamingMetrics) -> Any:
    """Run the model over a loader and compute metrics of it.

    Args:
        model: as for `single_gpu_test`; it too stays in evaluation mode.
        data_loader: with batches as for `collect_predictions`.
        metrics: reset before and after.

    Returns:
        Their values by name.

    Raises:
        ValueError: the loader yields no batches.
        KeyError: a batch is a dict without ``target``.
    """
    model.eval()
    metrics.reset()
    empty = True
    with without_buffer_sync(model), progress_over(data_loader) as batches:
        for batch in batches:
            metrics.update(predict(model, batch), target_of(model, batch))
            empty = False
    _check_not_empty(not empty)
    values = metrics.compute(all_ranks=False)
    metrics.reset()
    return values


@torch.no_grad()
def stream_on_all_ranks(model: nn.Module, data_loader: Any, metrics: StreamingMetrics) -> Any:
    """Run the model over this rank's part of a test set and compute metrics of all of it.

    To be called on all ranks. If it fails on one, it fails on all. Samples that the sampler has
    repeated do not count.

    Args:
        model: as for `stream`.
        data_loader: as for `multi_gpu_test`, but that its sampler may shuffle.
        metrics: reset before and after. Those that cannot combine their states over ranks are
            updated on rank 0, with the batches of all ranks in the order of the set.

    Returns:
        Their values by name, at least on rank 0.

    Raises:
        TypeError: the loader has no dataset with a length.
        ValueError: no rank has a batch, or the ranks do not have as many samples as a
            ``DistributedSampler`` gives them.
        KeyError: a batch is a dict without ``target``.
        RuntimeError: it failed on another rank.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return stream(model, data_loader, metrics)
    update = _update_each if metrics.can_sync else _update_on_rank_0
    with without_buffer_sync(model):
        seen = update(model, data_loader, metrics)
    lengths = all_gather_objects(seen)
    _check_not_empty(any(lengths))
    check_lengths(lengths, size_of_set(data_loader))
    if metrics.can_sync:
        values = metrics.compute(all_ranks=True)
    else:
        values = metrics.compute(all_ranks=False) if rank == 0 else {}
    metrics.reset()
    return values


def _update_each(model: nn.Module, data_loader: Any, metrics: StreamingMetrics) -> int:
    """Update the metrics of each rank with its samples; returns their number."""
    rank, world_size = get_dist_info()
    seen = 0
    with watch_failures(_WHAT) as check:
        own = samples_of_rank(rank, world_size, size_of_set(data_loader))
        model.eval()
        metrics.reset()
        with progress_over(data_loader) as batches:
            for batch in batches:
                check()
                outputs, targets = predict(model, batch), target_of(model, batch)
                count = _count(outputs)
                new = min(count, own - seen)
                seen += count
                if 0 < new < count:
                    outputs, targets = first_samples(outputs, new), first_samples(targets, new)
                if new > 0:
                    metrics.update(outputs, targets)
    return seen


def _update_on_rank_0(model: nn.Module, data_loader: Any, metrics: StreamingMetrics) -> int:
    """Update the metrics of rank 0 with the samples of all; returns the number of this rank's."""
    seen = done = 0
    with fail_together(_WHAT):
        size = size_of_set(data_loader)
        model.eval()
        metrics.reset()
        batches = iter(data_loader)
    more = True
    while more:
        part = None
        with fail_together(_WHAT):
            batch = next(batches, None)
            if batch is not None:
                part = predict(model, batch), target_of(model, batch)
                seen += _count(part[0])
        parts = gather_parts(part)
        with fail_together(_WHAT):
            if parts is not None and any(each is not None for each in parts):
                given = [each for each in parts if each is not None]
                total = sum(_count(outputs) for outputs, _ in given)
                new = min(total, size - done)
                done += total
                if new > 0:
                    columns = [
                        [[] if each is None else [each[n]] for each in parts] for n in (0, 1)
                    ]
                    metrics.update(*(join_ranks(column, new) for column in columns))
        more = broadcast_object(parts is not None and any(each is not None for each in parts))
    return seen


def _is_streaming(name: str, metric: Any) -> bool:
    """Whether a metric has ``update``, ``compute`` and ``reset``.

    Raises:
        TypeError: it lacks one of them, or is a class; or it is no function either.
    """
    missing = [
        each for each in ("update", "compute", "reset") if not callable(getattr(metric, each, None))
    ]
    if isinstance(metric, type) and not missing:
        raise TypeError(f"EvalHook: {name} is the class {metric.__name__}: give an object of it")
    if not missing:
        return True
    if len(missing) < 3 and not callable(metric):
        raise TypeError(
            f"EvalHook: {name} must be callable, or have update(outputs, targets), compute() and "
            f"reset(); {type(metric).__name__} lacks {', '.join(missing)}"
        )
    if not callable(metric):
        raise TypeError(f"EvalHook: {name} must be callable, not {metric!r}")
    return False


def _torchmetrics() -> Any:
    """The module, if it is imported; if it is not, nothing can be a metric of it."""
    return sys.modules.get("torchmetrics")


def _is_torchmetric(metric: Any) -> bool:
    module = _torchmetrics()
    return module is not None and isinstance(metric, (module.Metric, module.MetricCollection))


@contextlib.contextmanager
def _synchronized(metric: Any, all_ranks: bool) -> Iterator[None]:
    """A context in which ``compute`` gives the value of all ranks, or of this one alone."""
    if not _is_torchmetric(metric):
        if all_ranks:
            metric.sync()
        yield
        return
    parts = [each for each in metric.modules() if isinstance(each, _torchmetrics().Metric)]
    before = [each.distributed_available_fn for each in parts]
    for each in parts:
        each.distributed_available_fn = lambda: all_ranks
        # They synchronize themselves in `compute`, unless told not to when they were made.
        if all_ranks and not each.sync_on_compute:
            each.sync()
    try:
        yield
    finally:
        for each, function in zip(parts, before, strict=True):
            each.distributed_available_fn = function


def _count(outputs: Any) -> int:
    """The number of samples in what the model gave for a batch.

    Raises:
        ValueError: it has one value for the whole batch.
    """
    first = next(leaves(outputs), None)
    if isinstance(first, Tensor) and first.ndim == 0:
        raise ValueError(
            "over several ranks metrics need outputs with an entry per sample, but the model gives "
            "one value for the whole batch"
        )
    return 0 if first is None else len(first)


def _moved(targets: Any, device: torch.device) -> Any:
    if isinstance(targets, Tensor):
        return targets.to(device)
    if isinstance(targets, Mapping):
        return {name: _moved(value, device) for name, value in targets.items()}
    if type(targets) in (list, tuple):
        return type(targets)(_moved(value, device) for value in targets)
    return targets


def _check_not_empty(has_batches: bool) -> None:
    if not has_batches:
        raise ValueError("the loader to evaluate on yields no batches")
