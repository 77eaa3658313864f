"""The best score so far and its checkpoint, as ``runner.meta['hook_msgs']`` records them."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from hookrun.checkpoint import local_path
from hookrun.core.printable import printable
from hookrun.distributed import get_dist_info
from hookrun.storage import FileClient

from ..state.checkpoint import escape_template

_KEYS = ("best_score", "best_ckpt", "best_key", "best_rule")


@dataclass(frozen=True)
class Best:
    """A new best score.

    Attributes:
        key: the name of the score.
        rule: ``'greater'`` or ``'less'``, whichever is better.
        score: the value.
        unit: ``'epoch'`` or ``'iter'``.
        number: how many of these units were finished at the evaluation.
        out_dir: the folder for the checkpoint.
    """

    key: str
    rule: str | None
    score: float
    unit: str
    number: int
    out_dir: str

    def path(self, client: FileClient) -> str:
        """The path of the checkpoint."""
        return client.join_path(self.out_dir, file_name(self.key, self.unit, self.number))

    def save(
        self,
        runner: Any,
        client: FileClient,
        background: bool,
        previous: str | None,
        remove: Callable[[str], None],
        set_path: Callable[[str | None], None],
    ) -> None:
        """Record the score in ``hook_msgs`` and save the checkpoint, then delete the previous one.

        If the file cannot be written, ``hook_msgs`` is restored and the previous file stays.

        Args:
            runner: the master saves its model and counters.
            client: the storage.
            background: whether the file is written in the background.
            previous: the file of the previous best score, if there is one.
            remove: called with the path of the previous file, to delete it.
            set_path: called with the path of the best checkpoint, and with ``previous`` if the
                file cannot be written.
        """
        messages, path = runner.meta["hook_msgs"], self.path(client)
        before = {key: messages[key] for key in _KEYS if key in messages}

        def record() -> None:
            messages.update(best_score=self.score, best_ckpt=path)
            messages.update(best_key=self.key, best_rule=self.rule)
            set_path(path)

        def undo() -> None:
            for key in _KEYS:
                messages.pop(key, None)
            messages.update(before)
            set_path(previous)

        name = file_name(self.key, self.unit, self.number)
        if get_dist_info()[0] != 0:
            record()
        else:
            with runner.checkpoint_writer.saving(background, client, undo):
                record()
                runner.save_checkpoint(
                    self.out_dir, filename_tmpl=escape_template(name), create_symlink=False
                )
                old = file_to_delete(previous, self.key, self.out_dir, client)
                if old is not None and old != path:
                    runner.checkpoint_writer.then(partial(remove, old))
        runner.logger.info(
            "best %s is %.4f at %s %d, saved as %s",
            printable(self.key),
            self.score,
            self.unit,
            self.number,
            printable(name),
        )


def file_name(key: str, unit: str, number: int | str) -> str:
    """The name of the best checkpoint by the score ``key``, as in MMCV.

    Args:
        key: the name of the score.
        unit: ``'epoch'`` or ``'iter'``.
        number: the number of finished epochs or iterations.
    """
    return f"best_{key.replace(os.sep, '_')}_{unit}_{number}.pth"


def refuse_several_save_best(scores: Iterable[str | None]) -> None:
    """Refuse a run in which more than one EvalHook saves a best checkpoint.

    Args:
        scores: ``save_best`` of each EvalHook of the run.

    Raises:
        ValueError: more than one of them is not None.
    """
    given = [score for score in scores if score is not None]
    if len(given) > 1:
        raise ValueError(
            "two EvalHooks with save_best would compare their scores with each other's and "
            f"delete each other's files: leave save_best out of one of {given}"
        )


def reset_incomparable_best(
    messages: MutableMapping[str, Any], key: str, rule: str, logger: logging.Logger
) -> None:
    """Remove a best score from ``hook_msgs`` that is of another score or by another rule.

    It could not be compared with the scores of this run. A warning says so; the file stays.

    Args:
        messages: ``hook_msgs`` of the run, which may come from a resumed checkpoint.
        key: the score that decides in this run.
        rule: ``'greater'`` or ``'less'``, whichever is better.
        logger: gets the warning.
    """
    if not any(name in messages for name in _KEYS):
        return
    score = messages.get("best_score")
    known_key = messages.get("best_key")
    if not isinstance(known_key, str):  # MMCV does not write it: the file name has the key
        known_key = _key_from_file_name(messages.get("best_ckpt"))
        same_key = known_key is not None and known_key == key.replace(os.sep, "_")
    else:
        same_key = known_key == key
    is_number = isinstance(score, Real) and not isinstance(score, bool) and not math.isnan(score)
    same_rule = messages.get("best_rule", rule) == rule
    if is_number and same_key and same_rule:
        return
    for name in _KEYS:
        messages.pop(name, None)
    if get_dist_info()[0] == 0:
        if not is_number:
            why = f"is {score!r:.40}, which is not a number"
        elif known_key is None:
            why = "does not say of which score it is"
        elif not same_key:
            why = f"is of {known_key!r:.80}"
        else:
            why = "was chosen by the other rule"
        logger.warning(
            "EvalHook: the best score so far %s, but save_best is %r with the rule %r: the search "
            "for the best checkpoint starts anew, and the old best file stays",
            why,
            key,
            rule,
        )


def file_to_delete(old: Any, key: str, out_dir: str, client: FileClient) -> str | None:
    """The previous best checkpoint, to delete once the better one is written; None to keep it.

    ``old`` may come from a resumed checkpoint, which is not trusted to name any file for deletion:
    the file is deleted only if it is named like a best checkpoint by this score and lies in
    ``out_dir``. A path in another folder belongs to the run that was resumed, whose file stays. If
    there is no such file any more, the folder has been moved, and its file is the one in
    ``out_dir``.

    Args:
        old: the path of the previous best checkpoint, as ``hook_msgs`` has it.
        key: the score that decides.
        out_dir: the folder of this run's best checkpoints.
        client: the storage of ``out_dir``.
    """
    if not isinstance(old, str):
        return None
    name = re.split(r"[/\\]", old)[-1]
    match = re.fullmatch(r"best_.+_(epoch|iter)_(\d+)\.pth", name, re.DOTALL | re.ASCII)
    if match is None or name != file_name(key, match[1], match[2]):
        return None
    candidate = client.join_path(out_dir, name)
    if not client.is_local:
        folder, old_folder = candidate[: -len(name)], old[: -len(name)]
        scheme = candidate.partition("://")[0]
        moved = old.startswith(f"{scheme}://") and not client.exists(old)
        return candidate if folder == old_folder or moved else None
    path, old_path = local_path(candidate), local_path(old)
    if "://" in old.removeprefix("file://") or not path.is_file():
        return None
    return candidate if _same_folder(path, old_path) or not os.path.lexists(old_path) else None


def _same_folder(one: Path, other: Path) -> bool:
    return os.path.abspath(one.parent) == os.path.abspath(other.parent)


def _key_from_file_name(path: Any) -> str | None:
    """The name of the score in the file name of a best checkpoint; None where there is none."""
    found = re.fullmatch(r"(?:.*[/\\])?best_(.+)_(?:epoch|iter)_\d+\.pth", str(path), re.DOTALL)
    return None if found is None else found[1]
