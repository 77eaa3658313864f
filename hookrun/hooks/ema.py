"""Exponential moving average of the parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hookrun.checkpoint import state_dict_of
from hookrun.core import HOOKS, Hook, Trigger, TriggerSetting
from hookrun.distributed import unwrap_model

# The attribute of a model that names the buffers which EMA hooks gave it: another run takes them
# again.
_BUFFERS = "_ema_buffer_names"


@HOOKS.register_module()
class EMAHook(Hook):
    r"""Keeps an exponential moving average of the parameters and lends it to evaluation.

    After the update at iteration :math:`t`, counted from 0,

    .. math:: ema \leftarrow (1 - m_t)\, ema + m_t\, x, \qquad
              m_t = \min\left(1 - (1 - m)^k, \frac{1 + t}{w + t}\right)

    with :math:`m` = ``momentum``, :math:`k` = ``interval`` and :math:`w` = ``warm_up``.

    The averages are buffers ``ema_<name with dots as underscores>`` of the model, so its
    ``state_dict`` has them. At the end of a training epoch parameters and averages are swapped, so
    that evaluation and checkpoints see the averages, and swapped back when the next one begins; by
    iteration, ``runner.eval_weights()`` swaps around each evaluation and checkpoint. After the run
    the model holds the averages.

    Where this differs from MMCV: every ``k`` iterations the momentum is :math:`1 - (1 - m)^k` (not
    :math:`m^k`); two parameters whose buffer names collide get two buffers; the averages are used
    in IterBasedRunner too; and ``runner.resume`` restores them without ``resume_from``.

    Args:
        momentum: weight of the new parameters, in (0, 1).
        interval: update every so many iterations.
        warm_up: the larger, the longer small momentums are used at the start.
        resume_from: a checkpoint to resume when the first run starts.

    Raises:
        ValueError: an argument outside its range; when a run starts, a second EMAHook.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"parameters"})
    writes: ClassVar[frozenset[str]] = frozenset({"parameters"})

    interval = TriggerSetting()

    def __init__(
        self,
        momentum: float = 0.0002,
        interval: int = 1,
        warm_up: int = 100,
        resume_from: str | None = None,
    ) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(f"EMAHook: interval must be a positive int, not {interval!r}")
        if not 0 < momentum < 1:
            raise ValueError(f"EMAHook: momentum must lie between 0 and 1, not at {momentum!r}")
        if warm_up < 1:
            raise ValueError(f"EMAHook: warm_up must be at least 1, not {warm_up!r}")
        self.interval = interval
        self.warm_up = warm_up
        self.momentum = 1 - (1 - momentum) ** interval
        self.checkpoint = resume_from
        self._resumed_from = False
        self.param_ema_buffer: dict[str, str] = {}
        self._pairs: list[tuple[Tensor, Tensor]] = []  # parameter, average
        self._swapped = False  # whether the parameters hold the averages
        self._versions: list[int] = []  # of the parameters at the last swap: tells later changes
        self._file_is_swapped: bool | None = None

    def triggers(self) -> Mapping[str, Trigger]:
        # At iterations 0, k, 2k, ... counted from 0, as in MMCV.
        return {"after_train_iter": Trigger(iters=self.interval, start=1)}

    def before_run(self, runner: Any) -> None:
        if sum(isinstance(hook, EMAHook) for hook in runner.hooks) > 1:
            raise ValueError("two EMAHooks would swap each other's averages: register one of them")
        if self.checkpoint is not None and not self._resumed_from:
            runner.resume(self.checkpoint)
            self._resumed_from = True  # a second run goes on, not back
        resumed = isinstance(runner.resumed, Mapping)
        if not resumed and self._swapped:
            self._restore_raw_unless_replaced(runner)
        self._register_buffers(unwrap_model(runner.model))
        if resumed:
            self._take_from(runner.resumed, runner)
        runner.provide_eval_weights(self.applied)

    def after_train_iter(self, runner: Any) -> None:
        if runner.iter % self.interval != 0:
            return
        momentum = min(self.momentum, (1 + runner.iter) / (self.warm_up + runner.iter))
        with torch.no_grad():
            for parameter, average in self._pairs:
                average.lerp_(parameter, momentum)

    def after_train_epoch(self, runner: Any) -> None:
        if not self._swapped:
            self._swap_ema_parameters()

    def before_train_epoch(self, runner: Any) -> None:
        self._restore_raw()

    def after_run(self, runner: Any) -> None:
        if not self._swapped:
            self._swap_ema_parameters()

    def close(self, runner: Any, error: BaseException | None) -> None:
        if error is not None:
            self._restore_raw()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the parameters are the averages; afterwards they are as before."""
        if self._swapped:
            yield
            return
        self._swap_ema_parameters()
        try:
            yield
        finally:
            self._swap_ema_parameters()

    def state_dict(self) -> dict[str, Any]:
        """Which of the two sets of weights sits in the parameters of the file."""
        return {"swapped": self._swapped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._file_is_swapped = bool(state["swapped"])

    def _register_buffers(self, model: nn.Module) -> None:
        """Give every parameter its average; those of earlier runs stay."""
        parameters = dict(model.named_parameters())
        own: set[str] = vars(model).setdefault(_BUFFERS, set())
        if not own or not self.param_ema_buffer.keys() <= parameters.keys():
            self.param_ema_buffer = {}  # another model than in the run before
        taken = {name for name, _ in model.named_buffers()} - own
        taken |= set(self.param_ema_buffer.values())
        for name, parameter in parameters.items():
            if name in self.param_ema_buffer:
                continue
            buffer = _free_name(f"ema_{name.replace('.', '_')}", model, taken, own)
            taken.add(buffer)
            own.add(buffer)
            self.param_ema_buffer[name] = buffer
            model.register_buffer(buffer, parameter.detach().clone())
        self._pairs = [
            (parameters[name].detach(), model.get_buffer(buffer))
            for name, buffer in self.param_ema_buffer.items()
            if parameters[name].is_floating_point()
        ]

    def _take_from(self, checkpoint: Mapping[str, Any], runner: Any) -> None:
        """Take the averages out of a resumed checkpoint, and the raw weights back in."""
        weights = state_dict_of(checkpoint)
        missing = [name for name in self.param_ema_buffer.values() if name not in weights]
        if missing:
            runner.logger.warning(
                "the resumed checkpoint has no averages for %d of %d parameters: "
                "EMAHook starts them from its weights",
                len(missing),
                len(self.param_ema_buffer),
            )
        model = unwrap_model(runner.model)
        with torch.no_grad():
            for name, buffer in self.param_ema_buffer.items():
                model.get_buffer(buffer).copy_(weights.get(buffer, model.get_parameter(name)))
        # Of MMCV's runners, whose files do not say, only the one by epochs swaps.
        unsaid = runner.max_epochs is not None
        self._swapped = unsaid if self._file_is_swapped is None else self._file_is_swapped
        self._file_is_swapped = None
        self._restore_raw()

    def _restore_raw_unless_replaced(self, runner: Any) -> None:
        """Go on with the raw weights after a run, or with what has been loaded since."""
        if self._versions == [parameter._version for parameter, _ in self._pairs]:
            self._restore_raw()
            return
        runner.logger.warning(
            "the parameters were changed after the run: EMAHook starts its averages from them"
        )
        with torch.no_grad():
            for parameter, average in self._pairs:
                average.copy_(parameter)
        self._swapped = False

    def _restore_raw(self) -> None:
        if self._swapped:
            self._swap_ema_parameters()

    @torch.no_grad()
    def _swap_ema_parameters(self) -> None:
        for parameter, average in self._pairs:
            raw = parameter.clone()
            parameter.copy_(average)
            average.copy_(raw)
        self._swapped = not self._swapped
        self._versions = [parameter._version for parameter, _ in self._pairs]


def _free_name(name: str, model: nn.Module, taken: set[str], own: set[str]) -> str:
    """The name, with a number behind it where something else of the model has it."""
    candidate, number = name, 0
    while candidate in taken or (hasattr(model, candidate) and candidate not in own):
        number += 1
        candidate = f"{name}_{number}"
    return candidate
