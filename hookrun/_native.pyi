from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar, final

from hookrun.kernels.reference import AdamGroup, SgdGroup

_T = TypeVar("_T")

EVENTS: Final[tuple[str, ...]]

def uninterrupted(function: Callable[..., _T], /, *args: Any) -> _T:
    """Call a function while Python's signal handlers, such as Ctrl-C's, are deferred.

    They run after it has returned. Use it for changes of which either all or none must happen, and
    within it ``interruptible`` for what may take long. In other threads than the main one, which
    alone runs handlers, and within another such call, it is a plain call.

    Raises:
        BaseException: what the function raises; or what the handler of a signal raises that came
            before, in which case the function is not called.
    """

def interruptible(function: Callable[..., _T], /, *args: Any) -> _T:
    """Within ``uninterrupted``: call a function that signal handlers may interrupt.

    This call raises what a handler raises meanwhile.
    """

def interrupted_by_second(function: Callable[..., _T], /, *args: Any) -> _T:
    """Within ``uninterrupted``: call a function that only a second signal of the same number may
    interrupt; the first one is deferred.
    """

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
    def call_hook(self, fn_name: str) -> None: ...

@final
class Dispatcher:
    """Fires events on the hooks of one runner."""

    def __init__(
        self,
        runner: RunState,
        resolve: Callable[[Any, str], tuple[Callable[[Any], Any], Any] | None],
        on_no_listener: Callable[[str], None],
    ) -> None: ...
    def __call__(self, event: str, /) -> None: ...
    def insert(self, hook: Any, priority: int, /) -> int: ...
    def replace(self, hooks: Iterable[tuple[Any, int]], /) -> None: ...
    def listeners(self, event: str, /) -> list[Any]: ...
    def start_timing(self, max_spans: int, /) -> None: ...
    def stop_timing(self) -> None: ...
    def timings(self) -> list[tuple[Any, str, int, float, float, float]] | None: ...
    def spans(self) -> list[tuple[Any, str, int, int]]: ...

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
    again: int,
    kwargs: dict[str, Any] | None,
) -> int: ...

class Policy:
    """A schedule without warm-up; see hookrun/schedules/policies.py."""

    @property
    def needs_total(self) -> bool: ...
    def __call__(self, base: float, step: int, total: int = 0) -> float: ...

class policies:
    """A submodule: makes policies; the arguments are the fields of their definitions.

    A target is a value, or where ``relative``, a fraction of the base value. Each raises ValueError
    where its definition does.
    """

    @staticmethod
    def Fixed() -> Policy: ...
    @staticmethod
    def Step(period: int, gamma: float, minimum: float = ...) -> Policy: ...
    @staticmethod
    def MultiStep(milestones: Sequence[int], gamma: float, minimum: float = ...) -> Policy: ...
    @staticmethod
    def Exp(gamma: float) -> Policy: ...
    @staticmethod
    def Inv(gamma: float, power: float) -> Policy: ...
    @staticmethod
    def Poly(power: float, end: float) -> Policy: ...
    @staticmethod
    def CosineAnnealing(target: float, relative: bool = False) -> Policy: ...
    @staticmethod
    def LinearAnnealing(target: float, relative: bool = False) -> Policy: ...
    @staticmethod
    def FlatCosineAnnealing(
        start_percent: float, target: float, relative: bool = False
    ) -> Policy: ...
    @staticmethod
    def CosineRestart(
        periods: Sequence[int], weights: Sequence[float], target: float, relative: bool = False
    ) -> Policy: ...
    @staticmethod
    def Cyclic(
        peak: float, end: float, times: int, up: float, strategy: str, gamma: float
    ) -> Policy: ...
    @staticmethod
    def OneCycle(
        pct_start: float,
        peak: float,
        end: float,
        strategy: str,
        three_phase: bool,
        total_steps: int = 0,
    ) -> Policy: ...
    @staticmethod
    def WSD(
        decay_steps: int,
        decay_ratio: float,
        strategy: str,
        target: float,
        relative: bool = False,
    ) -> Policy: ...
    @staticmethod
    def Sequential(policies: Sequence[Policy], milestones: Sequence[int]) -> Policy: ...

class Warmup:
    """A factor over the first iterations of a run."""

    def factor(self, iteration: int) -> float: ...

def make_warmup(kind: str, iters: int, ratio: float) -> Warmup: ...

class GroupSchedule:
    """Sets one value of every parameter group at each iteration.

    Where it has not been compiled, or the optimizer has other groups than it was compiled for, it
    leaves the step to Python.
    """

    def compile(
        self,
        groups: list[dict[str, Any]] | dict[str, list[dict[str, Any]]],
        base: list[float] | dict[str, list[float]],
        policies: list[Policy] | dict[str, list[Policy]],
        by_epoch: bool,
        warmup: Warmup | None,
        skipped_iters: int,
    ) -> None:
        """Take this schedule from the next step on.

        Args:
            groups: the parameter groups; for a dict of optimizers, such lists by name.
            base: the value that each starts from, in the same form. The lists are kept, so that a
                change to them takes effect.
            policies: one for each group, or one for all, in the same form.
            by_epoch: whether the policies count epochs.
            warmup: the factor at each iteration; None for no warm-up.
            skipped_iters: iterations that do not count, because their steps were skipped.
        """

    def clear(self) -> None:
        """Leave all steps to Python until ``compile``."""

    def regular(self) -> list[float] | dict[str, list[float]] | None:
        """The values of the latest step without warm-up; None where none was taken yet."""

    def action(self) -> Action:
        """Takes the step; called before each iteration."""

def make_group_schedule(
    value: str, python_step: Callable[[], Callable[[RunState], object] | None]
) -> GroupSchedule:
    """A schedule that is not compiled yet.

    Args:
        value: ``"lr"`` or ``"momentum"``.
        python_step: gives the function that takes a step in Python, or None where that is gone,
            as a ``weakref.WeakMethod`` does.
    """

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
    @staticmethod
    def getenv(name: str) -> str | None:
        """An environment variable, or None; ``os.environ.get`` takes ten times as long."""

class BatchCursor:
    """Fetches and counts batches; the native base of `hookrun.data.IterLoader`.

    Where a pass has not begun or has ended, it calls ``self._first_batch()``.
    """

    #: The iterator of the current pass; None before it begins.
    _batches: Any
    #: Batches yielded in the current pass.
    _position: int
    #: Finished passes.
    _epoch: int

    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

class StepPlan:
    """Steps of one optimizer on the CPU, bound once; see `hookrun.ops.bound_step`."""

    def step(
        self,
        optimizer: Any,
        model_params: Sequence[Any] | None,
        ema: Sequence[Any] | None,
        inverse_scale: float,
        max_norm: float | None,
        needs_norm: bool,
        may_skip: bool,
        error_if_nonfinite: bool,
        ema_momentum: float,
        threads: int,
    ) -> float | str:
        """Take a step, or skip it.

        Returns:
            The norm of the unscaled gradients, negative where none is needed; or a text that says
            why the plan does not hold, and then nothing has been written.
        """

def bind_step(
    optimizer: Any, model_params: Sequence[Any] | None, ema: Sequence[Any] | None, is_sgd: bool
) -> StepPlan | str:
    """A plan for the steps of torch's SGD, or Adam or AdamW; or a text that says why there is none.

    Args:
        optimizer: the optimizer.
        model_params: what its gradients are read from and its parameters are copied to, one for
            each parameter; one that is the parameter itself needs no copy. None for no copies.
        ema: the averages, one for each parameter. None for no averages.
        is_sgd: which of them it is.
    """

def clear_gradients(params: Sequence[Any]) -> None:
    """Set the ``grad`` of all parameters to None, as ``Optimizer.zero_grad()`` does."""

def are_params_of(params: Sequence[Any], optimizers: Sequence[Any]) -> bool:
    """Whether the optimizers' groups have these very parameters, in this order."""

class DevicePlan:
    """Steps of one optimizer on a device, bound once; see `hookrun.ops.device_step`."""

    def verify(
        self,
        optimizer: Any,
        model_params: Sequence[Any] | None,
        ema: Sequence[Any] | None,
        ema_momentum: float,
        max_norm: float | None,
    ) -> tuple[int, int] | str | None:
        """Verify that all is as it was bound, and write the block of the next step.

        Returns:
            None where the device has this block already, or else the begin and the end of the part
            that differs; or a text that says why the plan does not hold.
        """

    def finish(self) -> None:
        """After the launches: increase the versions of the tensors that they write."""

def bind_device_step(
    optimizer: Any,
    model_params: Sequence[Any] | None,
    ema: Sequence[Any] | None,
    is_sgd: bool,
    block: Any,
    sent: Any,
) -> DevicePlan | str:
    """A plan for the steps of the parameters that have gradients now; or why there is none.

    Args:
        optimizer, model_params, ema, is_sgd: as for `bind_step`.
        block: int64, written at each step: settings, as bits, and addresses of the gradients.
        sent: what the device has of it, int64; whoever sends the block keeps it up to date.
    """

class cuda:
    """Launching compiled kernels through the CUDA driver library; see csrc/cuda."""

    @final
    class Driver:
        """The driver library; raises RuntimeError where it cannot be opened."""

        def __init__(self, library: str) -> None: ...
        @property
        def library(self) -> str: ...

    @final
    class Kernel:
        """A kernel, loaded on the device that is current when it is made."""

        def __init__(
            self, driver: cuda.Driver, cubin: bytes, name: str, threads: int, shared_bytes: int
        ) -> None: ...

    @final
    class LaunchSequence:
        """Launches on one device, with arguments that lie ready.

        What does not fit what a kernel was compiled for, and what the driver refuses, raises
        RuntimeError; the arguments are checked before the first kernel is launched.
        """

        def __init__(self, driver: cuda.Driver) -> None: ...
        def add(
            self,
            kernel: cuda.Kernel,
            grid: int,
            arguments: Sequence[tuple[int, int, bool]],
            varying: Sequence[int],
        ) -> None:
            """Append a launch.

            Args:
                kernel: loaded on the same device as the others.
                grid: how many blocks.
                arguments: value, size in bytes, and whether it must be a multiple of 16.
                varying: the numbers of the arguments that each run sets; -1 for one that this
                    launch does not have.
            """

        def __len__(self) -> int: ...
        def run(self, stream: int, addresses: Sequence[int]) -> None:
            """Launch all on a stream, whichever device is current.

            Args:
                stream: the driver's handle of a stream of their device; 0 for its default stream.
                addresses: for the varying arguments.
            """

    @final
    class UploadRing:
        """Blocks of pinned memory for copies to the device that is current when it is made."""

        def __init__(
            self, driver: cuda.Driver, memory: int, block_bytes: int, blocks: int
        ) -> None: ...
        def send(self, to: int, from_address: int, bytes: int, stream: int) -> bool:
            """Copy to the device; False, and nothing is done, where all blocks are in use."""
