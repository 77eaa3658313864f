"""OptimizerHook: backward and the optimizer's step after each training iteration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from hookrun.core import HOOKS, Hook, overrides, starts_with_defaults
from hookrun.distributed import comparable
from hookrun.ops import LossScale

from .. import _arguments as check
from .. import _layouts
from ..schedule.updater import UpdaterHook
from .accumulation import Accumulation
from .clipping import Clipping, check_grad_clip, clip_grads
from .loss import check_loss, parameters_without_loss
from .optimizers import optimizers_of
from .phase import OptimizerPhase
from .precision import Precision
from .reports import log_step, warn_of_short_window, warn_of_skipped_step
from .run_checks import RunChecks


@HOOKS.register_module()
@starts_with_defaults()
class OptimizerHook(Hook):
    """Takes an optimizer step after each training iteration: zero, backward, clip, step.

    A dict of optimizers steps together after one backward pass.

    Args:
        grad_clip: keyword arguments of ``torch.nn.utils.clip_grad_norm_``, such as
            ``dict(max_norm=35, norm_type=2)``; None not to clip. The norm before clipping is logged
            as ``grad_norm``, without making the host wait for it.
        detect_anomalous_params: warn about trainable parameters that take no part in the loss, by
            name, once for each set of them. For debugging: it walks through the graph at every
            iteration.
        fused: False takes torch's own calls one by one. Otherwise `FusedStep`
            does all of it in two passes over memory, with the same result to rounding.
        skip_nonfinite: skip a step whose gradients are not finite, and count it. It hides
            divergence.
        hold_schedules: whether learning-rate and momentum schedules by iteration count the steps
            taken, so that a skipped step holds them; on a GPU the host waits for each step.
            Otherwise they count iterations.

    Attributes:
        skipped_steps: how many were skipped so far.

    Raises:
        TypeError: ``grad_clip`` is no dict, or has arguments that ``clip_grad_norm_`` has not; at
            an iteration, the loss is no tensor.
        ValueError: a ``max_norm`` that is not above 0: gradients would vanish or turn around; at an
            iteration, the loss is no scalar or depends on no parameter, ``train_step`` has trained
            by itself, or parameters were replaced or moved since the run began.
        KeyError: at an iteration, there is no loss.

    Different from MMCV: gradients stay scaled and unclipped in ``.grad`` after a fused step, unless
    the optimizer has step hooks of torch's, which see them as its own step would show them.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"learning_rate", "momentum"})
    writes: ClassVar[frozenset[str]] = frozenset({"parameters", "gradients", "log"})
    state_layout: ClassVar[Any] = staticmethod(_layouts.optimizer)

    # What belongs to a run; copies of the hook begin without it.
    _phase: OptimizerPhase | None = None
    _checks: RunChecks | None = None
    _ema_momentum: Callable[[Any], float | None] | None = None  # for averages that the step moves
    _averaged_at = _skipped_at = -1
    _warned: frozenset[frozenset[str]] = frozenset()  # sets of parameters that were warned about
    _TRANSIENT: ClassVar[tuple[str, ...]] = (
        *("_phase", "_checks", "_ema_momentum", "_averaged_at", "_skipped_at", "_warned"),
    )

    def __init__(
        self,
        grad_clip: Mapping[str, Any] | None = None,
        detect_anomalous_params: bool = False,
        *,
        fused: bool | str = "auto",
        skip_nonfinite: bool = False,
        hold_schedules: bool = False,
    ) -> None:
        name = type(self).__name__
        if grad_clip is not None:
            check_grad_clip(grad_clip)
        if not isinstance(fused, bool) and fused != "auto":
            raise ValueError(f"{name}: fused must be True, False or 'auto', not {fused!r}")
        self.grad_clip = grad_clip
        self.detect_anomalous_params = detect_anomalous_params
        self.fused = fused
        self.skip_nonfinite = skip_nonfinite
        self.hold_schedules = hold_schedules
        check.flag(self, "detect_anomalous_params")
        check.flag(self, "skip_nonfinite")
        check.flag(self, "hold_schedules")
        self._precision = Precision()
        self._accumulation = Accumulation()
        self._skipped_before = 0  # by phases that are gone

    @property
    def loss_scaler(self) -> LossScale | None:
        """The loss scale, in the hooks that have one. Can be assigned."""
        return self._precision.scaler

    @loss_scaler.setter
    def loss_scaler(self, scaler: LossScale | None) -> None:
        self._precision.scaler = scaler

    @property
    def skipped_steps(self) -> int:
        """Steps not taken because a gradient was not finite. On a GPU the host waits to read it."""
        return self._skipped_before + (0 if self._phase is None else int(self._phase.skipped_steps))

    # The events of a run

    def required_signature(self, runner: Any) -> Any:
        """When and how it steps: all ranks average their gradients before, and norms in it."""
        names = ("grad_clip", "fused", "skip_nonfinite", "hold_schedules")
        return {
            "cumulative_iters": self._accumulation.iters,
            **{name: comparable(getattr(self, name)) for name in names},
            **self._precision.settings(),
        }

    def before_run(self, runner: Any) -> None:
        check.has_optimizer(self, runner, "steps the optimizer")
        self._drop_phase()
        self._warned = frozenset()
        self._hold_schedules(runner)
        if self._checks is not None:
            self._checks.end()
        self._checks = RunChecks(type(self).__name__, runner)
        resumed = getattr(runner, "resumed", None)
        state = resumed.get("optimizer") if isinstance(resumed, Mapping) else None
        self._precision.begin_run(runner.model, runner.optimizer, state)
        self._precision.share_scale(runner)

    def after_train_iter(self, runner: Any) -> None:
        iteration: Any = getattr(runner, "iter", None)  # stand-ins for a runner may have none
        phase = self._ready_phase(runner, iteration)
        loss = self.loss_of(runner)
        adds_up = phase.accumulation.iters != 1
        if phase.enter(iteration, getattr(runner, "max_iters", None) if adds_up else None):
            warn_of_short_window(runner, type(self).__name__, iteration, self._accumulation)
        if self.detect_anomalous_params:
            self.detect_anomalous_parameters(loss, runner)
        phase.backward(loss, self._get_loss_factor(runner))
        if phase.accumulation.count(runner.outputs.get("num_samples", 1)):
            self._take_step(runner, phase, iteration)

    def close(self, runner: Any, error: BaseException | None) -> None:
        self._drop_phase()
        if self._checks is not None:
            self._checks.end()
        self._accumulation.end_run(error)

    # Checkpoints and copies

    def state_dict(self) -> dict[str, Any]:
        """How many steps were skipped, if any; the state of the loss scale, masters and window."""
        state = {"skipped_steps": self.skipped_steps} if self.skipped_steps else {}
        state.update(self._precision.state_dict())
        window = None
        if self._phase is not None:
            window = self._accumulation.state_dict(self._phase.model)
        return state if window is None else {**state, "window": window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._phase, self._skipped_before = None, state.get("skipped_steps", 0)
        self._precision.load_state_dict(state)
        self._accumulation.load_state_dict(state.get("window"))

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Refuse masters and gradients of other parameters."""
        state = state or {}
        if "masters" in state:
            optimizers = [each for each in optimizers_of(runner) if each is not None]
            _layouts.check_masters(runner.model, optimizers, state["masters"], "its masters")
        if "window" in state:
            gradients = state["window"]["gradients"]
            _layouts.check_gradients(runner.model, gradients, "its window.gradients")

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to the run. A copy's precision and window are its own."""
        state = {**super().__getstate__(), "_skipped_before": self.skipped_steps}
        for name in ("_precision", "_accumulation"):
            state[name] = copy.copy(state[name])
        return {name: value for name, value in state.items() if name not in self._TRANSIENT}

    # What subclasses override

    def loss_of(self, runner: Any) -> Tensor:
        """The loss that the step returned.

        Raises:
            KeyError, TypeError, ValueError: there is none, or it is no scalar to learn from.
        """
        return check_loss(type(self).__name__, runner.outputs)

    def clip_grads(self, params: Iterable[nn.Parameter]) -> Tensor | None:
        """Clip the gradients; returns their norm before that, or None where there are none.

        A subclass that overrides it is called with the model's parameters, or with their fp32
        masters, at every step.
        """
        return clip_grads(params, self.grad_clip or {}, self.fused is not False)

    def detect_anomalous_parameters(self, loss: Tensor, runner: Any) -> None:
        """Warn about trainable parameters that the loss does not depend on, once for each set."""
        found = dict(parameters_without_loss(loss, runner.model))
        names = frozenset(found)
        if names in self._warned:
            return
        self._warned |= {names}
        for name, parameter in found.items():
            runner.logger.warning(
                "parameter %s of shape %s takes no part in the loss", name, tuple(parameter.shape)
            )

    def _get_loss_factor(self, runner: Any) -> int:
        """What the loss of this iteration is divided by: the iterations of its window."""
        return self._accumulation.length

    # Averages within the step; see AveragesInStep

    def average_in_step(
        self, averages: Mapping[int, Tensor], momentum: Callable[[Any], float | None]
    ) -> bool:
        """Let each step move averages of the parameters; returns whether it will."""
        if self._phase is None or not self._phase.average_in_step(averages):
            return False
        self._ema_momentum = momentum
        return True

    def stop_averaging(self) -> None:
        """Leave averages alone again."""
        self._ema_momentum = None
        if self._phase is not None:
            self._phase.stop_averaging()

    def averaged_at(self, iteration: int) -> bool:
        """Whether the step of this iteration took care of the averages."""
        return self._averaged_at == iteration

    def skipped_at(self, iteration: int) -> bool:
        """Whether this iteration is known to have skipped its step."""
        return self._skipped_at == iteration

    # The phase of a run

    def _ready_phase(self, runner: Any, iteration: Any) -> OptimizerPhase:
        """The phase, made anew where the runner has another model, optimizer or parameters."""
        if self._checks is not None:
            window = self._accumulation
            adds_up = window.iters > 1 and not window.is_open
            if self._checks.check(runner, iteration, adds_up) and self._phase is not None:
                self._phase.find_parameters()
        if self._precision.scaler is not None:
            self._precision.share_scale(runner)
        optimizers = optimizers_of(runner)
        if self._phase is None or not self._phase.is_of(runner.model, optimizers):
            self._drop_phase()
            self._phase = self._make_phase(runner.model, optimizers)
        self._phase.clipping.grad_clip = self.grad_clip
        return self._phase

    def _make_phase(self, model: Any, optimizers: list[Any]) -> OptimizerPhase:
        overridden = overrides(self, OptimizerHook, ("clip_grads",))
        return OptimizerPhase(
            model,
            optimizers,
            precision=self._precision,
            accumulation=self._accumulation,
            clipping=Clipping(
                self.grad_clip,
                fused=self.fused is not False,
                override=self.clip_grads if overridden else None,
            ),
            fused=self.fused,
            skip_nonfinite=self.skip_nonfinite,
            owner=type(self).__name__,
        )

    def _drop_phase(self) -> None:
        self._skipped_before = self.skipped_steps
        self._phase, self._ema_momentum = None, None
        self._averaged_at = self._skipped_at = -1

    def _take_step(self, runner: Any, phase: OptimizerPhase, iteration: Any) -> None:
        self._skipped_at = -1
        if self._checks is not None and not self._checks.has_stepped:
            self._checks.before_first_step(runner, phase.optimizers)
        momentum = None
        if self._ema_momentum is not None:
            momentum = self._ema_momentum(runner)
            if momentum is None:
                self.stop_averaging()
        step = phase.step(momentum or 0.0)
        scaler = self._precision.scaler
        log_step(runner, step, scaler, phase.accumulation.samples)
        if step.averaged:
            self._averaged_at = iteration
        if not step.taken:
            self._skipped_at = iteration
            warn_of_skipped_step(runner, iteration, self.skipped_steps, scaler)
        if not step.taken or step.skipped_steps is not None:
            self._hold_schedules(runner)

    def _hold_schedules(self, runner: Any) -> None:
        """Let schedules count the steps taken, if asked."""
        if self.hold_schedules:
            for hook in runner.hooks:
                if isinstance(hook, UpdaterHook):
                    hook.skipped_iters = self.skipped_steps * self._accumulation.iters
