"""The best score so far and its checkpoint, as ``runner.meta['hook_msgs']`` records them."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from hookrun.checkpoint import local_path
from hookrun.core.printable import printable
from hookrun.distributed import fail_together, get_dist_info
from hookrun.storage import FileClient

from ..state.checkpoint import escape_template

_FIRST = ("best_score", "best_ckpt", "best_key", "best_rule")
_ALL = "best"


@dataclass(frozen=True)
class Best:
    """A new best score.

    Attributes:
        label: the name of the score, behind that of its EvalHook if it has one.
        rule: ``'greater'`` or ``'less'``, whichever is better.
        score: the value.
        unit: ``'epoch'`` or ``'iter'``.
        number: how many of these units were finished at the evaluation.
        path: of the checkpoint.
        previous: the file of the previous best score, if there is one.
        is_first: whether ``best_score`` and ``best_ckpt`` in ``hook_msgs`` are this score's.
    """

    label: str
    rule: str
    score: float
    unit: str
    number: int
    path: str
    previous: str | None
    is_first: bool

    @property
    def name(self) -> str:
        """The file name of the checkpoint."""
        return file_name(self.label, self.unit, self.number)

    def record(self, messages: MutableMapping[str, Any]) -> Callable[[], None]:
        """Write the score into ``hook_msgs``; gives a function that restores what was there."""
        first = {name: messages[name] for name in _FIRST if name in messages}
        before = _records(messages).get(self.label)

        def undo() -> None:
            others = {k: v for k, v in _records(messages).items() if k != self.label}
            messages[_ALL] = others if before is None else {**others, self.label: before}
            if self.is_first:
                for name in _FIRST:
                    messages.pop(name, None)
                messages.update(first)

        one = {"score": self.score, "ckpt": self.path, "rule": self.rule}
        messages[_ALL] = {**_records(messages), self.label: one}
        if self.is_first:
            messages.update(best_score=self.score, best_ckpt=self.path)
            messages.update(best_key=self.label, best_rule=self.rule)
        return undo


def save_best(
    runner: Any,
    found: Sequence[Best],
    folder: str,
    client: FileClient,
    background: bool,
    remove: Callable[[str], None],
    together: bool,
) -> None:
    """Record new best scores in ``hook_msgs`` and save a checkpoint for each, on rank 0.

    Then their previous files are deleted. If a file cannot be written, what ``hook_msgs`` had for
    its score is restored and the previous file stays.

    Args:
        runner: rank 0 saves its model and counters.
        found: the new best scores of one evaluation.
        folder: where their files are.
        client: the storage.
        background: whether the files are written in the background.
        remove: called with the path of a previous file, to delete it.
        together: whether all ranks call this alike: the files then have the states of all ranks,
            and a failure ends all.
    """

    def phase() -> AbstractContextManager[None]:
        return fail_together("saving the best checkpoint") if together else nullcontext()

    is_master = get_dist_info()[0] == 0
    with phase():
        if is_master:
            runner.checkpoint_writer.wait()  # it may have to undo something in hook_msgs
    # All are recorded first, so that each file knows all of them.
    undos = [best.record(runner.meta["hook_msgs"]) for best in found]
    try:
        for best in found:
            if together:
                runner.gather_state()
            with phase():
                if is_master:
                    with runner.checkpoint_writer.saving(background, client, undos[0]):
                        undos.pop(0)
                        _save(runner, best, folder, client, remove)
            runner.logger.info(
                "best %s is %.4f at %s %d, saved as %s",
                printable(best.label),
                best.score,
                best.unit,
                best.number,
                printable(best.name),
            )
    except BaseException:
        for undo in undos:
            undo()
        raise


def _save(
    runner: Any, best: Best, folder: str, client: FileClient, remove: Callable[[str], None]
) -> None:
    template = escape_template(best.name)
    runner.save_checkpoint(folder, filename_tmpl=template, create_symlink=False)
    old = file_to_delete(best.previous, best.label, folder, client)
    if old is not None and old != best.path:
        runner.checkpoint_writer.then(partial(remove, old))


def load_best(
    messages: MutableMapping[str, Any],
    label: str,
    is_first: bool,
    rule: str,
    logger: logging.Logger,
) -> None:
    """Prepare ``hook_msgs``, which may come from a resumed checkpoint, for the best of one score.

    What cannot be compared with the scores of this run, because it is of another score, by another
    rule or no number, is removed. A warning says so; the file stays.

    Args:
        messages: ``hook_msgs`` of the run.
        label: the score that decides, as in `Best`.
        is_first: whether ``best_score`` and ``best_ckpt`` are this score's.
        rule: ``'greater'`` or ``'less'``, whichever is better.
        logger: gets the warning.
    """
    why: str | None = None
    record = _records(messages).get(label)
    if is_first:
        why = _why_not_first(messages, label, rule)
        if why is None and any(name in messages for name in _FIRST):
            record = {"score": messages["best_score"], "ckpt": messages.get("best_ckpt")}
            messages[_ALL] = {**_records(messages), label: {**record, "rule": rule}}
            return
        of_other = _key_of(messages, label) != label
        if record is not None and of_other and _why_not(record, rule) is None:
            # The run that was resumed had another score first.
            messages.update(best_score=record["score"], best_ckpt=record.get("ckpt"))
            messages.update(best_key=label, best_rule=rule)
            return
        for name in _FIRST:
            messages.pop(name, None)
    elif record is not None:
        why = _why_not(record, rule)
    if record is not None and (why is not None or is_first):
        messages[_ALL] = {k: v for k, v in _records(messages).items() if k != label}
    if why is not None and get_dist_info()[0] == 0:
        logger.warning(
            "EvalHook: the best score so far %s, but save_best is %r with the rule %r: the search "
            "for the best checkpoint starts anew, and the old best file stays",
            why,
            label,
            rule,
        )


def best_of(messages: Mapping[str, Any], label: str, is_first: bool) -> tuple[Any, Any]:
    """The best score so far and its checkpoint, as ``hook_msgs`` has them; None for none."""
    if is_first:
        return messages.get("best_score"), messages.get("best_ckpt")
    record = _records(messages).get(label, {})
    return record.get("score"), record.get("ckpt")


def _records(messages: Mapping[str, Any]) -> Mapping[str, Any]:
    """By label, what is known of each best score."""
    records = messages.get(_ALL)
    return records if isinstance(records, Mapping) else {}


def _key_of(messages: Mapping[str, Any], label: str) -> str | None:
    """The score of which ``best_score`` is; None if that is unknown."""
    known = messages.get("best_key")
    if isinstance(known, str):
        return known
    # MMCV does not write it: the file name has it, with other separators.
    known = _key_from_file_name(messages.get("best_ckpt"))
    return label if known == label.replace(os.sep, "_") else known


def _why_not_first(messages: Mapping[str, Any], label: str, rule: str) -> str | None:
    """Why ``best_score`` cannot be gone on from; None if it can, or there is none."""
    if not any(name in messages for name in _FIRST):
        return None
    key = _key_of(messages, label)
    record = {"score": messages.get("best_score"), "rule": messages.get("best_rule", rule)}
    if key == label or not _is_number(record["score"]):
        return _why_not(record, rule)
    return "does not say of which score it is" if key is None else f"is of {key!r:.80}"


def _why_not(record: Any, rule: str) -> str | None:
    """Why a best score cannot be gone on from; None if it can."""
    score = record.get("score") if isinstance(record, Mapping) else record
    if not _is_number(score):
        return f"is {score!r:.40}, which is not a number"
    same = isinstance(record, Mapping) and record.get("rule") == rule
    return None if same else "was chosen by the other rule"


def _is_number(score: Any) -> bool:
    return isinstance(score, Real) and not isinstance(score, bool) and not math.isnan(score)


def file_name(key: str, unit: str, number: int | str) -> str:
    """The name of the best checkpoint by the score ``key``, as in MMCV.

    Args:
        key: the name of the score.
        unit: ``'epoch'`` or ``'iter'``.
        number: the number of finished epochs or iterations.
    """
    return f"best_{key.replace(os.sep, '_')}_{unit}_{number}.pth"


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
