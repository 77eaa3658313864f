"""The optimizer phase on a device: two passes with a small decision between them, no waiting."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .backend import forced
from .checks import check_lists
from .clip_grad_norm import check_finite
from .device import declined, triton_kernels, why_not_on
from .device_rows import DeviceRows, addresses, why_not_rows, why_unknown
from .device_scale import DeviceScale
from .ema import check_ema
from .norm import grad_norm
from .rows import Rows, collect

if TYPE_CHECKING:
    from .fused_step import FusedStep

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
    return torch.empty(count, dtype=torch.int64, pin_memory=device.type == "cuda")


class DeviceStep:
    """Takes a `FusedStep`'s steps where its parameters are on a device with kernels."""

    def __init__(self, step: FusedStep) -> None:
        self._owner = weakref.ref(step)  # a cycle would keep it, and its claim on a loss scale
        self._tables: dict[Any, _Tables] = {}
        self._counts: dict[Tensor, tuple[Tensor, Tensor]] = {}
        self._control: Tensor | None = None
        self._skipped: Tensor | None = None
        self._captured: dict[int, _Tables] = {}  # which graphs need as long as they live
        #: Why the latest step could not be taken here.
        self.obstacle: str | None = None

    @property
    def _step(self) -> FusedStep:
        step = self._owner()
        assert step is not None
        return step

    def take(self, fire: Callable[[str], bool]) -> bool:
        """Take a step, or return False where the kernels cannot.

        Args:
            fire: calls the optimizer's ``"pre"`` or ``"post"`` hooks; returns whether it has any.
        """
        params = [p for group in self._step.optimizer.param_groups for p in group["params"]]
        if not params or (params[0].device.type == "cpu" and forced() != "triton"):
            return False
        momentum = self._step._momentum()
        self._check_norm()
        tables = self._find()
        if tables is None:
            return False
        if fire("pre"):  # a hook may have exchanged gradients or groups
            tables = self._find()
            assert tables is not None
        step = self._step
        step.optimizer._opt_called = True  # what torch's schedulers look for
        if step.loss_scaler is not None and step.update_scale:
            step.loss_scaler._updated_by = weakref.ref(step)
        rows = tables.rows
        capturing = rows.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        grads = rows.ordered(rows.rows.grads)
        found = addresses(grads)
        if capturing:
            places = tables.send_captured(found)
            self._captured[id(tables)] = tables
        else:
            tables.send(self._settings(tables, momentum), found)
            tables.make_spare()
            places = tables.grads
        self._launch(tables, places)
        of = rows.rows
        increment_version([*of.params, *_present(of.model_params), *_present(of.ema)])
        fire("post")
        return True

    def refresh(self) -> None:
        """Send the settings that changed, for graphs that hold captured steps."""
        momentum = self._step._momentum()
        kept = {id(tables): tables for tables in self._tables.values()}
        for tables in (kept | self._captured).values():
            tables.send(self._settings(tables, momentum), tables.addresses)
        if self._step.loss_scaler is not None and self._control is not None:
            self._scale(self._control.device)

    def _find(self) -> _Tables | None:
        """The tables of the parameters that have gradients now; None if the kernels cannot."""
        step = self._step
        optimizer = step.optimizer
        params = [p for group in optimizer.param_groups for p in group["params"]]
        models = params if step.model_params is None else step.model_params
        grads = [model.grad for model in models]
        key = self._key(grads)
        if not any(key[0]):
            return None
        tables = self._tables.get(key)
        if tables is not None and self._fit(tables, params):
            tables.rows.rows.grads = [g for g in grads if g is not None]
            if tables.rows.fit(tables.rows.rows.grads):
                return tables
        return self._make(key)

    def _check_norm(self) -> None:
        """Look at the norm before anything is begun or counted, where a bad one shall raise."""
        step = self._step
        if step._may_skip or not (step.grad_clip or {}).get("error_if_nonfinite"):
            return
        rows = collect(step.optimizer, step.model_params, None)
        check_finite(grad_norm(rows.grads))

    def _key(self, grads: Sequence[Tensor | None]) -> Any:
        groups = self._step.optimizer.param_groups
        has_momentum = tuple(bool(group.get("momentum")) for group in groups)
        return bytes([grad is not None for grad in grads]), has_momentum

    def _fit(self, tables: _Tables, params: list[Tensor]) -> bool:
        """Whether tables are of these very parameters, partners, groups and state."""
        optimizer = self._step.optimizer
        if tables.groups is not optimizer.param_groups or tables.state is not optimizer.state:
            return False
        now = [params, self._step.model_params, self._step.ema]
        return all(map(_same, now, [tables.params, *tables.partners]))

    def _make(self, key: Any) -> _Tables | None:
        step = self._step
        rows = collect(step.optimizer, step.model_params, step.ema)
        self.obstacle = self._why_not(rows)
        if self.obstacle is not None:
            return None
        check_lists("FusedStep", *rows.columns())
        check_ema("FusedStep", _present(rows.ema) + rows.idle_ema, _averaged(rows))
        declined("FusedStep", None)
        device = rows.params[0].device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "FusedStep: a CUDA graph is being captured, but no step was taken before with "
                "these parameters, state and gradients; take warm-up steps outside first"
            )
        tables = _Tables(step.optimizer, DeviceRows(step.optimizer, rows, self._counts))
        copies = (step.model_params, step.ema)
        tables.partners = [None if c is None else list(c) for c in copies]
        if len(self._tables) >= _TABLES:
            self._tables.pop(next(iter(self._tables)))
        self._tables[key] = tables
        return tables

    def _why_not(self, rows: Rows) -> str | None:
        clip = self._step.grad_clip or {}
        if float(clip.get("norm_type", 2.0)) != 2.0:
            return f"norm_type is {clip['norm_type']}"
        device = rows.params[0].device if rows.params else torch.device("cpu")
        return why_not_on(device) or why_unknown(self._step.optimizer) or why_not_rows(rows)

    def _settings(self, tables: _Tables, momentum: float) -> npt.NDArray[np.float64]:
        """What the host decides, as the device reads it; see control.py."""
        adam = tables.rows.adam
        clip = self._step.grad_clip or {}
        lines = [[momentum, float(clip.get("max_norm", 0.0))]]
        for group, _ in tables.rows.rows.groups:
            sign = -1.0 if group["maximize"] else 1.0
            line = [float(group["lr"]), float(group["weight_decay"]), sign]
            if adam:
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

    def _launch(self, tables: _Tables, grads: Tensor) -> None:
        """First pass, decision, second pass, and the averages of parameters without gradients."""
        kernels, step, rows = triton_kernels(), self._step, tables.rows
        table = rows.table
        may_skip = step.loss_scaler is not None or step.skip_nonfinite
        clip = step.grad_clip is not None
        control = self._control_block(rows.device, may_skip)
        scale = self._scale(rows.device)
        norm = torch.empty((), dtype=torch.float32, device=rows.device)
        if clip or may_skip:
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
            with_norm=clip or may_skip,
            clip=clip,
            may_skip=may_skip,
            update_scale=step.update_scale,
        )
        step.grad_norm = norm if clip or may_skip else None
        phase = kernels.control.Phase(table.rows, grads, tables.settings, control, table.bias)
        update = kernels.adam_ if rows.adam else kernels.sgd_
        update(table.launches, table.chunks, phase)
        if rows.idle is not None:
            skip = control.view(torch.int64)[kernels.control.SKIP.value]
            momentum = tables.settings[kernels.control.EMA_MOMENTUM.value]
            kernels.ema.launch(rows.idle, momentum, skip)

    def _control_block(self, device: torch.device, may_skip: bool) -> Tensor:
        """The control block, which also counts the skipped steps."""
        control = triton_kernels().control
        if self._control is None:
            self._control = torch.zeros(control.CONTROL_SIZE, dtype=torch.float64, device=device)
            self._skipped = self._control.view(torch.int64)[control.SKIPPED.value]
        if may_skip and self._step.skipped_steps is not self._skipped:
            assert self._skipped is not None
            self._skipped.fill_(self._step.skipped_steps)
            self._step.skipped_steps = self._skipped
        return self._control

    def _scale(self, device: torch.device) -> Tensor | None:
        """The scale block of the loss scale, up to date; it is shared by all that use the scale."""
        scaler = self._step.loss_scaler
        if scaler is None:
            return None
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
