"""EMAHook: an exponential moving average of the parameters."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch

from hookrun.checkpoint import averages_for
from hookrun.core import (
    HOOKS,
    Hook,
    Trigger,
    TriggerSetting,
    declaring_class,
    listening_method,
    overrides,
    starts_with_defaults,
)
from hookrun.core.errors import path_or_none
from hookrun.core.interrupts import uninterrupted
from hookrun.core.protocols import AveragesInStep, implements

from .. import _arguments as check
from .. import _layouts
from .._parameters import ParameterWatch
from ..optimizer.masters import follow_model
from ..optimizer.optimizers import optimizers_of
from .averages import AveragedTensor, Averages, averaged_tensors
from .resume_from import should_resume_from

_OTHER_CONVENTION = (
    "EMAHook: momentum={0:g} is the weight of the new parameters, so the averages follow them "
    "closely. If {0:g} is meant as the weight of the averages, give momentum={1:.6g}"
)


@HOOKS.register_module()
@starts_with_defaults()
class EMAHook(Hook):
    """Keeps an exponential moving average of the parameters, for evaluation and checkpoints.

    After the update at iteration ``t``, counted from 0, of a parameter ``x``:

        ema = (1 - weight) * ema + weight * x
        weight = min(1 - (1 - momentum) ** interval, (1 + t) / (warm_up + t))

    With ``warm_up=0`` the weight is ``1 - (1 - momentum) ** interval`` from the first update on.

    The averages are buffers ``ema_<name with dots as underscores>`` of the model, so its
    ``state_dict`` has them; names are without the ``module.`` and ``_orig_mod.`` of wrappers. At
    the end of a training epoch parameters and averages are swapped, so that evaluation and
    checkpoints see the averages, and swapped back when the next one begins; by iteration,
    ``runner.eval_weights()`` swaps around each evaluation and checkpoint. After the run the model
    holds the averages.

    Averages of fp16 and bf16 parameters are fp32; if there are fp32 masters, these are averaged.
    The optimizer hook updates the averages in the same pass as the parameters, unless a hook
    between the two may write parameters.

    Where this differs from MMCV: the weight with an interval of ``k`` is
    ``1 - (1 - momentum) ** k``, not ``momentum ** k``; an iteration whose step is skipped leaves
    the averages alone; two parameters whose buffer names collide get two buffers; the averages are
    used in IterBasedRunner too; and ``runner.resume`` restores them without ``resume_from``.

    Args:
        momentum: weight of the new parameters, in (0, 1). Above 0.5 there is a warning: in other
            libraries the momentum or decay is often the weight of the average.
        interval: the number of iterations from one update to the next.
        warm_up: the larger it is, the longer the momentum stays below its final value at the start;
            0 for no warm-up.
        resume_from: a checkpoint to resume from when the first run starts. If the run has already
            got farther, it is not used, with a warning. For a checkpoint that needs
            ``trust=True``, call ``runner.resume`` instead.
        debias: leave the initial parameters out of the averages; then ``warm_up`` is not used.
        buffers: ``'copy'`` uses the model's own buffers, such as BatchNorm statistics, together
            with the averages; ``'average'`` averages floating-point buffers too.
        device: the device of the averages, such as ``'cpu'``; by default that of each parameter.

    Raises:
        TypeError: an argument of another type.
        ValueError: an argument out of range; when a run starts, a second EMAHook; during a run,
            parameters or averages were replaced or moved to another device.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"parameters"})
    writes: ClassVar[frozenset[str]] = frozenset({"parameters"})
    state_layout: ClassVar[Any] = staticmethod(_layouts.ema)

    interval = TriggerSetting()

    def __init__(
        self,
        momentum: float = 0.0002,
        interval: int = 1,
        warm_up: int = 100,
        resume_from: str | None = None,
        *,
        debias: bool = False,
        buffers: str = "copy",
        device: str | torch.device | None = None,
    ) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(f"EMAHook: interval must be a positive int, not {interval!r}")
        for name, value in (("momentum", momentum), ("warm_up", warm_up)):
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"EMAHook: {name} must be a number, not {value!r}")
        if not 0 < momentum < 1:
            raise ValueError(f"EMAHook: momentum must lie between 0 and 1, not at {momentum!r}")
        self._momentum_warning: str | None = None
        if momentum > 0.5:
            self._momentum_warning = _OTHER_CONVENTION.format(momentum, 1 - momentum)
            warnings.warn(self._momentum_warning, stacklevel=2)
        if not 0 <= warm_up < math.inf:
            raise ValueError(f"EMAHook: warm_up must be at least 0 and finite, not {warm_up!r}")
        self.interval = interval
        self.warm_up = warm_up
        self.momentum = 1 - (1 - momentum) ** interval
        self.checkpoint = path_or_none("EMAHook", resume_from=resume_from)
        self.debias = debias
        self.buffers = buffers
        check.flag(self, "debias")
        check.choice(self, "buffers", ("copy", "average"))
        self.device = None if device is None else _parse_device(device)
        self._resumed_from = False
        self.param_ema_buffer: dict[str, str] = {}
        self._averages: Averages | None = None
        self._resumed_state: Mapping[str, Any] = {}  # state_dict() of the resumed checkpoint
        self._reset_run()

    def _reset_run(self) -> None:
        """Reset what belongs to a single run."""
        self._watch: ParameterWatch | None = None
        # The optimizer hook whose steps move averages, those it does not move, and the hooks there
        # were when that was decided.
        self._stepper: AveragesInStep | None = None
        self._not_in_step: list[AveragedTensor] = []
        self._decided_for: list[Hook] = []

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a single run.

        The averages and their record stay: a model that is copied together with the hook may hold
        swapped weights.
        """
        transient = ("_watch", "_stepper", "_not_in_step", "_decided_for")
        return {n: value for n, value in super().__getstate__().items() if n not in transient}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)
        self._reset_run()

    def triggers(self) -> Mapping[str, Trigger]:
        # At iterations 0, k, 2k, ..., counted from 0, as in MMCV.
        return {"after_train_iter": Trigger(iters=self.interval, start=1)}

    def shared_settings(self, runner: Any) -> dict[str, Any]:
        """What the averages depend on: ranks with other ones would evaluate other weights."""
        return {
            "interval": self.interval,
            "momentum": float(f"{1 - (1 - self.momentum) ** (1 / self.interval):.9g}"),
            "warm_up": self.warm_up,
            "debias": self.debias,
            "buffers": self.buffers,
        }

    def resume_run(self, runner: Any) -> None:
        """Resume from ``resume_from``; the runner calls this before ``before_run``."""
        if self.checkpoint is None or self._resumed_from:
            return
        if should_resume_from(runner, self.checkpoint):
            runner.resume(self.checkpoint)
        self._resumed_from = True  # a second run must not go back to the checkpoint

    def before_run(self, runner: Any) -> None:
        if sum(isinstance(hook, EMAHook) for hook in runner.hooks) > 1:
            raise ValueError("two EMAHooks would swap each other's averages: register one of them")
        if self._momentum_warning is not None:  # in the log of the run too
            runner.logger.warning("%s", self._momentum_warning)
        self.resume_run(runner)
        self._averages = Averages(
            runner.model, self.param_ema_buffer, self.buffers == "average", self.device
        )
        self._averages.use_masters(optimizers_of(runner))
        self._watch = ParameterWatch("EMAHook", runner.model)
        if isinstance(runner.resumed, Mapping):
            uninterrupted(self._load_resumed, runner.resumed, runner)
        elif self._swapped:  # by the end of the previous run
            self._restore_raw_unless_replaced(runner)
        runner.provide_eval_weights(self.applied)

    def after_train_iter(self, runner: Any) -> None:
        stepper = self._stepper
        in_step = stepper is not None and stepper.averaged_at(runner.iter)
        left = self._not_in_step if in_step else None
        if in_step and not left:
            return
        momentum = self.momentum_at(runner) if self._averages is not None else 0.0
        if momentum == 0.0:
            return
        assert self._averages is not None
        if self._watch is not None and self._watch.has_moved():
            self._watch.check(runner.model)
        if self._decided_for != runner.hooks:
            self._decide(runner)
        stepper = self._stepper
        if stepper is not None and stepper.skipped_at(runner.iter):
            return
        self._averages.update(momentum, left)

    def momentum_at(self, runner: Any) -> float:
        """The weight of the parameters in the update at this iteration; 0 if no update is due."""
        iteration = runner.iter
        if iteration % self.interval != 0:
            return 0.0
        if self.debias:
            updates = iteration // self.interval + 1
            return float(self.momentum / (1 - (1 - self.momentum) ** updates))
        if self.warm_up <= 1:  # the fraction below would be at least 1: no warm-up
            return self.momentum
        ramp: float = (1 + iteration) / (self.warm_up + iteration)
        return min(self.momentum, ramp)

    def after_train_epoch(self, runner: Any) -> None:
        self._check(runner)
        if not self._swapped:
            self._swap_ema_parameters()

    def before_train_epoch(self, runner: Any) -> None:
        self._check(runner)
        self._restore_raw()

    def after_run(self, runner: Any) -> None:
        self._check(runner)
        if not self._swapped:
            self._swap_ema_parameters()

    def close(self, runner: Any, error: BaseException | None) -> None:
        if self._stepper is not None:
            self._stepper.stop_averaging()
        self._stepper, self._not_in_step, self._decided_for = None, [], []
        if error is not None:
            self._restore_raw()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the parameters are the averages; afterwards they are restored."""
        if self._swapped:
            yield
            return
        try:
            self._swap_ema_parameters()
            yield
        finally:
            self._restore_raw()

    def state_dict(self) -> dict[str, Any]:
        """Whether parameters and averages are swapped in the checkpoint.

        With the exact averages of parameters whose dtype has rounded them, if there are any.
        """
        exact = {} if self._averages is None else self._averages.record.exact
        return {"swapped": self._swapped, **({"exact": dict(exact)} if exact else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._resumed_state = dict(state)

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Refuse a checkpoint whose averages do not fit the tensors of the model."""
        tensors = averaged_tensors(runner.model, self.buffers == "average")
        by_epoch = runner.max_epochs is not None
        _layouts.check_averages(runner.model, checkpoint, by_epoch, tensors)
        _layouts.check_exact((state or {}).get("exact", {}), tensors, "its exact")

    @property
    def _swapped(self) -> bool:
        return self._averages is not None and self._averages.record.swapped

    def _swap_ema_parameters(self) -> None:
        """Swap parameters and averages."""
        if self._averages is not None:
            self._averages.swap()

    def _restore_raw(self) -> None:
        if self._swapped:
            self._swap_ema_parameters()

    def _check(self, runner: Any) -> None:
        if self._averages is not None and self._watch is not None:
            self._watch.check(runner.model)
            self._averages.check(runner.model)

    def _load_resumed(self, checkpoint: Mapping[str, Any], runner: Any) -> None:
        """Load the averages from a resumed checkpoint; afterwards the parameters are the raw ones.

        In the checkpoint the two may be swapped.
        """
        assert self._averages is not None
        follow_model(optimizers_of(runner))
        by_epoch = runner.max_epochs is not None
        entries, swapped = averages_for(runner.model, checkpoint, by_epoch)
        missing = self._averages.load(entries)
        if missing:
            runner.logger.warning(
                "the resumed checkpoint has no averages for %d of %d parameters: "
                "EMAHook starts them from its weights",
                len(missing),
                len(self.param_ema_buffer),
            )
        self._averages.record.swapped = swapped
        self._averages.record.exact = dict(self._resumed_state.get("exact", {}))
        self._resumed_state = {}
        self._restore_raw()

    def _restore_raw_unless_replaced(self, runner: Any) -> None:
        """Swap back after an earlier run, unless other weights have been loaded since."""
        assert self._averages is not None
        if not self._averages.changed_since_swap():
            self._restore_raw()
            return
        runner.logger.warning(
            "the parameters were changed after the run: EMAHook starts its averages from them"
        )
        self._averages.restart()

    def _decide(self, runner: Any) -> None:
        """Let the optimizer hook move the averages, where nothing can come in between."""
        assert self._averages is not None
        optimizers = optimizers_of(runner)
        self._averages.use_masters(optimizers)
        self._decided_for = list(runner.hooks)
        moved = self._averages.for_step(optimizers)
        stepper = self._stepper = _stepper_before(self, self._decided_for)
        joins = (
            stepper is not None
            and _nothing_between(self, stepper, self._decided_for)
            and stepper.average_in_step(moved, self._momentum_in_step)
        )
        self._not_in_step = self._averages.besides(moved if joins else {})

    def _momentum_in_step(self, runner: Any) -> float | None:
        """For the optimizer hook: None where hooks have come or gone since it was asked."""
        return self.momentum_at(runner) if self._decided_for == runner.hooks else None


def _parse_device(given: str | torch.device) -> torch.device:
    """The device. Whether this machine has it is not checked before a run starts."""
    wrong = f"EMAHook: device must be one such as 'cpu' or 'cuda:0', not {given!r}"
    if not isinstance(given, (str, torch.device)):
        raise TypeError(wrong)
    try:
        return torch.device(given)
    except RuntimeError as error:  # an unknown kind of device; torch's message lists all kinds
        raise ValueError(wrong) from error


def _stepper_before(ema: EMAHook, hooks: list[Hook]) -> AveragesInStep | None:
    """The hook that steps the optimizer, if it fires before and can average."""
    before = hooks[: hooks.index(ema)] if ema in hooks else []
    return next((hook for hook in before if implements(hook, AveragesInStep)), None)


def _nothing_between(ema: EMAHook, stepper: AveragesInStep, hooks: list[Hook]) -> bool:
    """Whether no hook may write parameters between the optimizer's step and EMAHook."""
    event = ("after_train_iter",)
    base = declaring_class(stepper, "average_in_step")
    if overrides(ema, EMAHook, event) or overrides(stepper, base, event):
        return False
    positions = {id(hook): position for position, hook in enumerate(hooks)}
    between = hooks[positions[id(stepper)] + 1 : positions[id(ema)]]
    return not any(map(_may_write_parameters, between))


def _may_write_parameters(hook: Hook) -> bool:
    """Whether the hook declares so, or nothing is declared for the method that it has."""
    if listening_method(hook, "after_train_iter") is None:
        return False
    if hook.writes is None or "parameters" in hook.writes:
        return True
    if "writes" in vars(hook):  # declared for this very object
        return False
    declared_by = declaring_class(hook, "writes")
    return overrides(hook, declared_by, ("after_train_iter", "after_iter"))
