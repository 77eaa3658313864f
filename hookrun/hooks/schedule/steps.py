"""How schedules count the steps of a runner, or of a stand-in that has some of its attributes."""

from __future__ import annotations

from typing import Any

from hookrun import _native


class WithoutSkipped:
    """A runner whose iteration leaves out those whose optimizer step was skipped.

    Args:
        runner: the runner; all other attributes are its own.
        skipped: how many iterations to leave out.
    """

    def __init__(self, runner: Any, skipped: int) -> None:
        self.inner = runner
        self.skipped = skipped
        self.iter = runner.iter - skipped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def steps_done(runner: Any, by_epoch: bool, spans_run: bool) -> int:
    """The steps of a schedule that are done.

    Args:
        runner: the runner.
        by_epoch: whether the schedule counts epochs.
        spans_run: whether its policy sees nothing but the fraction of the run that is done.
    """
    if by_epoch:
        return int(runner.epoch)
    if spans_run and isinstance(runner, WithoutSkipped):
        return steps_done(runner.inner, by_epoch, spans_run) - runner.skipped
    spans = spans_run and isinstance(runner, _native.RunState)  # else a stand-in
    return int(runner.schedule_step if spans else runner.iter)


def total_steps(runner: Any, by_epoch: bool, spans_run: bool) -> int:
    """The steps of a schedule over the whole run; the arguments are those of ``steps_done``.

    Raises:
        ValueError: they are not known.
    """
    if isinstance(runner, WithoutSkipped):
        return total_steps(runner.inner, by_epoch, spans_run)
    limit = "max_epochs" if by_epoch else "max_iters"
    spans = spans_run and not by_epoch and isinstance(runner, _native.RunState)
    total: int | None = runner.schedule_total if spans else getattr(runner, limit, None)
    if total is None:
        raise ValueError(f"the schedule needs the length of the run, but {limit} is None")
    return total


def length_of_run(runner: Any, by_epoch: bool) -> int | None:
    """The epochs or iterations of the run; None where they are not known."""
    limit = getattr(runner, "max_epochs" if by_epoch else "max_iters", None)
    return limit if isinstance(limit, int) else None


def iters_trained(runner: Any) -> int:
    """Iterations that have been trained, also where the runner counts fewer since it resumed."""
    uncounted = getattr(runner, "uncounted_iters", 0)
    return int(runner.iter) + (uncounted if isinstance(uncounted, int) else 0)


def unknown(runner: Any, limit: str) -> bool:
    """Whether a runner says that it does not know the limit; a stand-in may say nothing of it."""
    return hasattr(runner, limit) and getattr(runner, limit) is None


def require_epochs(hook: Any, runner: Any, name: str) -> None:
    """Refuse a run that is not measured in epochs.

    Args:
        hook: the hook, for the error.
        runner: whose run it is.
        name: the argument that counts epochs.

    Raises:
        ValueError: the run is measured in iterations.
    """
    if unknown(runner, "max_epochs"):
        raise ValueError(
            f"{type(hook).__name__}: {name} must be False, not True: {type(runner).__name__} "
            "measures its run in iterations, not in epochs"
        )


def require_iterations(hook: Any, runner: Any) -> None:
    """Refuse a run whose number of iterations is not known.

    Raises:
        ValueError: it is not.
    """
    if unknown(runner, "max_iters"):
        raise ValueError(
            f"{type(hook).__name__}: by_epoch=False needs the number of iterations of the run, "
            "which is unknown because the data loader has no length; by_epoch must be True, or "
            "the loader must have a length"
        )
