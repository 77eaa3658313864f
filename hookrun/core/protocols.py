"""What only some hooks have: a hook with the method of a protocol here is asked for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class LendsWeights(Protocol):
    """A hook that keeps other weights of the model, such as averages, and lends them to it.

    Its ``close`` takes them back where it is given an error. Where Ctrl-C has come while hooks were
    closed, it is called once more.
    """

    def applied(self) -> AbstractContextManager[Any]:
        """A context in which the model holds the other weights."""


@runtime_checkable
class ResumesRun(Protocol):
    """A hook that may resume the run from a checkpoint of its own choice."""

    def resume_run(self, runner: Any) -> None:
        """Call ``runner.resume(...)`` where the run is to go on from a checkpoint.

        It is called when a run starts, before the event ``before_run``: then all hooks find the
        run resumed, whatever the priorities.

        Args:
            runner: whose run it is.
        """


@runtime_checkable
class ChecksBeforeSaving(Protocol):
    """A hook that may refuse a checkpoint of the run, because the state to be saved is no good."""

    def check_before_saving(self, runner: Any) -> None:
        """Raise where the state that is about to be saved must not be.

        It is called before each checkpoint of the run, whoever saves it and whatever the priority
        of the hook is: in the process that writes it, and in all processes where all know of the
        save. Nothing has been written then, and nothing will be: the files that there are stay. The
        model holds the weights to evaluate; see ``runner.eval_weights()``.

        Args:
            runner: whose state it is.

        Raises:
            Exception: what is wrong with the state. It ends the run.
        """


@runtime_checkable
class ChecksRunner(Protocol):
    """A hook that can tell only from its runner whether its arguments make sense."""

    def check_runner(self, runner: Any) -> None:
        """Raise where the hook could not do in this runner what it was made for.

        It is called when the hook is registered, before it is in the list of hooks.

        Args:
            runner: the runner.

        Raises:
            Exception: what does not fit. The hook is not registered.
        """


@runtime_checkable
class AveragesGradients(Protocol):
    """A hook that may average gradients over the processes of a job itself."""

    def averages_gradients(self, runner: Any) -> bool:
        """Whether it does so in this run, so that the model needs no parallel wrapper.

        It is called when a run starts, before the event ``before_run``.

        Args:
            runner: whose run it is.
        """


@runtime_checkable
class AveragesInStep(Protocol):
    """A hook that takes optimizer steps and can move averages of the parameters within them.

    EMAHook asks the one that fires before it, and moves the averages itself where it cannot. It
    does not ask where ``after_train_iter`` is overridden below the class that declares
    ``average_in_step``: nobody knows then what happens after the step.
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


@runtime_checkable
class ChecksResumed(Protocol):
    """A hook that can tell from its runner whether it can go on from a checkpoint."""

    def check_resumed(
        self, runner: Any, checkpoint: Mapping[str, Any], state: Mapping[str, Any] | None
    ) -> None:
        """Raise where the hook could not take over what the checkpoint has for it.

        It is called before anything of the run has been changed; for a hook that is registered
        later, when it is.

        Args:
            runner: whose run it is.
            checkpoint: what the file holds; it looks as one of a run does.
            state: the hook's own part of it, if there is one; it looks as ``state_layout`` says.

        Raises:
            ValueError: what does not fit, and where in the file.
        """


@runtime_checkable
class WritesLogs(Protocol):
    """A logger: a hook that writes the log buffer's output somewhere. LoggerHook is one."""

    enabled: bool
    """False once its back end has failed."""

    def flush(self, runner: Any) -> None:
        """Log now what would be logged at the end of the event that fires."""

    def log_validation(self, runner: Any) -> None:
        """Log the averages of a validation that has ended; for runners without epochs."""

    def count_by_iter(self, runner: Any) -> None:
        """Count iterations of the whole run; for runners without epochs, before the run."""


@runtime_checkable
class HasNativeCalls(Protocol):
    """A hook for some of whose methods C++ can stand in."""

    def native_calls(self) -> Mapping[str, Callable[[Any], Any]]:
        """The native stand-ins, by event; those left out are called in Python.

        It is asked for when the hook is registered and when the runner is refreshed. A stand-in may
        be given only while no method that it replaces is overridden; see
        :func:`hookrun.core.overrides`.
        """


@runtime_checkable
class SavesCheckpoints(Protocol):
    """A hook that saves checkpoints of the run."""

    def checkpoint_folder(self, runner: Any) -> tuple[str, Any] | None:
        """The folder that they go to, and its storage (a FileClient); None for a hook that was
        asked to save none.

        ``runner.resume('auto')`` looks there too.
        """


@runtime_checkable
class GathersState(Protocol):
    """A hook whose state is spread over the ranks."""

    def gather_state(self, runner: Any) -> None:
        """Bring together what each rank has of its own, for the ``state_dict`` of rank 0.

        It is called on all ranks, right before the checkpoint.
        """


@runtime_checkable
class SynchronizesRanks(Protocol):
    """A hook that may use collectives amid a run, where it stands on all ranks alike."""

    def sync_signature(self, runner: Any) -> Any:
        """Values that all ranks must share before this hook may use collectives; None if it uses
        none.

        It is asked for once, after ``before_run``: plain values to compare, which decide when the
        hook would do so. It may where ``runner.is_synchronized(hook)``.
        """


@runtime_checkable
class OwnsDataLoaders(Protocol):
    """A hook that goes through data loaders by itself, as EvalHook does with its own."""

    def data_loaders(self) -> Sequence[Any]:
        """These loaders.

        Checkpoints keep what their order follows from, and whether their persistent workers have
        been started: a resumed run draws the same random numbers as one that was not stopped.
        """
