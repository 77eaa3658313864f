"""The best score so far, in ``hook_msgs``: of which score it is, and its file."""

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

from ..state.checkpoint import literal

_KEYS = ("best_score", "best_ckpt", "best_key", "best_rule")


@dataclass(frozen=True)
class Best:
    """A score that is better than all before it.

    Attributes:
        key, rule: the score's name, and whether the greater or the less is better.
        score: its value.
        kind, number: the ``"epoch"`` or ``"iter"`` behind which it was found.
        out_dir: the folder of the file.
    """

    key: str
    rule: str | None
    score: float
    kind: str
    number: int
    out_dir: str

    def path(self, client: FileClient) -> str:
        """The file's path."""
        return client.join_path(self.out_dir, file_name(self.key, self.kind, self.number))

    def save(
        self,
        runner: Any,
        client: FileClient,
        background: bool,
        replaces: str | None,
        remove: Callable[[str], None],
        keep: Callable[[str | None], None],
    ) -> None:
        """Note it in ``hook_msgs`` and save the checkpoint; the file it replaces goes after that.

        Args:
            runner: its model and counters are saved, by the master.
            client: the storage.
            background: whether the file is written in the background.
            replaces: the file of the best before it, if there is one.
            remove: takes that file away.
            keep: takes note of the best file; of the one before it, where the file cannot be
                written. ``hook_msgs`` is as before then, too.
        """
        messages, path = runner.meta["hook_msgs"], self.path(client)
        before = {key: messages[key] for key in _KEYS if key in messages}

        def note() -> None:
            messages.update(best_score=self.score, best_ckpt=path)
            messages.update(best_key=self.key, best_rule=self.rule)
            keep(path)

        def undo() -> None:
            for key in _KEYS:
                messages.pop(key, None)
            messages.update(before)
            keep(replaces)

        name = file_name(self.key, self.kind, self.number)
        if get_dist_info()[0] != 0:
            note()
        else:
            with runner.checkpoint_writer.saving(background, client, undo):
                note()
                runner.save_checkpoint(
                    self.out_dir, filename_tmpl=literal(name), create_symlink=False
                )
                old = replaced_file(replaces, self.key, self.out_dir, client)
                if old is not None and old != path:
                    runner.checkpoint_writer.then(partial(remove, old))
        runner.logger.info(
            "best %s is %.4f at %s %d, saved as %s",
            printable(self.key),
            self.score,
            self.kind,
            self.number,
            printable(name),
        )


def file_name(key: str, kind: str, number: int | str) -> str:
    """The name of the best file of a score, after so many epochs or iterations."""
    return f"best_{key.replace(os.sep, '_')}_{kind}_{number}.pth"


def refuse_two_keepers(scores: Iterable[str | None]) -> None:
    """Refuse a run in which more than one hook keeps its best file, with a ValueError.

    Args:
        scores: ``save_best`` of its EvalHooks.
    """
    keeping = [score for score in scores if score is not None]
    if len(keeping) > 1:
        raise ValueError(
            "two EvalHooks with save_best would compare their scores with each other's and "
            f"delete each other's files: leave save_best out of one of {keeping}"
        )


def start_anew_for_another_score(
    messages: MutableMapping[str, Any], key: str, rule: str, logger: logging.Logger
) -> None:
    """Forget a best score that cannot be compared with this one's values, with a warning.

    Args:
        messages: ``hook_msgs`` of the run, which may be a file's.
        key, rule: the score that decides now, and whether the greater or the less is better.
        logger: where it is said. The file of the other score stays.
    """
    if not any(name in messages for name in _KEYS):
        return
    score = messages.get("best_score")
    known_key = messages.get("best_key")
    if not isinstance(known_key, str):  # as in files of MMCV's
        known_key = _key_in_name(messages.get("best_ckpt"))
        same_key = known_key is not None and known_key == key.replace(os.sep, "_")
    else:
        same_key = known_key == key
    number = isinstance(score, Real) and not isinstance(score, bool) and not math.isnan(score)
    same_rule = messages.get("best_rule", rule) == rule
    if number and same_key and same_rule:
        return
    for name in _KEYS:
        messages.pop(name, None)
    if get_dist_info()[0] == 0:
        if not number:
            why = f"is {score!r:.40}, which is no number"
        elif known_key is None:
            why = "does not say of which score it is"
        elif not same_key:
            why = f"is of {known_key!r:.80}"
        else:
            why = "is by the other rule"
        logger.warning(
            "EvalHook: the best score so far %s, and save_best is %r, by the rule %r: the best is "
            "looked for anew, and the file of the other one stays",
            why,
            key,
            rule,
        )


def replaced_file(old: Any, key: str, out_dir: str, client: FileClient) -> str | None:
    """The file of the former best that goes once a better one is there; None where none does.

    What a resumed file says of it is not trusted: only a best file of this score goes, and only in
    the run's own folder. One in another folder is of the run that was resumed, which keeps it,
    unless it is there no more: the folder was moved, with the file in it.
    """
    if not isinstance(old, str):
        return None
    name = re.split(r"[/\\]", old)[-1]
    kind = re.fullmatch(r"best_.+_(epoch|iter)_(\d+)\.pth", name, re.DOTALL | re.ASCII)
    if kind is None or name != file_name(key, kind[1], kind[2]):
        return None
    own = client.join_path(out_dir, name)
    if not client.is_local:
        folder, theirs = own[: -len(name)], old[: -len(name)]
        scheme = own.partition("://")[0]
        moved = old.startswith(f"{scheme}://") and not client.exists(old)
        return own if folder == theirs or moved else None
    path, former = local_path(own), local_path(old)
    if "://" in old.removeprefix("file://") or not path.is_file():
        return None
    return own if _same_folder(path, former) or not os.path.lexists(former) else None


def _same_folder(one: Path, other: Path) -> bool:
    return os.path.abspath(one.parent) == os.path.abspath(other.parent)


def _key_in_name(path: Any) -> str | None:
    """The score in the name of a best file, as the name has it."""
    found = re.fullmatch(r"(?:.*[/\\])?best_(.+)_(?:epoch|iter)_\d+\.pth", str(path), re.DOTALL)
    return None if found is None else found[1]
