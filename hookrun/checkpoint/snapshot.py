"""Copies of a run's state at one moment, taken as fast as memory can be copied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_Buffers = dict[tuple[int, bool], list[Tensor]]  # by bytes, and whether they are pinned
_PLAIN_KINDS = (Tensor, torch.nn.Parameter)


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The tree of dicts, lists and tuples with its tensors changed; the caller's stays as it is."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        changed: Any = OrderedDict() if isinstance(tree, OrderedDict) else {}
        for key, value in tree.items():
            changed[key] = map_tensors(value, change)
        if hasattr(tree, "_metadata"):  # versions of a model's layers
            changed._metadata = tree._metadata
        return changed
    if isinstance(tree, (list, tuple)):
        items = [map_tensors(each, change) for each in tree]
        return items if isinstance(tree, list) else tuple(items)
    return tree


def on_cpu(tree: Any) -> Any:
    """The tree with tensors of other devices copied to the CPU; those on the CPU are the same."""
    return map_tensors(tree, lambda tensor: tensor if tensor.device.type == "cpu" else tensor.cpu())


class Snapshots:
    """Takes copies of trees of tensors, on the CPU.

    Memory of copies that are no longer needed is used again, which is faster than new memory; that
    for a GPU's tensors is pinned. Tensors that share memory share it in the copy too.
    """

    def __init__(self) -> None:
        self._free: _Buffers = {}
        self._used: _Buffers = {}

    def take(self, tree: Any) -> tuple[Any, Callable[[], None]]:
        """Copy a tree of plain types and tensors.

        Nothing waits for a GPU: it copies after what it has been told before, and before what it
        will be told from now on.

        Returns:
            (copy, arrived); the tensors in the copy hold their values when ``arrived()`` returns.
        """
        copying = _Copying(self._buffer)
        copied = map_tensors(tree, copying.copy)
        return copied, copying.arrival()

    def recycle(self) -> None:
        """Say that the copies so far are no longer needed."""
        self._free, self._used = self._used, {}

    def forget(self) -> None:
        """Give the memory back."""
        self._free, self._used = {}, {}

    def _buffer(self, size: int, pinned: bool) -> Tensor:
        """So many bytes, which no other copy uses."""
        free = self._free.get((size, pinned))
        buffer = free.pop() if free else torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        self._used.setdefault((size, pinned), []).append(buffer)
        return buffer


class _Copying:
    """One copy at work: which memory has been copied, and where to."""

    def __init__(self, make_buffer: Callable[[int, bool], Tensor]) -> None:
        self._make_buffer = make_buffer
        self._copies: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._devices: set[torch.device] = set()

    def copy(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not _is_simple(tensor):
            return tensor.cpu().clone() if tensor.device.type == "cpu" else tensor.cpu()
        storage = tensor.untyped_storage()
        key = (str(tensor.device), storage.data_ptr())
        if key not in self._copies:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            # The source stays referenced, so that no other memory can come to lie at its address.
            self._copies[key] = (self._copy_bytes(whole), whole)
        return torch.empty(0, dtype=tensor.dtype).set_(
            self._copies[key][0].untyped_storage(),
            tensor.storage_offset(),
            tensor.size(),
            tensor.stride(),
        )

    def _copy_bytes(self, source: Tensor) -> Tensor:
        pinned = source.device.type == "cuda"
        if pinned:
            self._devices.add(source.device)
        target = self._make_buffer(source.numel(), pinned)
        return target.copy_(source, non_blocking=pinned)

    def arrival(self) -> Callable[[], None]:
        """A function that waits until every GPU has copied what it was told."""
        events = []
        for device in self._devices:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(device))
            events.append(event)

        def arrived() -> None:
            for event in events:
                event.synchronize()

        return arrived


def _is_simple(tensor: Tensor) -> bool:
    """Whether a tensor is its bytes, shape and strides and nothing more."""
    return (
        type(tensor) in _PLAIN_KINDS
        and tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and tensor.untyped_storage().nbytes() > 0
    )
