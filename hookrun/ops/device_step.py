"""The optimizer phase on a device: two passes with a small decision between them, no waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import is_
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .backend import forced
from .checks import check_lists
from .clip_grad_norm import check_finite
from .device import declined, is_capturing, triton_kernels, why_not_on
from .device_rows import DeviceRows, addresses, why_not_rows, why_unknown
from .device_scale import DeviceScale
from .ema import check_ema
from .loss_scale import LossScale
from .norm import grad_norm
from .rows import Rows, collect

_TABLES = 8  # kept, for as many different sets of parameters with a gradient


class _Tables:
    """Tables of one set of parameters, and what the host sends at each step where it changed."""

    def __init__(self, optimizer: Any, rows: DeviceRows) -> None:
        self.rows = rows
        self.params = [p for group in optimizer.param_groups for p in group["params"]]
        self.groups = optimizer.param_groups
        self.state = optimizer.state
        self.partners: list[Sequence[Tensor] | None] = []
        control = triton_kernels().control
        self.line = control.LINE.value
        length = (1 + len(rows.rows.groups)) * self.line
        count = len(rows.rows.params)
        self.values = np.full(length, np.nan)  # of the settings that were sent
        self.addresses = np.zeros(count, dtype=np.int64)  # of the gradients, likewise
        sent = torch.empty(length + count, dtype=torch.int64, device=rows.device)
        self._sent = sent
        self.settings = sent[:length].view(torch.float64)
        self.grads = sent[length:]
        # For one capture, while which no memory can be pinned.
        self._spare: Tensor | None = _host_block(count, rows.device)
        self._captured: list[Any] = []  # what graphs read when they are replayed

    def send(self, values: npt.NDArray[np.float64], found: npt.NDArray[np.int64]) -> None:
        """Send the settings and the gradients' addresses if they changed: one copy."""
        begin = 0 if not np.array_equal(values, self.values) else len(values)
        moved = not np.array_equal(found, self.addresses)
        end = len(values) + len(found) if moved else len(values)
        if begin == end:
            return
        host = _host_block(end - begin, self.rows.device)
        everything = np.concatenate([values.view(np.int64), found])
        host.copy_(torch.from_numpy(everything[begin:end]))
        self._sent[begin:end].copy_(host, non_blocking=True)
        self.values = values
        if moved:
            self.rows.move_grads(found)
            self.addresses = found

    def send_captured(self, found: npt.NDArray[np.int64]) -> Tensor:
        """The gradients' addresses in memory that belongs to the graph being captured."""
        unit = triton_kernels().table.UNIT
        if ((found - self.addresses) % unit).any() or self._spare is None:
            raise RuntimeError(
                "FusedStep: this step cannot be captured into a CUDA graph: take a step outside "
                "before each capture, with gradients aligned as they will be inside"
            )
        self._spare.copy_(torch.from_numpy(found))
        place = torch.empty_like(self.grads)
        place.copy_(self._spare, non_blocking=True)
        self._captured += [self._spare, place, self.rows.table.chunks, self.rows.partials]
        self._spare = None
        return place

    def make_spare(self) -> None:
        if self._spare is None:
            self._spare = _host_block(len(self.addresses), self.rows.device)


def _host_block(count: int, device: torch.device) -> Tensor:
    """Memory that a copy to the device can read after the host has gone on.

    Torch's cache of pinned memory does not hand it out again before such a copy is done.
    """
    pinned = device.type == "cuda"
    return torch.empty(count, dtype=torch.int64, device="cpu", pin_memory=pinned)


class Wanted(NamedTuple):
    """What a step is to do besides the update, as things are when it is taken."""

    grad_clip: Mapping[str, Any] | None = None
    loss_scaler: LossScale | None = None
    update_scale: bool = True
    may_skip: bool = False
    skipped_steps: Any = 0
    model_params: Sequence[Tensor] | None = None
    ema: Sequence[Tensor] | None = None
    momentum: float = 0.0

    @property
    def needs_norm(self) -> bool:
        return self.grad_clip is not None or self.may_skip


class Taken(NamedTuple):
    """What a step left on the device: the norm if it was needed, the steps skipped so far."""

    grad_norm: Tensor | None
    skipped_steps: Any


class DeviceStep:
    """Takes steps where the parameters are on a device with kernels: one for each `FusedStep`."""

    def __init__(self, counts: dict[Tensor, tuple[Tensor, Tensor]] | None = None) -> None:
        self._tables: dict[Any, _Tables] = {}
        #: What SGD's state does not tell of the parameters: see `DeviceRows`.
        self.counts = {} if counts is None else counts
        self._control: Tensor | None = None
        self._skipped: Tensor | None = None
        self._captured: dict[int, _Tables] = {}  # which graphs need as long as they live
        #: Why the latest step could not be taken here.
        self.obstacle: str | None = None

    @staticmethod
    def is_for(optimizer: Any) -> bool:
        """Whether the optimizer's parameters are on a device that may have kernels."""
        first = next((p for group in optimizer.param_groups for p in group["params"]), None)
        return first is not None and (first.device.type != "cpu" or forced() == "triton")

    def can_take(self, optimizer: Any, rows: Rows, wanted: Wanted) -> bool:
        """Whether `take` would."""
        return self.is_for(optimizer) and self._why_not(optimizer, rows, wanted) is None

    def take(self, optimizer: Any, wanted: Wanted) -> Taken | None:
        """Take a step with the gradients there are, or return None where the kernels cannot."""
        _check_norm(optimizer, wanted)
        tables = self._find(optimizer, wanted)
        if tables is None:
            return None
        rows = tables.rows
        capturing = is_capturing(rows.device)
        grads = rows.ordered(rows.rows.grads)
        found = addresses(grads)
        if capturing:
            places = tables.send_captured(found)
            self._captured[id(tables)] = tables
        else:
            tables.send(_settings(tables, wanted), found)
            tables.make_spare()
            places = tables.grads
        taken = self._launch(tables, places, wanted)
        of = rows.rows
        increment_version([*of.params, *_present(of.model_params), *_present(of.ema)])
        return taken

    def refresh(self, wanted: Wanted) -> None:
        """Send the settings that changed, for graphs that hold captured steps."""
        kept = {id(tables): tables for tables in self._tables.values()}
        for tables in (kept | self._captured).values():
            tables.send(_settings(tables, wanted), tables.addresses)
        if wanted.loss_scaler is not None and self._control is not None:
            _scale_block(wanted.loss_scaler, self._control.device)

    def _find(self, optimizer: Any, wanted: Wanted) -> _Tables | None:
        """The tables of the parameters that have gradients now; None if the kernels cannot."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        models = params if wanted.model_params is None else wanted.model_params
        grads = [model.grad for model in models]
        has_momentum = tuple(bool(group.get("momentum")) for group in optimizer.param_groups)
        key = bytes([grad is not None for grad in grads]), has_momentum
        if not any(key[0]):
            return None
        tables = self._tables.get(key)
        if tables is not None and _fit(tables, optimizer, params, wanted):
            tables.rows.rows.grads = [g for g in grads if g is not None]
            if tables.rows.fit(tables.rows.rows.grads):
                return tables
        return self._make(optimizer, wanted, key)

    def _make(self, optimizer: Any, wanted: Wanted, key: Any) -> _Tables | None:
        rows = collect(optimizer, wanted.model_params, wanted.ema)
        self.obstacle = self._why_not(optimizer, rows, wanted)
        if self.obstacle is not None:
            return None
        check_lists("FusedStep", *rows.columns())
        check_ema("FusedStep", _present(rows.ema) + rows.idle_ema, _averaged(rows))
        declined("FusedStep", None)
        if is_capturing(rows.params[0].device):
            raise RuntimeError(
                "FusedStep: a CUDA graph is being captured, but no step was taken before with "
                "these parameters, state and gradients; take warm-up steps outside first"
            )
        tables = _Tables(optimizer, DeviceRows(optimizer, rows, self.counts))
        copies = (wanted.model_params, wanted.ema)
        tables.partners = [None if c is None else list(c) for c in copies]
        if len(self._tables) >= _TABLES:
            self._tables.pop(next(iter(self._tables)))
        self._tables[key] = tables
        return tables

    def _why_not(self, optimizer: Any, rows: Rows, wanted: Wanted) -> str | None:
        clip = wanted.grad_clip or {}
        if float(clip.get("norm_type", 2.0)) != 2.0:
            return f"norm_type is {clip['norm_type']}"
        device = rows.params[0].device if rows.params else torch.device("cpu")
        return why_not_on(device) or why_unknown(optimizer) or why_not_rows(rows)

    def _launch(self, tables: _Tables, grads: Tensor, wanted: Wanted) -> Taken:
        """First pass, decision, second pass, and the averages of parameters without gradients."""
        kernels, rows = triton_kernels(), tables.rows
        table = rows.table
        control = self._control_block(rows.device, wanted)
        scaler = wanted.loss_scaler
        scale = None if scaler is None else _scale_block(scaler, rows.device)
        norm = torch.empty((), dtype=torch.float32, device=rows.device)
        if wanted.needs_norm:
            kernels.norm.launch(table.launches, table.chunks, grads, rows.partials, column=2)
        kernels.finalise(
            rows.partials.sums,
            rows.partials.finite,
            norm,
            scale,
            control,
            tables.settings,
            table.rows,
            table.bias,
            adam=rows.adam,
            with_norm=wanted.needs_norm,
            clip=wanted.grad_clip is not None,
            may_skip=wanted.may_skip,
            update_scale=wanted.update_scale,
        )
        phase = kernels.control.Phase(table.rows, grads, tables.settings, control, table.bias)
        update = kernels.adam_ if rows.adam else kernels.sgd_
        update(table.launches, table.chunks, phase)
        if rows.idle is not None:
            skip = control.view(torch.int64)[kernels.control.SKIP.value]
            momentum = tables.settings[kernels.control.EMA_MOMENTUM.value]
            kernels.ema.launch(rows.idle, momentum, skip)
        skipped = self._skipped if wanted.may_skip else wanted.skipped_steps
        return Taken(norm if wanted.needs_norm else None, skipped)

    def _control_block(self, device: torch.device, wanted: Wanted) -> Tensor:
        """The control block, which also counts the skipped steps."""
        control = triton_kernels().control
        if self._control is None:
            self._control = torch.zeros(control.CONTROL_SIZE, dtype=torch.float64, device=device)
            self._skipped = self._control.view(torch.int64)[control.SKIPPED.value]
        if wanted.may_skip and wanted.skipped_steps is not self._skipped:
            assert self._skipped is not None
            self._skipped.fill_(wanted.skipped_steps)
        return self._control


def _check_norm(optimizer: Any, wanted: Wanted) -> None:
    """Look at the norm before anything is begun or counted, where a bad one shall raise."""
    if wanted.may_skip or not (wanted.grad_clip or {}).get("error_if_nonfinite"):
        return
    check_finite(grad_norm(collect(optimizer, wanted.model_params, None).grads))


def _fit(tables: _Tables, optimizer: Any, params: list[Tensor], wanted: Wanted) -> bool:
    """Whether tables are of these very parameters, partners, groups and state."""
    if tables.groups is not optimizer.param_groups or tables.state is not optimizer.state:
        return False
    now = [params, wanted.model_params, wanted.ema]
    return all(map(_same, now, [tables.params, *tables.partners]))


def _settings(tables: _Tables, wanted: Wanted) -> npt.NDArray[np.float64]:
    """What the host decides, as the device reads it; see control.py."""
    clip = wanted.grad_clip or {}
    lines = [[wanted.momentum, float(clip.get("max_norm", 0.0))]]
    for group, _ in tables.rows.rows.groups:
        sign = -1.0 if group["maximize"] else 1.0
        line = [float(group["lr"]), float(group["weight_decay"]), sign]
        if tables.rows.adam:
            beta1, beta2 = group["betas"]
            decoupled = float(group["decoupled_weight_decay"])
            line += [float(beta1), float(beta2), float(group["eps"]), decoupled]
        else:
            nesterov = float(group["nesterov"])
            line += [float(group["momentum"]), float(group["dampening"]), nesterov]
        lines.append(line)
    values = np.zeros((len(lines), tables.line))
    for number, line in enumerate(lines):
        values[number, : len(line)] = line
    return values.ravel()


def _scale_block(scaler: LossScale, device: torch.device) -> Tensor:
    """The block of the loss scale, up to date; it is shared by all that use the scale."""
    if scaler._on_device is None:
        scaler._on_device = DeviceScale(scaler, device)
    scaler._on_device.refresh()
    block: Tensor = scaler._on_device.block
    return block


def _averaged(rows: Rows) -> list[Tensor]:
    """The parameters that have an average: those with a gradient first."""
    return (rows.params if any(e is not None for e in rows.ema) else []) + rows.idle_params


def _same(now: Sequence[Tensor] | None, before: Sequence[Tensor] | None) -> bool:
    if now is None or before is None:
        return now is before
    return len(now) == len(before) and all(map(is_, now, before))


def _present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]
