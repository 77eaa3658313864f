import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar, final

from hookrun.kernels.reference import AdamGroup, SgdGroup

_T = TypeVar("_T")

EVENTS: Final[tuple[str, ...]]

def uninterrupted(function: Callable[..., _T], /, *args: Any) -> _T:
    """Call a function while Python's signal handlers, such as Ctrl-C's, wait.

    They run when it has returned. Two effects that must not come apart belong in one such call;
    what may take long within it, in ``interruptible``. Only the main thread runs handlers: in
    others, and within another such call, it is a plain call.

    Raises:
        BaseException: what the function raises; what the handler of a signal that came before
            raises, and then the function is not called.
    """

def interruptible(function: Callable[..., _T], /, *args: Any) -> _T:
    """Within ``uninterrupted``: call a function that signal handlers do interrupt.

    What a handler raises comes out of this call, and of no other.
    """

def interrupted_by_second(function: Callable[..., _T], /, *args: Any) -> _T:
    """Within ``uninterrupted``: as ``interruptible``, but only by the second signal of a kind."""

@final
class Action:
    """Native work of a shipped hook; called with the runner."""

    def __call__(self, runner: RunState, /) -> None: ...

class RunState:
    """Counters and references of a run; the runners' native base."""

    model: Any
    optimizer: Any
    mode: str | None
    data_loader: Any
    data_batch: Any
    outputs: Any
    log_buffer: Any
    _dispatcher: Any
    _epoch: int
    _iter: int
    _inner_iter: int
    _max_epochs: int | None
    _max_iters: int | None
    epoch_length: int | None
    schedule_shift: int
    uncounted_iters: int
    current_event: str | None
    check_at: int
    @property
    def epoch(self) -> int: ...
    @property
    def iter(self) -> int: ...
    @property
    def inner_iter(self) -> int: ...
    @property
    def max_epochs(self) -> int | None: ...
    @property
    def max_iters(self) -> int | None: ...
    @property
    def schedule_step(self) -> int: ...
    @property
    def schedule_total(self) -> int | None: ...
    def call_hook(self, event: str, /) -> None: ...

@final
class Dispatcher:
    """Fires events on the hooks of one runner."""

    def __init__(
        self,
        runner: RunState,
        resolve: Callable[[Any, str], tuple[Callable[[Any], Any], Any] | None],
        unheard: Callable[[str], None],
    ) -> None: ...
    def __call__(self, event: str, /) -> None: ...
    def insert(self, hook: Any, priority: int, /) -> int: ...
    def replace(self, hooks: Iterable[tuple[Any, int]], /) -> None: ...
    def listeners(self, event: str, /) -> list[Any]: ...

class LogBuffer:
    """Running averages of numbers; the native base of hookrun.LogBuffer."""

    output: dict[str, Any]
    ready: bool
    averaged: bool
    def update(self, vars: dict[str, Any], count: float = 1) -> None: ...
    def average(self, n: int = 0) -> None: ...
    def reserve(self, n: int, /) -> None: ...
    def _clear_values(self) -> None: ...
    def totals(self, name: str, /) -> tuple[float, float]: ...
    def _swap_values(self, other: LogBuffer, /) -> None: ...
    def renamed(self) -> dict[str, str]: ...
    def _push(self, key: str, value: float, count: float, /) -> None: ...
    def _settle(self) -> None: ...
    def _push_totals(self, key: str, weighted_sum: float, count: float, pushes: int, /) -> None: ...
    def _history(self) -> dict[str, tuple[list[float], list[float]]]: ...

def run_epoch(
    runner: RunState,
    batches: Iterable[Any],
    train: bool,
    first_inner_iter: int,
    kwargs: dict[str, Any] | None,
) -> bool: ...
def run_iters(
    runner: RunState,
    loader: Iterator[Any],
    train: bool,
    count: int,
    kwargs: dict[str, Any] | None,
) -> int: ...

class Policy:
    """A schedule without warm-up; see hookrun/schedules/policies.py."""

    @property
    def needs_total(self) -> bool: ...
    def __call__(self, base: float, step: int, total: int = 0) -> float: ...

class policies:
    """A submodule: makes policies from the fields of their definitions, in the same order.

    Each raises ValueError where its definition does.
    """

    @staticmethod
    def Fixed() -> Policy: ...
    @staticmethod
    def Step(period: int, gamma: float, minimum: float, /) -> Policy: ...
    @staticmethod
    def MultiStep(milestones: Sequence[int], gamma: float, minimum: float, /) -> Policy: ...
    @staticmethod
    def Exp(gamma: float, /) -> Policy: ...
    @staticmethod
    def Inv(gamma: float, power: float, /) -> Policy: ...
    @staticmethod
    def Poly(power: float, end: float, /) -> Policy: ...
    @staticmethod
    def CosineAnnealing(target: tuple[float, bool], /) -> Policy: ...
    @staticmethod
    def LinearAnnealing(target: tuple[float, bool], /) -> Policy: ...
    @staticmethod
    def FlatCosineAnnealing(start_percent: float, target: tuple[float, bool], /) -> Policy: ...
    @staticmethod
    def CosineRestart(
        periods: Sequence[int], weights: Sequence[float], target: tuple[float, bool], /
    ) -> Policy: ...
    @staticmethod
    def Cyclic(
        peak: float, end: float, times: int, up: float, strategy: str, gamma: float, /
    ) -> Policy: ...
    @staticmethod
    def OneCycle(
        pct_start: float,
        peak: float,
        end: float,
        strategy: str,
        three_phase: bool,
        total_steps: int,
        /,
    ) -> Policy: ...
    @staticmethod
    def WSD(
        decay_steps: int, decay_ratio: float, strategy: str, target: tuple[float, bool], /
    ) -> Policy: ...
    @staticmethod
    def Sequential(policies: Sequence[Policy], milestones: Sequence[int], /) -> Policy: ...

class Warmup:
    """A factor over the first iterations of a run."""

    def factor(self, iteration: int) -> float: ...

def make_warmup(kind: str, iters: int, ratio: float) -> Warmup: ...

class GroupSchedule:
    """Sets one value, 'lr' or 'momentum', of every parameter group at each iteration."""

    def configure(
        self,
        hook: weakref.ref[Any],
        groups: list[dict[str, Any]] | dict[str, list[dict[str, Any]]] | None,
        base: list[float] | dict[str, list[float]],
        policies: list[Policy] | dict[str, list[Policy]],
        by_epoch: bool,
        warmup: Warmup | None,
    ) -> None: ...
    def regular(self) -> list[float] | dict[str, list[float]] | None: ...
    def action(self) -> Action: ...

def make_group_schedule(value: str) -> GroupSchedule: ...
def make_timer() -> tuple[dict[str, Action], Callable[[float], None]]: ...

class cpu:
    """The CPU backend of hookrun.ops: a text is the reason why it cannot take a call."""

    @staticmethod
    def norm(tensors: Sequence[Any], threads: int) -> tuple[float, bool] | str: ...
    @staticmethod
    def unscale(grads: Sequence[Any], factor: float, threads: int) -> bool | str: ...
    @staticmethod
    def ema_update(
        ema: Sequence[Any], params: Sequence[Any], momentum: float, threads: int
    ) -> str | None: ...
    @staticmethod
    def swap(a: Sequence[Any], b: Sequence[Any], threads: int) -> str | None: ...
    @staticmethod
    def convert(dst: Sequence[Any], src: Sequence[Any], threads: int) -> str | None: ...
    @staticmethod
    def sgd(
        params: Sequence[Any],
        grads: Sequence[Any],
        momentum_buffers: Sequence[Any],
        model_params: Sequence[Any],
        ema: Sequence[Any],
        is_new: Sequence[bool],
        groups: Sequence[SgdGroup],
        grad_scale: float,
        ema_momentum: float,
        threads: int,
    ) -> str | None: ...
    @staticmethod
    def adam(
        params: Sequence[Any],
        grads: Sequence[Any],
        exp_avgs: Sequence[Any],
        exp_avg_sqs: Sequence[Any],
        steps: Sequence[Any],
        model_params: Sequence[Any],
        ema: Sequence[Any],
        groups: Sequence[AdamGroup],
        grad_scale: float,
        ema_momentum: float,
        threads: int,
    ) -> str | None: ...
    @staticmethod
    def isa() -> str: ...
    @staticmethod
    def tensor_reads() -> dict[str, bool]: ...
    @staticmethod
    def use_isa(name: str) -> None: ...
