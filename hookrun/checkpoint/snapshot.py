"""Snapshots: copies of the state of a run on the CPU, taken as fast as memory can be copied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hookrun.ops.convert import copy_bits_

_Copies = dict[tuple[Any, ...], list[Tensor]]  # by size, pinning, dtype and layout
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def map_tensors(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a tree of dicts, lists and tuples with ``change`` applied to its tensors."""
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
    """A copy of the tree with all tensors on the CPU; those there already are not copied."""

    def move(tensor: Tensor) -> Tensor:
        _refuse_freed(tensor)
        return tensor if tensor.device.type == "cpu" else tensor.cpu()

    return map_tensors(tree, move)


class Snapshots:
    """Takes copies of trees of tensors, on the CPU.

    Memory of recycled copies is reused, which is faster than allocating; that for copies of GPU
    tensors is pinned. Tensors that share memory share it in the copy too.
    """

    def __init__(self) -> None:
        self._free: _Copies = {}
        self._used: _Copies = {}

    @torch.inference_mode(False)  # tensors created in it could not be written later
    def take(self, tree: Any) -> tuple[Any, Callable[[], None]]:
        """Copy a tree of plain types and tensors.

        The host does not wait for a GPU: copies are enqueued on its current stream, after the work
        so far and before any later work.

        Returns:
            (copy, synchronize); the copy is complete when ``synchronize()`` has returned.

        Raises:
            ValueError: a tensor's memory has been freed.
        """
        copying = _Copying(self._allocate)
        copied = map_tensors(tree, copying.add)
        return copied, copying.start()

    def recycle(self) -> None:
        """Allow reusing the memory of all copies so far."""
        self._free, self._used = self._used, {}

    def release(self) -> None:
        """Free the memory."""
        self._free, self._used = {}, {}

    def _allocate(self, tensor: Tensor, size: int) -> Tensor:
        """A tensor with the layout of ``tensor``, on ``size`` bytes that no other copy uses."""
        pinned = not tensor.is_cpu
        layout = (size, pinned, tensor.dtype, *_layout(tensor))
        free = self._free.get(layout)
        if free:
            copy = free.pop()
        else:
            memory = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            copy = _like(tensor, memory)
        self._used.setdefault(layout, []).append(copy)
        return copy


class _Copying:
    """One copy in progress: the storages found so far, and their copies."""

    def __init__(self, allocate: Callable[[Tensor, int], Tensor]) -> None:
        self._allocate = allocate
        # By address and size of the storage. Both, because two storages around memory from outside
        # torch can begin at one address and differ in size.
        self._copies: dict[tuple[int, int], Tensor] = {}
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._devices: set[torch.device] = set()

    def add(self, tensor: Tensor) -> Tensor:
        """The tensor's copy, which has its values after `start`."""
        if not _is_simple(tensor):
            _refuse_freed(tensor)
            tensor = tensor.detach()
            return tensor.cpu().clone() if tensor.device.type == "cpu" else tensor.cpu()
        storage = tensor.untyped_storage()
        key = storage.data_ptr(), storage.nbytes()
        if key in self._copies:
            return _like(tensor, self._copies[key])
        copy = self._allocate(tensor, storage.nbytes())
        self._copies[key] = copy
        # All of the storage is copied. Most tensors span theirs and can be copied directly; making
        # a view of the bytes would take longer than copying a small tensor.
        spans_storage = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
        self._sources.append(tensor if spans_storage else _bytes_of(tensor))
        self._targets.append(copy if spans_storage else _bytes_of(copy))
        if not tensor.is_cpu:
            self._devices.add(tensor.device)
        return copy

    @torch.no_grad()
    def start(self) -> Callable[[], None]:
        """Start copying; returns a function that waits until every GPU has finished."""
        pairs = list(zip(self._targets, self._sources, strict=True))
        on_cpu = [pair for pair in pairs if pair[1].is_cpu]
        if on_cpu:
            copy_bits_(*zip(*on_cpu, strict=True))
        for target, source in pairs:
            if not source.is_cpu:
                target.copy_(source, non_blocking=True)
        return self._make_synchronize()

    def _make_synchronize(self) -> Callable[[], None]:
        """A function that waits until every GPU has finished the work enqueued so far."""
        events = []
        for device in self._devices:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
            event.record(torch.cuda.current_stream(device))
            events.append(event)

        def synchronize() -> None:
            for event in events:
                event.synchronize()

        return synchronize


def _is_simple(tensor: Tensor) -> bool:
    """Whether a tensor consists of nothing but bytes, shape and strides."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and tensor.untyped_storage().nbytes() > 0
    )


def _refuse_freed(tensor: Tensor) -> None:
    """Refuse a tensor whose storage was freed: copying it would crash, and its file not load.

    Raises:
        ValueError: its storage was freed.
    """
    if (
        type(tensor) in _PLAIN_TYPES
        and tensor.layout is torch.strided
        and tensor.device.type in ("cpu", "cuda")
        and tensor.numel() > 0
        and tensor.untyped_storage().nbytes() == 0
    ):
        raise ValueError(
            f"a checkpoint cannot hold a tensor of shape {tuple(tensor.shape)} that has no memory: "
            "its storage was resized to 0"
        )


def _layout(tensor: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return int(tensor.storage_offset()), tensor.size(), tensor.stride()


def _like(tensor: Tensor, memory: Tensor) -> Tensor:
    """A tensor with the layout of ``tensor`` on the storage of ``memory``."""
    return torch.empty(0, dtype=tensor.dtype, device="cpu").set_(
        memory.untyped_storage(), *_layout(tensor)
    )


def _bytes_of(tensor: Tensor) -> Tensor:
    """All of a tensor's storage, as bytes."""
    data = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return data.set_(tensor.untyped_storage())
