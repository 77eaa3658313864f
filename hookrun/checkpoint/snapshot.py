"""Copies of a run's state at one moment, taken as fast as memory can be copied."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hookrun.ops.convert import copy_bits_

_Copies = dict[tuple[Any, ...], list[Tensor]]  # by all that a copy's memory and layout depend on
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

    def move(tensor: Tensor) -> Tensor:
        _refuse_freed(tensor)
        return tensor if tensor.device.type == "cpu" else tensor.cpu()

    return map_tensors(tree, move)


class Snapshots:
    """Takes copies of trees of tensors, on the CPU.

    Memory of copies that are no longer needed is used again, which is faster than new memory; that
    for a GPU's tensors is pinned. Tensors that share memory share it in the copy too.
    """

    def __init__(self) -> None:
        self._free: _Copies = {}
        self._used: _Copies = {}

    @torch.inference_mode(False)  # memory made in inference mode could not be written outside of it
    def take(self, tree: Any) -> tuple[Any, Callable[[], None]]:
        """Copy a tree of plain types and tensors.

        Nothing waits for a GPU: it copies after what it has been told before, and before what it
        will be told from now on.

        Returns:
            (copy, arrived); the tensors in the copy hold their values when ``arrived()`` returns.

        Raises:
            ValueError: a tensor's memory has been freed.
        """
        copying = _Copying(self._make_room)
        copied = map_tensors(tree, copying.add)
        return copied, copying.start()

    def recycle(self) -> None:
        """Say that the copies so far are no longer needed."""
        self._free, self._used = self._used, {}

    def forget(self) -> None:
        """Give the memory back."""
        self._free, self._used = {}, {}

    def _make_room(self, tensor: Tensor, size: int) -> Tensor:
        """Memory of so many bytes, laid out as the tensor is, which no other copy uses."""
        pinned = not tensor.is_cpu
        layout = (size, pinned, tensor.dtype, *_layout(tensor))
        free = self._free.get(layout)
        if free:
            room = free.pop()
        else:
            memory = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            room = _like(tensor, memory)
        self._used.setdefault(layout, []).append(room)
        return room


class _Copying:
    """One copy at work: which memory it has met, and where that goes."""

    def __init__(self, make_room: Callable[[Tensor, int], Tensor]) -> None:
        self._make_room = make_room
        # By the address and the bytes of what they are copies of: memory from outside of torch may
        # be in two storages, of which one ends before the other.
        self._copies: dict[tuple[int, int], Tensor] = {}
        self._sources: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._devices: set[torch.device] = set()

    def add(self, tensor: Tensor) -> Tensor:
        """What will be the tensor's copy."""
        if not _is_simple(tensor):
            _refuse_freed(tensor)
            tensor = tensor.detach()
            return tensor.cpu().clone() if tensor.device.type == "cpu" else tensor.cpu()
        storage = tensor.untyped_storage()
        place = storage.data_ptr(), storage.nbytes()
        if place in self._copies:
            return _like(tensor, self._copies[place])
        copy = self._make_room(tensor, storage.nbytes())
        self._copies[place] = copy
        # The whole storage is copied. Where the tensor is all of it, as most are, no other view of
        # it is needed, and to make one takes longer than to copy a small tensor.
        whole = tensor.is_contiguous() and tensor.nbytes == storage.nbytes()
        self._sources.append(tensor if whole else _bytes_of(tensor))
        self._targets.append(copy if whole else _bytes_of(copy))
        if not tensor.is_cpu:
            self._devices.add(tensor.device)
        return copy

    @torch.no_grad()
    def start(self) -> Callable[[], None]:
        """Copy; returns a function that waits until every GPU has done so."""
        pairs = list(zip(self._targets, self._sources, strict=True))
        on_cpu = [pair for pair in pairs if pair[1].is_cpu]
        if on_cpu:
            copy_bits_(*zip(*on_cpu, strict=True))
        for target, source in pairs:
            if not source.is_cpu:
                target.copy_(source, non_blocking=True)
        return self._arrival()

    def _arrival(self) -> Callable[[], None]:
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


def _refuse_freed(tensor: Tensor) -> None:
    """Refuse a tensor whose elements are nowhere: copying it would crash, and its file not load.

    Raises:
        ValueError: it is one.
    """
    if (
        type(tensor) in _PLAIN_KINDS
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
    """A tensor laid out as the first is, on the storage of the second."""
    return torch.empty(0, dtype=tensor.dtype, device="cpu").set_(
        memory.untyped_storage(), *_layout(tensor)
    )


def _bytes_of(tensor: Tensor) -> Tensor:
    """All of a tensor's storage."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage())
