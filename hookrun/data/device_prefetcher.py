"""Copying batches to the device while it computes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hookrun.core.nested import map_tensors


class DevicePrefetcher:
    """A data loader whose batches are on the device, each copied while the previous one is used.

    CPU tensors, at any depth of dicts, lists and tuples, are pinned and copied on a side stream,
    without making the host wait; everything else is passed on unchanged. The next batch is fetched
    from the loader before the current one is yielded; an error in fetching it is raised only when
    that batch is asked for. Where the device is a CPU, batches are passed on unchanged.

    All other attributes (``sampler``, ``dataset``, ``batch_size`` ...) are those of the loader.

    Args:
        loader: anything that can be iterated; it is not changed.
        device: where batches go; by default the current CUDA device, or the CPU where there is
            none.
        channels_last: whether copies with 4 dimensions get that memory format.

    Raises:
        TypeError: the loader cannot be iterated.
        ValueError: a device that is neither a CPU nor a CUDA device.

    Examples:
        >>> batches = DevicePrefetcher([{"x": torch.ones(2)}], device="cpu")
        >>> len(batches), [batch["x"].sum() for batch in batches]
        (1, [tensor(2.)])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: str | int | torch.device | None = None,
        channels_last: bool = False,
    ) -> None:
        if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
            raise TypeError(f"DevicePrefetcher: the loader cannot be iterated: {loader!r}")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.loader = loader
        self.device = torch.device(device)
        if self.device.type not in ("cuda", "cpu"):
            raise ValueError(
                f"DevicePrefetcher copies batches to a CUDA device or the CPU, not to {device!r}"
            )
        self.channels_last = channels_last

    @property
    def _streams(self) -> Any:
        """``torch.cuda``; in tests also ``torch.cpu``, whose streams do nothing."""
        return torch.get_device_module(self.device)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]  # raises TypeError if it has none

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):  # asked for while this is being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader) if self.device.type == "cpu" else self._ahead()

    def _ahead(self) -> Iterator[Any]:
        # iter() is called now, not when the first batch is asked for.
        return self._fetched_ahead(iter(self.loader))

    def _fetched_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        side = self._streams.Stream(self.device)
        ahead = self._fetch(batches, side)
        while True:
            batch, error = ahead
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            using = self._streams.current_stream(self.device)
            using.wait_stream(side)
            map_tensors(functools.partial(_record_use, using), batch)
            ahead = self._fetch(batches, side)
            yield batch
            del batch  # so that its memory is freed as soon as the run drops it

    def _fetch(
        self, batches: Iterator[Any], side: torch.Stream
    ) -> tuple[Any, BaseException | None]:
        """The next batch, whose copy has been started; or the exception that came instead."""
        try:
            batch = next(batches)
        except Exception as error:
            return None, error
        with self._streams.stream(side):
            return map_tensors(self._move, batch), None

    def _move(self, tensor: Tensor) -> Tensor:
        if tensor.device.type != "cpu":
            return tensor
        pinned = tensor if tensor.is_pinned() else tensor.pin_memory()
        moved = pinned.to(self.device, non_blocking=True)
        if self.channels_last and moved.dim() == 4:  # on the device, where it is fast
            moved = moved.contiguous(memory_format=torch.channels_last)
        return moved


def _record_use(stream: torch.Stream, tensor: Tensor) -> Tensor:
    """Keep the allocator from reusing a tensor's memory before the stream is done with it."""
    if tensor.is_cuda:
        tensor.record_stream(stream)
    return tensor
