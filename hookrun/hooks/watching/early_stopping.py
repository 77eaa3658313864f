"""EarlyStoppingHook: ends a run whose score no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar

from hookrun.core import HOOKS, Hook, starts_with_defaults
from hookrun.core.errors import did_you_mean
from hookrun.core.log_output import EVALUATED
from hookrun.core.sync_guard import may_sync
from hookrun.distributed import all_gather_objects

from .. import _layouts
from ..evaluation.arguments import GREATER_KEYS, LESS_KEYS
from ..evaluation.evaluation import EvalHook
from ..evaluation.judge import Judge
from ..evaluation.score_rule import GREATER, LESS, rule_of
from ..evaluation.scores import as_plain

_RULES = {"greater": GREATER, "max": GREATER, "less": LESS, "min": LESS}


@HOOKS.register_module()
@starts_with_defaults(monitor="acc")
class EarlyStoppingHook(Hook):
    """Ends the run when a score has not improved for ``patience`` evaluations in a row.

    The scores are those of the run's EvalHooks. The run ends after the evaluation, as by
    ``runner.stop()``: in a run by epochs after the epoch, by iterations after the iteration. In
    distributed training the scores of rank 0 decide. If all ranks evaluate at the same points, all
    end at that point; otherwise at one that they agree on shortly after.

    Checkpoints have the best score and the number of evaluations since, so that a resumed run ends
    where a run that was not interrupted does. A run that is resumed after it has ended by this hook
    ends again before its first step; a larger ``patience`` lets it go on.

    Args:
        monitor: the name of the score.
        patience: the number of evaluations without improvement that end the run.
        mode: ``'greater'`` (or ``'max'``) if a greater score is better, ``'less'`` (or ``'min'``)
            if a smaller one is. By default the words in the name decide, as for ``save_best`` of
            `EvalHook`; a name that says nothing is refused.
        threshold: by how much a score must be better than the best one to be an improvement, in
            units of the score. A score that is NaN is never an improvement.

    Raises:
        TypeError: an argument of another type; at an evaluation, the score is no number.
        ValueError: ``patience`` or ``threshold`` is out of range; an unknown ``mode``; the name of
            the score does not say which mode applies; the run has no EvalHook.
        KeyError: no evaluation gives the score; the message has those that there are.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"log"})
    writes: ClassVar[frozenset[str]] = frozenset()
    state_layout: ClassVar[Any] = staticmethod(_layouts.early_stopping)

    def __init__(
        self, monitor: str, patience: int = 3, mode: str | None = None, threshold: float = 0.0
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStoppingHook: monitor is the name of a score, not {monitor!r}")
        if not isinstance(patience, int) or isinstance(patience, bool):
            raise TypeError(f"EarlyStoppingHook: patience must be an int, not {patience!r}")
        if patience < 1:
            raise ValueError(f"EarlyStoppingHook: patience must be at least 1, not {patience}")
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise TypeError(f"EarlyStoppingHook: threshold must be a number, not {threshold!r}")
        if not 0 <= float(threshold) < math.inf:
            raise ValueError(
                f"EarlyStoppingHook: threshold must be at least 0 and finite, not {threshold!r}"
            )
        self.monitor = monitor
        self.patience = patience
        self.threshold = float(threshold)
        self.rule = _resolve_mode(monitor, mode)
        self.best: float | None = None
        self.waited = 0
        """The number of evaluations since the best one."""
        self._earlier: dict[str, Any] = {}
        self._was_observed: bool | None = None  # the score, in this evaluation; None: not yet known
        self._names: set[str] = set()  # of all scores seen
        self._was_given = False  # whether the score was among them

    def before_run(self, runner: Any) -> None:
        self._names, self._was_given = set(), False
        if _count_evaluations(runner) == 0:
            raise ValueError(
                f"EarlyStoppingHook: nothing gives the score {self.monitor!r}, since the run has "
                "no EvalHook: register one"
            )
        self._stop_if_out_of_patience(runner, on_all_ranks=False)

    def evaluation_begins(self, runner: Any) -> None:
        """Put aside the score of an earlier evaluation that is not logged yet; a custom event."""
        self._was_observed = None
        self._earlier = {
            name: value for name, value in runner.log_buffer.output.items() if name == self.monitor
        }
        for name in self._earlier:
            del runner.log_buffer.output[name]

    @may_sync
    def evaluation_scored(self, runner: Any) -> None:
        """Take up the scores before a best checkpoint is saved; a custom event of EvalHook."""
        output = runner.log_buffer.output
        names = [name for name in output if name != EVALUATED]
        score = as_plain(output.get(self.monitor))
        if runner.is_synchronized(self):
            score, names = all_gather_objects((score, names))[0]
        self._names.update(names)
        self._was_observed = self.monitor in names
        if self._was_observed:
            self.observe(score)
        elif names and _count_evaluations(runner) == 1:  # of several, another one may give it
            raise self._not_given()

    @may_sync
    def evaluation_ends(self, runner: Any) -> None:
        """End the run if the score has not improved; a custom event of EvalHook."""
        if self._was_observed is None:  # of a subclass of EvalHook that evaluates in its own way
            self.evaluation_scored(runner)
        for name, value in self._earlier.items():
            runner.log_buffer.output.setdefault(name, value)
        if self._was_observed:
            self._stop_if_out_of_patience(runner, runner.is_synchronized(self))

    def after_run(self, runner: Any) -> None:
        if self._names and not self._was_given:
            raise self._not_given()

    def observe(self, score: Any) -> bool:
        """Count an evaluation with this score; returns whether it is the best so far.

        Raises:
            TypeError: it is no number.
        """
        if not isinstance(score, Real) or isinstance(score, bool):
            raise TypeError(
                f"EarlyStoppingHook: monitor={self.monitor!r} compares numbers, but the score is "
                f"{score!r:.80}"
            )
        self._was_given = True
        judge = Judge(self.monitor, self.rule)
        improves = judge.is_better(float(score), self.best, self.threshold)
        if improves:
            self.best, self.waited = float(score), 0
        else:
            self.waited += 1
        return improves

    def sync_signature(self, runner: Any) -> Any:
        """Values that all ranks must share to end at the same point; None if it is unknown when
        they evaluate.
        """
        plans = [
            hook.evaluation_plan(runner) for hook in runner.hooks if isinstance(hook, EvalHook)
        ]
        if None in plans:
            return None
        return (self.monitor, self.rule, self.patience, self.threshold, self.waited, *plans)

    def state_dict(self) -> dict[str, Any]:
        best = {} if self.best is None else {"best": self.best}
        return {"monitor": self.monitor, "rule": self.rule, "waited": self.waited, **best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if (state["monitor"], state["rule"]) == (self.monitor, self.rule):  # else it starts anew
            self.best, self.waited = state.get("best"), int(state["waited"])

    def _stop_if_out_of_patience(self, runner: Any, on_all_ranks: bool) -> None:
        if self.waited < self.patience:
            return
        best = "all are NaN" if self.best is None else f"the best is {self.best:g}"
        runner.stop(
            f"{self.monitor} has not improved for {self.waited} evaluations ({best})",
            on_all_ranks=on_all_ranks,
        )

    def _not_given(self) -> KeyError:
        names = ", ".join(sorted(self._names))
        hint = did_you_mean(self.monitor, self._names)
        return KeyError(
            f"EarlyStoppingHook: no evaluation gives monitor={self.monitor!r}. The scores are: "
            f"{names}." + (f" {hint}" if hint.startswith("Did") else "")
        )


def _resolve_mode(monitor: str, mode: Any) -> str:
    if mode is not None:
        if mode not in _RULES:
            raise ValueError(
                "EarlyStoppingHook: mode must be 'greater' ('max'), 'less' ('min') or None, not "
                f"{mode!r}"
            )
        return _RULES[mode]
    try:
        return rule_of(monitor, GREATER_KEYS, LESS_KEYS, "EarlyStoppingHook")
    except ValueError as error:
        text = str(error).replace("rule=", "mode=")
        raise ValueError(text) from None


def _count_evaluations(runner: Any) -> int:
    return sum(isinstance(hook, EvalHook) for hook in runner.hooks)
