from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, final

EVENTS: Final[tuple[str, ...]]

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
    _epoch_length: int | None
    _firing: str | None
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
    def update(self, vars: dict[str, Any], count: float = 1) -> None: ...
    def average(self, n: int = 0) -> None: ...
    def reserve(self, n: int, /) -> None: ...
    def _clear_values(self) -> None: ...
    def _push(self, name: str, value: float, count: float, /) -> None: ...
    def _push_totals(
        self, name: str, weighted_sum: float, count: float, pushes: int, /
    ) -> None: ...
    def _history(self) -> dict[str, tuple[list[float], list[float]]]: ...

def run_epoch(
    runner: RunState,
    batches: Iterable[Any],
    train: bool,
    first_inner_iter: int,
    kwargs: dict[str, Any] | None,
) -> None: ...
def run_iters(
    runner: RunState,
    loader: Iterator[Any],
    train: bool,
    count: int,
    kwargs: dict[str, Any] | None,
) -> None: ...
def timer_actions() -> dict[str, Action]: ...
