"""The base class of hooks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from .events import GENERIC, STAGES
from .overrides import overrides
from .registry import Registry
from .triggers import Trigger

HOOKS = Registry("hook")


class Hook:
    """Something to do at points of a training run: override the methods of those points.

    Every point method takes the runner and returns nothing. A hook listens to the points that it
    overrides, and costs nothing at the others. ``before_epoch``, ``after_epoch``, ``before_iter``
    and ``after_iter`` serve training and validation unless the specific point is overridden.

    What only some hooks have is a protocol in :mod:`hookrun.core.protocols`: a hook that has the
    methods of one is asked for them.

    Class attributes:
        reads, writes: what the hook touches, out of ``RESOURCES``; an empty set for nothing, None
            where that is not declared. Registration refuses or reorders hooks whose declarations
            would corrupt a run. A hook of which it is not known that it leaves the parameters alone
            keeps EMAHook from averaging within the optimizer's step, if it stands between the two.
        state_layout: how what ``state_dict`` gives looks: a check of :mod:`hookrun.core.schema`, as
            a static method. A file in which it does not is refused. None: unknown.
    """

    stages: ClassVar[tuple[str, ...]] = STAGES
    RESOURCES: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "gradients", "learning_rate", "momentum", "checkpoint", "log"}
    )
    reads: ClassVar[frozenset[str] | None] = None
    writes: ClassVar[frozenset[str] | None] = None

    state_layout: ClassVar[Any] = None

    # The runner sets these when the hook is registered.
    priority: int
    _refresh: Callable[[], Callable[[], None] | None]

    def before_run(self, runner: Any) -> None: ...

    def after_run(self, runner: Any) -> None: ...

    def before_epoch(self, runner: Any) -> None: ...

    def after_epoch(self, runner: Any) -> None: ...

    def before_iter(self, runner: Any) -> None: ...

    def after_iter(self, runner: Any) -> None: ...

    def before_train_epoch(self, runner: Any) -> None:
        self.before_epoch(runner)

    def before_val_epoch(self, runner: Any) -> None:
        self.before_epoch(runner)

    def after_train_epoch(self, runner: Any) -> None:
        self.after_epoch(runner)

    def after_val_epoch(self, runner: Any) -> None:
        self.after_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        self.before_iter(runner)

    def before_val_iter(self, runner: Any) -> None:
        self.before_iter(runner)

    def after_train_iter(self, runner: Any) -> None:
        self.after_iter(runner)

    def after_val_iter(self, runner: Any) -> None:
        self.after_iter(runner)

    def close(self, runner: Any, error: BaseException | None) -> None:
        """Release what the hook holds. No event: called for every hook however a run ends.

        Args:
            runner: the runner whose run ends.
            error: what ended the run, or None where it ended as planned.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the hook: plain types and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` gave in the run that is resumed."""

    def triggers(self) -> Mapping[str, Trigger]:
        """When the methods of this very class are due, by event; events left out are always due.

        A trigger holds only while none of the event's method and the ``every_n_*`` and
        ``is_last_*`` methods is overridden below this class (:func:`hookrun.core.overrides`): a
        subclass that overrides one of them is called at every event. The method itself must check
        again, so that ``super()`` works.
        """
        return {}

    def every_n_epochs(self, runner: Any, n: int) -> bool:
        """Whether the current epoch completes a multiple of ``n`` epochs; never for n <= 0."""
        return (runner.epoch + 1) % n == 0 if n > 0 else False

    def every_n_inner_iters(self, runner: Any, n: int) -> bool:
        """Whether the current iteration completes a multiple of ``n`` within the epoch."""
        return (runner.inner_iter + 1) % n == 0 if n > 0 else False

    def every_n_iters(self, runner: Any, n: int) -> bool:
        """Whether the current iteration completes a multiple of ``n`` iterations of the run."""
        return (runner.iter + 1) % n == 0 if n > 0 else False

    def end_of_epoch(self, runner: Any) -> bool:
        """Whether the current batch is the loader's last; False where the loader has no length.

        A loader whose ``len()`` an earlier epoch has shown to be wrong counts by what it gave.
        """
        length = getattr(runner, "epoch_length", None)
        if not isinstance(length, int):  # outside of an epoch, or a stand-in
            try:
                length = len(runner.data_loader)
            except TypeError:
                return False
        return bool(runner.inner_iter + 1 == length)

    def is_last_epoch(self, runner: Any) -> bool:
        """Whether the current epoch is the last of the run."""
        return bool(runner.epoch + 1 == runner._max_epochs)

    def is_last_iter(self, runner: Any) -> bool:
        """Whether the current iteration is the last of the run."""
        return bool(runner.iter + 1 == runner._max_iters)

    def get_triggered_stages(self) -> list[str]:
        """The points to which the hook listens, in firing order."""
        return [stage for stage in Hook.stages if listening_method(self, stage) is not None]

    def __getstate__(self) -> dict[str, Any]:
        """Without the tie to a runner, so that hooks can be copied and pickled."""
        return {name: value for name, value in vars(self).items() if name != "_refresh"}


SCHEDULING_METHODS = (
    "every_n_epochs",
    "every_n_inner_iters",
    "every_n_iters",
    "end_of_epoch",
    "is_last_epoch",
    "is_last_iter",
)


class TriggerSetting:
    """A hook attribute that its triggers are made of: assigning it updates the dispatcher.

    >>> class Report(Hook):
    ...     interval = TriggerSetting()
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:
        # There is none: without it, reading the attribute is as quick as reading any other.
        def __get__(self, hook: Any, owner: type | None = None) -> Any: ...

    def __set__(self, hook: Any, value: Any) -> None:
        vars(hook)[self.name] = value
        refresh = vars(hook).get("_refresh")
        if refresh is not None and (call := refresh()) is not None:
            call()

    def __delete__(self, hook: Any) -> None:
        del vars(hook)[self.name]


def tie_to_runner(hook: Hook, refresh: Callable[[], None]) -> None:
    """Make the hook's trigger settings refresh the runner; the runner is not kept alive."""
    vars(hook)["_refresh"] = weakref.WeakMethod(refresh)


def writes_of(hook: Hook) -> frozenset[str]:
    """What the hook declares to write; nothing where it declares nothing."""
    return hook.writes or frozenset()


def untie_from_runner(hook: Hook) -> None:
    """Undo :func:`tie_to_runner`."""
    vars(hook).pop("_refresh", None)


def listening_method(hook: Hook, event: str) -> str | None:
    """The name of the method that serves the event, or None where the hook does not listen.

    The event's own method if it is overridden or set on the hook, else the generic one that it
    falls back to, if that is. For a custom event, the method of that name.
    """
    for name in (event, GENERIC.get(event)):
        if name is None:
            continue
        if overrides(hook, Hook, (name,)):
            return name
    return None
