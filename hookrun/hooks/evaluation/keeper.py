"""BestKeeper: the best checkpoint by each of the scores that decide in an EvalHook."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from hookrun.storage import FileClient

from .best import Best, best_of, file_name, load_best, save_best
from .judge import Judge
from .naming import label_of


class BestKeeper:
    """Decides which scores are the best so far, and keeps a checkpoint for each.

    Args:
        background: whether files are written in the background.

    Attributes:
        name: that of the EvalHook, which is a part of file names; empty for none.
        holds_first: whether ``best_score`` in ``hook_msgs`` is that of the first of these scores.
        rules: by the name of each score that decides, ``'greater'`` or ``'less'``; the first one
            first. None for ``'auto'``, until the score is known.
        folder: of the checkpoints.
        client: their storage.
    """

    def __init__(self, background: bool) -> None:
        self.name = ""
        self.holds_first = True
        self.rules: dict[str, str | None] = {}
        self.folder = ""
        self.client = FileClient()
        self.background = background

    def file_patterns(self) -> Iterator[tuple[str, str]]:
        """For each score, a pattern for the names of its files, and one such name."""
        for key in self.rules:
            example = file_name(label_of(self.name, key), "epoch", 1)
            known = re.escape(example.removesuffix("_epoch_1.pth"))
            if key == "auto":
                known = known.removesuffix("auto") + ".+"
            yield rf"{known}_(epoch|iter)_\d+\.pth", example

    def load(self, messages: MutableMapping[str, Any], logger: logging.Logger) -> None:
        """Go on from the best scores in ``hook_msgs``, but for those of another rule.

        With ``'auto'`` this is called again when the score is known.
        """
        for key, rule in self.rules.items():
            if rule is not None and key != "auto":
                load_best(messages, *self._place(key), rule, logger)

    def first_path(self, messages: Mapping[str, Any]) -> str | None:
        """The best checkpoint by the first score; None for none."""
        path: str | None = best_of(messages, *self._place(next(iter(self.rules))))[1]
        return path

    def better(self, messages: Mapping[str, Any], scores: Mapping[str, float]) -> list[str]:
        """The names of those scores that are better than the best in ``hook_msgs``."""
        return [
            key
            for key, rule in self.rules.items()
            if key in scores
            and rule is not None
            and Judge(key, rule).is_better(scores[key], best_of(messages, *self._place(key))[0])
        ]

    def save(
        self,
        runner: Any,
        scores: Mapping[str, float],
        keys: Sequence[str],
        unit: str,
        number: int,
        together: bool,
    ) -> None:
        """Save a checkpoint for each of the scores ``keys``; then delete the previous ones.

        Args:
            runner: as for `save_best`.
            scores: by name.
            keys: the names of those that are the best.
            unit: ``'epoch'`` or ``'iter'``.
            number: how many of these units are finished.
            together: as for ``save_best``.
        """
        found = []
        for key in keys:
            label, is_first = self._place(key)
            path = self.client.join_path(self.folder, file_name(label, unit, number))
            previous = best_of(runner.meta["hook_msgs"], label, is_first)[1]
            rule = self.rules[key] or ""
            found.append(Best(label, rule, scores[key], unit, number, path, previous, is_first))
        if found:
            folder, client, background = self.folder, self.client, self.background
            save_best(runner, found, folder, client, background, self._remove, together)

    def _place(self, key: str) -> tuple[str, bool]:
        """Where ``hook_msgs`` has the best of a score: its label, and whether it is the first."""
        is_first = self.holds_first and key == next(iter(self.rules))
        return label_of(self.name, key), is_first

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.client.remove(path)
