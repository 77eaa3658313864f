"""Averages of a model's tensors: buffers of it, which can be exchanged with what they average."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from hookrun.checkpoint import averages_of_model, begin_averages, free_name
from hookrun.core.interrupts import uninterrupted
from hookrun.distributed import plain_name, unwrap_model
from hookrun.ops import convert_, ema_update_, swap_

from ..optimizer.masters import LOW_PRECISION, master_pairs, parameters_of


@dataclass
class Averaged:
    """A tensor of the model and its average.

    Attributes:
        tensor: the parameter or buffer.
        average: a buffer of the model; fp32 where the tensor is fp16 or bf16.
        source: what is averaged: the tensor, or its fp32 master where it has one.
    """

    tensor: Tensor
    average: Tensor
    source: Tensor


class Averages:
    """Averages of all parameters of a model, and of its buffers if asked for.

    Those that the model has of an earlier run stay as they are, and its record of them.

    Args:
        model: the model, possibly in wrappers; the averages become its buffers.
        names: the averages' names by those of the tensors, of an earlier run; new ones are added.
        with_buffers: whether floating-point buffers are averaged too.
        device: where the averages are kept; None for where their tensors are.

    Attributes:
        record: what the model says of them, such as whether they are swapped.
        by_name: the pairs by the plain names of the tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        names: dict[str, str],
        with_buffers: bool = False,
        device: torch.device | None = None,
    ) -> None:
        inner: nn.Module = unwrap_model(model)
        self.record = begin_averages(inner)
        own = self.record.buffers  # another run takes them again
        tensors = _named_tensors(inner, own if with_buffers else None)
        if not own or not names.keys() <= tensors.keys():
            names.clear()  # another model than in the run before
        taken = {name for name, _ in inner.named_buffers()} - own | set(names.values())

        def is_taken(name: str) -> bool:
            return name in taken or (hasattr(inner, name) and name not in own)

        for name in tensors.keys() - names.keys():
            names[name] = ""  # in the order of the model:
        for name in [name for name in tensors if not names[name]]:
            names[name] = free_name(f"ema_{name.replace('.', '_')}", is_taken)
            taken.add(names[name])
            own.add(names[name])
        self.by_name: dict[str, Averaged] = {}
        for name, tensor in tensors.items():
            average = _registered(inner, names[name], tensor, device)
            self.by_name[name] = Averaged(tensor, average, tensor)
        self._pairs = [pair for pair in self.by_name.values() if pair.tensor.is_floating_point()]
        self.record.names = dict(names)
        _keep_from_ddp(model, own)

    def use_masters(self, optimizers: Iterable[Any]) -> None:
        """Average the fp32 masters of parameters that have some."""
        known = [each for each in optimizers if isinstance(each, Optimizer)]
        masters = {id(tensor): master for master, tensor in master_pairs(known)}
        for pair in self._pairs:
            pair.source = masters.get(id(pair.tensor), pair.source)

    def for_step(self, optimizers: Iterable[Any]) -> dict[int, Tensor]:
        """Averages that fused steps of these can move, by the ``id`` of what they step."""
        known = [each for each in optimizers if isinstance(each, Optimizer)]
        stepped = {id(entry) for optimizer in known for entry in parameters_of(optimizer)}
        return {
            id(pair.source): pair.average
            for pair in self._pairs
            if id(pair.source) in stepped and pair.average.device == pair.source.device
        }

    def update(self, momentum: float, moved: Mapping[int, Tensor] | None = None) -> None:
        """Move the averages towards what they average, but for those that a step has moved."""
        pairs = self._pairs if not moved else [p for p in self._pairs if id(p.source) not in moved]
        if pairs:
            ema_update_([p.average for p in pairs], [p.source for p in pairs], momentum)

    def swap(self) -> None:
        """Exchange the model's tensors and the averages; twice is the identity, bit for bit.

        Ctrl-C waits: the record says at every instant which of the two sits where.
        """
        uninterrupted(self._swap)

    @torch.no_grad()
    def _swap(self) -> None:
        whole = [p for p in self._pairs if p.source.dtype == p.average.dtype]
        swap_([p.source for p in whole], [p.average for p in whole])
        mastered = [p for p in whole if p.source is not p.tensor]
        convert_([p.tensor for p in mastered], [p.source for p in mastered])
        for index, pair in enumerate(self._pairs):
            if pair.source.dtype != pair.average.dtype:
                self._swap_rounding(index, pair)
        self.record.note_swap(pair.tensor for pair in self._pairs)

    def _swap_rounding(self, index: int, pair: Averaged) -> None:
        """The tensor's dtype rounds the average, so the average itself waits aside."""
        if self.record.swapped:
            average = self.record.exact.pop(index, None)
            if average is None:  # a file of MMCV's, whose averages have the tensor's dtype
                average = pair.tensor.clone()
            pair.tensor.copy_(pair.average)
            pair.average.copy_(average)
        else:
            self.record.exact[index] = pair.average.clone()
            pair.average.copy_(pair.tensor)
            pair.tensor.copy_(self.record.exact[index])

    @torch.no_grad()
    def load(self, entries: Mapping[str, Tensor]) -> list[str]:
        """Take over averages; returns the names of tensors that have none there.

        These start from what is averaged.

        Args:
            entries: the averages by the tensors' names.

        Raises:
            ValueError: one has not its tensor's shape. Nothing is changed.
        """
        for name, pair in self.by_name.items():
            found = entries.get(name, pair.tensor)
            if found.shape != pair.tensor.shape:
                raise ValueError(
                    f"EMAHook: the resumed checkpoint has shape {tuple(found.shape)} as the "
                    f"average {self.record.names[name]!r} of {name!r}, whose shape is "
                    f"{tuple(pair.tensor.shape)}"
                )
        for name, pair in self.by_name.items():
            pair.average.copy_(entries.get(name, pair.source))
        return [name for name in self.by_name if name not in entries]

    def restart(self) -> None:
        """Start the averages from what the model holds now."""
        uninterrupted(self._restart)

    @torch.no_grad()
    def _restart(self) -> None:
        for pair in self._pairs:
            pair.average.copy_(pair.source)
        self.record.swapped, self.record.exact = False, {}

    def changed_since_swap(self) -> bool:
        """Whether someone wrote the model's tensors since the latest swap."""
        return self.record.changed_since_swap([pair.tensor for pair in self._pairs])

    def check(self, model: nn.Module) -> None:
        """Notice averages that are no buffers of the model any more.

        Raises:
            ValueError: the model has others, as after ``model.to(device)``.
        """
        buffers = unwrap_model(model)._buffers
        own = {id(each) for each in buffers.values()}
        for name, pair in self.by_name.items():
            if id(pair.average) not in own:
                raise ValueError(
                    f"EMAHook: the model's average of {name!r} is another tensor than when the run "
                    "began. Move or convert a model before runner.run()."
                )


def averaged_tensors(model: nn.Module, with_buffers: bool) -> dict[str, Tensor]:
    """What of a model is averaged, by plain names.

    Args:
        model: possibly in wrappers.
        with_buffers: whether floating-point buffers are averaged too.
    """
    inner: nn.Module = unwrap_model(model)
    record = averages_of_model(inner)
    own = set() if record is None else record.buffers
    return _named_tensors(inner, own if with_buffers else None)


def _named_tensors(model: nn.Module, own: set[str] | None) -> dict[str, Tensor]:
    """Parameters, and unless ``own`` is None floating-point buffers that are no averages."""
    tensors: dict[str, Tensor] = {
        plain_name(model, name): parameter for name, parameter in model.named_parameters()
    }
    if own is not None:
        for name, buffer in model.named_buffers():
            if name not in own and buffer.is_floating_point():
                tensors[plain_name(model, name)] = buffer
    return tensors


def _registered(model: nn.Module, name: str, tensor: Tensor, device: torch.device | None) -> Tensor:
    """The model's buffer of that name, made from the tensor if there is none."""
    dtype = torch.float32 if tensor.dtype in LOW_PRECISION else tensor.dtype
    wanted = {"device": tensor.device if device is None else device, "dtype": dtype}
    buffer = model._buffers.get(name)
    if buffer is None:
        buffer = tensor.detach().to(**wanted, copy=True)  # type: ignore[call-overload]
    elif buffer.device != wanted["device"] or buffer.dtype != dtype:
        buffer = buffer.to(**wanted)  # type: ignore[call-overload]
    model.register_buffer(name, buffer)
    assert buffer is not None
    return buffer


def _keep_from_ddp(model: nn.Module, names: set[str]) -> None:
    """Averages are equal in all processes; DDP need not send them with each forward pass."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.parameters_to_ignore.update(names, {f"_orig_mod.{each}" for each in names})
