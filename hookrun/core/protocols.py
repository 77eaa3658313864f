"""Optional methods of hooks: the runner calls them on every hook that has them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

P = TypeVar("P")


def implements(hook: Any, protocol: type[P]) -> TypeIs[P]:
    """Whether the class of the hook, or the hook itself, has all methods of a protocol.

    What ``__getattr__`` would find does not count: a hook that wraps another one and forwards what
    it does not know is no logger because it wraps a logger.
    """
    own, cls = vars(hook), type(hook)
    return all(
        callable(own.get(name, getattr(cls, name, None)))
        for name, member in vars(protocol).items()
        if callable(member) and not name.startswith("_")
    )


class LendsWeights(Protocol):
    """A hook that keeps other weights for the model, such as averages, and can swap them in.

    If a run ends with an error, the hook's ``close`` must restore the model's own weights. After a
    Ctrl-C during the closing of hooks, ``close`` is called a second time.
    """

    def applied(self) -> AbstractContextManager[Any]:
        """A context in which the model holds the other weights."""


class WatchesEvaluation(Protocol):
    """A hook that follows the batches of an evaluation, as a progress bar does."""

    def watch_evaluation(self, loader: Iterable[Any]) -> Iterable[Any]:
        """A stand-in for the loader that yields the same batches.

        Called at each evaluation by EvalHook, unless it has a ``test_fn``, which gets the loader
        itself.

        Args:
            loader: the loader of the evaluation.
        """


class ResumesRun(Protocol):
    """A hook that may resume the run from a checkpoint that it chooses."""

    def resume_run(self, runner: Any) -> None:
        """Call ``runner.resume(...)`` if the run is to resume from a checkpoint.

        Called when a run starts, before the event ``before_run``, so that the run is resumed before
        any hook's ``before_run``, whatever the priorities.

        Args:
            runner: the runner that starts.
        """


class ChecksBeforeSaving(Protocol):
    """A hook that may refuse to save a checkpoint because the state is invalid."""

    def check_before_saving(self, runner: Any) -> None:
        """Raise if the state that is about to be saved must not be saved.

        Called before each checkpoint of the run, whichever hook saves it and whatever the priority
        of this hook: on the rank that writes the file; and on all ranks, if all of them take part
        in saving. If this raises, nothing is written and existing files stay. The model holds the
        weights to evaluate; see ``runner.eval_weights()``.

        Args:
            runner: the runner whose state is saved.

        Raises:
            Exception: what is wrong with the state. It ends the run.
        """


class ChecksRunner(Protocol):
    """A hook whose arguments can only be checked together with the runner."""

    def check_runner(self, runner: Any) -> None:
        """Raise if the hook cannot work in this runner.

        Called when the hook is registered, before it is added to the list of hooks.

        Args:
            runner: the runner.

        Raises:
            Exception: what does not fit. The hook is not registered.
        """


class AveragesGradients(Protocol):
    """A hook that may average gradients over all ranks itself."""

    def averages_gradients(self, runner: Any) -> bool:
        """Whether it does so in this run, so that the model needs no parallel wrapper.

        Called when a run starts, before the event ``before_run``.

        Args:
            runner: the runner that starts.
        """


class AveragesInStep(Protocol):
    """A hook that takes optimizer steps and can move averages of the parameters within them.

    EMAHook asks the one that fires before it, and moves the averages itself where it cannot. It
    does not ask where ``after_train_iter`` is overridden below the class that declares
    ``average_in_step``: what happens after the step is unknown then.
    """

    def average_in_step(
        self, averages: Mapping[int, Tensor], momentum: Callable[[Any], float | None]
    ) -> bool:
        """Let each step from now on move averages of the parameters, in its pass over them.

        Args:
            averages: by the ``id`` of the optimizer's parameter, one for each.
            momentum: takes the runner and gives the weight of the new parameters at this iteration;
                None to leave averages alone again.

        Returns:
            Whether steps will. Ask ``averaged_at`` after each: not every iteration steps.
        """

    def stop_averaging(self) -> None:
        """Leave averages alone again."""

    def averaged_at(self, iteration: int) -> bool:
        """Whether the step of this iteration took care of the averages: it has moved them, or was
        skipped."""

    def skipped_at(self, iteration: int) -> bool:
        """Whether this iteration is known to have skipped its step."""


class ChecksResumed(Protocol):
    """A hook that checks, before a run is resumed, whether it can resume from the checkpoint."""

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Raise if the hook cannot load its state from the checkpoint.

        Called before resuming has changed anything; for a hook that is registered after resuming,
        when it is registered.

        Args:
            runner: the runner to resume.
            checkpoint: the content of the file, whose layout has been checked.
            state: the hook's state in it, whose layout has been checked by ``state_layout``; None
                if there is none, or no ``state_layout``.

        Raises:
            ValueError: what does not fit, and where in the file.
        """


class WritesLogs(Protocol):
    """A logger: a hook that writes the log buffer's output somewhere. LoggerHook is one."""

    enabled: bool
    """False after its back end has failed."""

    def flush(self, runner: Any) -> None:
        """Log now what would otherwise be logged at the end of the current event."""

    def decides_itself(self) -> bool:
        """Whether it averages and logs by methods of its own, which must be called to log now."""

    def log_validation(self, runner: Any) -> None:
        """Log the averages of a validation that has ended; called by runners without epochs."""

    def count_by_iter(self, runner: Any) -> None:
        """Count the iterations of the run, not of epochs; called by runners without epochs, before
        the run.
        """


class WritesMedia(Protocol):
    """A logger whose back end has more than scalars."""

    def media(self) -> Collection[str]:
        """What it can write: ``"images"``, ``"histograms"``, both or none."""

    def write_media(self, runner: Any, kind: str, name: str, array: Any) -> None:
        """Write an image, as bytes of shape (height, width, channels), or the distribution of a
        vector of finite values, now; called on rank 0 only. Must not modify the array.
        """


class RecordsMessages(Protocol):
    """A hook that records what the runner's logger says, from the first message of a run on."""

    def record_messages(self, runner: Any) -> None:
        """Begin to; called when a run starts, before all else. Ends when the hook is closed."""


class HasNativeCalls(Protocol):
    """A hook some of whose methods C++ can replace."""

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """The native replacements, by event; other events are called in Python.

        Called when the hook is registered and when the runner's hooks are refreshed. A replacement
        may be returned only while no method that it replaces is overridden; see
        `hookrun.core.overrides`.
        """


class IsolatesCalls(Protocol):
    """A hook some of whose methods must not end a run by an exception."""

    def isolated_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """What to call instead of the methods of these names.

        Called when the hook is registered and when the runner's hooks are refreshed.
        """


class SavesCheckpoints(Protocol):
    """A hook that saves checkpoints of the run.

    Where its attribute ``sharded`` is true, they are folders of which each rank writes a part, and
    so is the checkpoint of a run that a signal ends.
    """

    def checkpoint_folder(self, runner: Any) -> tuple[str, Any] | None:
        """The folder of the checkpoints and its storage (a FileClient); None if the hook is
        configured to save none.

        ``runner.resume('auto')`` searches it too.
        """


class GathersState(Protocol):
    """A hook whose state is distributed over the ranks."""

    def gather_state(self, runner: Any) -> None:
        """Gather the state of all ranks, for the ``state_dict`` of rank 0.

        Called on all ranks, right before the checkpoint.
        """


class SynchronizesRanks(Protocol):
    """A hook that uses collectives during a run, if all ranks have it with the same settings."""

    def sync_signature(self, runner: Any) -> Any:
        """Values that all ranks must share before this hook may use collectives; None if it uses
        none.

        Called once, after ``before_run``. Return plain values that decide when the hook uses
        collectives: they are compared over all ranks. The hook may use collectives only if
        ``runner.is_synchronized(hook)``.
        """


class RequiresAllRanks(Protocol):
    """A hook that all ranks must have, since they would wait for each other, or part, otherwise."""

    def required_signature(self, runner: Any) -> Any:
        """Values that must be the same on all ranks, such as when the hook acts; None if a rank may
        be without it.

        Called before ``before_run``. Return plain values. Where ranks differ, the run is refused on
        all of them.
        """


class SharesSettings(Protocol):
    """A hook that a rank may be without, but that all ranks that have it need alike."""

    def shared_settings(self, runner: Any) -> Mapping[str, Any]:
        """Plain values by name that must be the same on all ranks that have the hook.

        Called before ``before_run``. Where ranks differ, the run is refused on all of them, with
        the names and the values.
        """


class OwnsDataLoaders(Protocol):
    """A hook that has data loaders, as EvalHook does."""

    def data_loaders(self) -> Sequence[Any]:
        """The hook's data loaders.

        Checkpoints keep the random state that determines their order, and whether their persistent
        workers have been started, so that a resumed run draws the same random numbers as a run that
        was not interrupted.
        """
