"""Moving averages of a model's tensors, kept as buffers of the model, and swapping the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from hookrun.checkpoint import averages_of_model, begin_averages, free_name, shard_like
from hookrun.core.interrupts import uninterrupted
from hookrun.distributed import fsdp_modules, plain_names, reshard, unwrap_model
from hookrun.ops import convert_, ema_update_, swap_

from ..optimizer.masters import LOW_PRECISION, master_pairs, parameters_of


@dataclass
class AveragedTensor:
    """A tensor of the model and its average.

    Attributes:
        tensor: the parameter or buffer.
        average: a buffer of the model; fp32 where the tensor is fp16 or bf16.
        source: what is averaged: the fp32 master of the tensor if there is one, else the tensor.
    """

    tensor: Tensor
    average: Tensor
    source: Tensor


class Averages:
    """Averages of all parameters of a model and, on request, of its floating-point buffers.

    If the model has averages of an earlier run, their values and their record are kept.

    Args:
        model: the model, possibly wrapped; the averages are registered as its buffers.
        names: names of averages by the names of their tensors, from an earlier run. It is updated
            in place.
        with_buffers: whether floating-point buffers are averaged too.
        device: the device of the averages; None for the device of each tensor.

    Attributes:
        record: the state that the model keeps of its averages, such as whether they are swapped.
        by_name: the tensors and their averages, by the names of the tensors without the prefixes of
            wrappers.
    """

    def __init__(
        self,
        model: nn.Module,
        names: dict[str, str],
        with_buffers: bool = False,
        device: torch.device | None = None,
    ) -> None:
        inner: nn.Module = unwrap_model(model)
        self._sharded = fsdp_modules(inner)
        self.record = begin_averages(inner)
        own = self.record.buffers  # of an earlier run too: they are used again
        tensors = _named_tensors(inner, own if with_buffers else None)
        if not own or not names.keys() <= tensors.keys():
            names.clear()  # the names are those of another model
        buffers = set(plain_names(inner, dict(inner.named_buffers())).values())
        taken = buffers - own | set(names.values())

        def is_taken(name: str) -> bool:
            return name in taken or (hasattr(inner, name) and name not in own)

        # In the order of the model, so that the same names collide in each run.
        for name in tensors:
            names.setdefault(name, "")
        for name in [name for name in tensors if not names[name]]:
            names[name] = free_name(f"ema_{name.replace('.', '_')}", is_taken)
            taken.add(names[name])
            own.add(names[name])
        self.by_name: dict[str, AveragedTensor] = {}
        for name, tensor in tensors.items():
            average = _register_average(inner, names[name], tensor, device)
            self.by_name[name] = AveragedTensor(tensor, average, tensor)
        self._pairs = [pair for pair in self.by_name.values() if pair.tensor.is_floating_point()]
        self.record.names = dict(names)
        _exclude_from_ddp(model, own)

    def use_masters(self, optimizers: Iterable[Any]) -> None:
        """Average the fp32 masters of the parameters that have one, instead of the parameters."""
        known = [each for each in optimizers if isinstance(each, Optimizer)]
        masters = {id(tensor): master for master, tensor in master_pairs(known)}
        for pair in self._pairs:
            pair.source = masters.get(id(pair.tensor), pair.source)

    def for_step(self, optimizers: Iterable[Any]) -> dict[int, Tensor]:
        """The averages that fused steps of these optimizers can update.

        Returns:
            The averages by the ``id`` of the stepped tensor: the parameter or its fp32 master.
        """
        known = [each for each in optimizers if isinstance(each, Optimizer)]
        stepped = {id(entry) for optimizer in known for entry in parameters_of(optimizer)}
        return {
            id(pair.source): pair.average
            for pair in self._pairs
            if id(pair.source) in stepped and pair.average.device == pair.source.device
        }

    def besides(self, moved: Mapping[int, Tensor]) -> list[AveragedTensor]:
        """Those that a step does not update which updates the ones of `for_step`."""
        return [pair for pair in self._pairs if id(pair.source) not in moved]

    def update(self, momentum: float, pairs: list[AveragedTensor] | None = None) -> None:
        """Update the averages.

        Args:
            momentum: the weight of the current values.
            pairs: which of them; None for all.
        """
        pairs = self._pairs if pairs is None else pairs
        if pairs:
            ema_update_([p.average for p in pairs], [p.source for p in pairs], momentum)

    def swap(self) -> None:
        """Swap the model's tensors and the averages; swapping twice restores both bit for bit.

        Signals such as Ctrl-C are handled afterwards, so that tensors and record always agree.
        """
        uninterrupted(self._swap)

    @torch.no_grad()
    def _swap(self) -> None:
        reshard(self._sharded)  # evaluation may leave full copies of what is swapped
        same_dtype = [p for p in self._pairs if p.source.dtype == p.average.dtype]
        swap_([p.source for p in same_dtype], [p.average for p in same_dtype])
        with_master = [p for p in same_dtype if p.source is not p.tensor]
        convert_([p.tensor for p in with_master], [p.source for p in with_master])
        for index, pair in enumerate(self._pairs):
            if pair.source.dtype != pair.average.dtype:
                self._swap_rounding(index, pair)
        self.record.note_swap(pair.tensor for pair in self._pairs)

    def _swap_rounding(self, index: int, pair: AveragedTensor) -> None:
        """Swap a tensor whose dtype rounds the average; the exact average is kept in the record."""
        if self.record.swapped:
            average = self.record.exact.pop(index, None)
            if average is None:  # of a checkpoint by MMCV, whose averages have the tensor's dtype
                average = pair.tensor.clone()
            pair.tensor.copy_(pair.average)
            pair.average.copy_(average)
        else:
            self.record.exact[index] = pair.average.clone()
            pair.average.copy_(pair.tensor)
            pair.tensor.copy_(self.record.exact[index])

    @torch.no_grad()
    def load(self, entries: Mapping[str, Tensor]) -> list[str]:
        """Load averages from a checkpoint.

        Args:
            entries: the averages by the names of their tensors.

        Returns:
            The names of tensors that are not in ``entries``; their averages start from the current
            values.

        Raises:
            ValueError: the shape of an average is not that of its tensor. Nothing is changed.
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
            pair.average.copy_(shard_like(entries.get(name, pair.source), pair.average))
        return [name for name in self.by_name if name not in entries]

    def restart(self) -> None:
        """Set the averages to the current values of the model."""
        uninterrupted(self._restart)

    @torch.no_grad()
    def _restart(self) -> None:
        for pair in self._pairs:
            pair.average.copy_(pair.source)
        self.record.swapped, self.record.exact = False, {}

    def changed_since_swap(self) -> bool:
        """Whether the model's tensors have been written to since the latest swap."""
        return self.record.changed_since_swap([pair.tensor for pair in self._pairs])

    def check(self, model: nn.Module) -> None:
        """Check that the averages are still the buffers of the model.

        Raises:
            ValueError: a buffer is another tensor now, as after ``model.to(device)``.
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
    """The tensors of a model that are averaged, by their names without prefixes of wrappers.

    Args:
        model: the model, possibly wrapped.
        with_buffers: whether floating-point buffers are averaged too.
    """
    inner: nn.Module = unwrap_model(model)
    record = averages_of_model(inner)
    own = set() if record is None else record.buffers
    return _named_tensors(inner, own if with_buffers else None)


def _named_tensors(model: nn.Module, own: set[str] | None) -> dict[str, Tensor]:
    """The parameters and, unless ``own`` is None, floating-point buffers that are not averages.

    Args:
        model: the model without wrappers.
        own: the names of the buffers that are averages; None to leave out all buffers.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    if own is not None:
        for name, buffer in model.named_buffers():
            if name not in own and buffer.is_floating_point():
                tensors[name] = buffer
    return {plain: tensors[name] for name, plain in plain_names(model, tensors).items()}


def _register_average(
    model: nn.Module, name: str, tensor: Tensor, device: torch.device | None
) -> Tensor:
    """The model's buffer of that name; if there is none, a copy of the tensor is registered."""
    dtype = torch.float32 if tensor.dtype in LOW_PRECISION else tensor.dtype
    device = tensor.device if device is None else device
    buffer = model._buffers.get(name)
    if buffer is None:
        buffer = tensor.detach().to(device, dtype, copy=True)
    elif buffer.device != device or buffer.dtype != dtype:
        buffer = buffer.to(device, dtype)
    model.register_buffer(name, buffer)
    assert buffer is not None
    return buffer


def _exclude_from_ddp(model: nn.Module, names: set[str]) -> None:
    """Keep DDP from broadcasting the averages in each forward pass: all ranks have the same."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            module.parameters_to_ignore.update(names, {f"_orig_mod.{each}" for each in names})
