"""CheckpointHook: saves checkpoints during training."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from string import Formatter
from typing import Any, ClassVar

from hookrun.checkpoint import is_replaceable, is_sharded_folder, local_path, plain
from hookrun.core import HOOKS, Hook, Trigger, TriggerSetting, starts_with_defaults
from hookrun.core.errors import check_flags, did_you_mean, path_or_none
from hookrun.core.triggers import NEVER
from hookrun.distributed import get_dist_info, master_only
from hookrun.storage import FileClient, check_names, remove_folder, remove_leftovers

from .sync_buffer import average_buffers


def resolve_out_dir(hook: Any, out_dir: str | None, runner: Any) -> tuple[str, FileClient]:
    """The folder for a hook's files and the client of its storage.

    The folder is ``work_dir``, or ``out_dir/basename(work_dir)`` if ``out_dir`` is given.

    Raises:
        ValueError: there is neither a ``work_dir`` nor an ``out_dir``.
    """
    if out_dir is None:
        if runner.work_dir is None:
            raise ValueError(
                f"{type(hook).__name__} has no folder to write to: give work_dir to the runner or "
                "out_dir to the hook"
            )
        return str(runner.work_dir), FileClient.infer_client(hook.file_client_args)
    client = FileClient.infer_client(hook.file_client_args, out_dir)
    if runner.work_dir is None or out_dir == runner.work_dir:
        return out_dir, client
    return client.join_path(out_dir, os.path.basename(runner.work_dir.rstrip(os.sep))), client


def check_can_write(
    hook: Any, names: Sequence[str], longest: str, *, folders: Sequence[str] = ()
) -> None:
    """Refuse a local folder in which the hook could not write its files.

    Args:
        hook: a hook with ``out_dir`` and ``file_client``.
        names: regular expressions for the names of the files.
        longest: the longest name that is expected.
        folders: regular expressions for the names of folders that it writes.

    Raises:
        ValueError: one of these names belongs to something that is not a file, such as a folder, or
            not a folder where one is written; or a name is too long.
    """
    if hook.file_client.is_local and get_dist_info()[0] == 0:
        check_names(
            local_path(hook.out_dir),
            [re.compile(name) for name in names],
            longest,
            type(hook).__name__,
            folders=[re.compile(name) for name in folders],
            replaceable=is_replaceable,
        )


def escape_template(filename: str) -> str:
    """A template for ``str.format`` that yields just this file name."""
    return filename.replace("{", "{{").replace("}", "}}")


def warn_without_epochs(hook: Any, runner: Any) -> None:
    """Warn that a hook counts epochs in a runner that has none, so it never acts."""
    if hook.by_epoch and runner.max_epochs is None:
        runner.logger.warning(
            "%s counts epochs, but %s trains by iteration, so it will not act: give by_epoch=False",
            type(hook).__name__,
            type(runner).__name__,
        )


@HOOKS.register_module()
@starts_with_defaults()
class CheckpointHook(Hook):
    """Saves a checkpoint every ``interval`` epochs or iterations, on rank 0.

    If there is an EMAHook, the parameters in the checkpoint are its averages.

    Parameters and states that are sharded over ranks (FSDP2) are gathered, and the file has them in
    full. With ``sharded=True`` nothing is gathered: the checkpoint is a folder in which each rank
    writes its parts, through ``torch.distributed.checkpoint``. It gets its name once all ranks have
    written; ``runner.resume`` and ``load_checkpoint`` take the folder, on any number of ranks and
    into plain models too. Where nothing is sharded, rank 0 writes everything. All ranks must have
    such a hook, and share the folder; a disk that refuses on one rank ends all.

    Args:
        interval: the number of epochs or iterations from one checkpoint to the next; -1 for never.
        by_epoch: whether the interval counts epochs.
        save_optimizer: whether to save the optimizer state, which is needed to resume.
        out_dir: checkpoints go to ``out_dir/basename(work_dir)``; to ``work_dir`` by default.
        max_keep_ckpts: how many checkpoints to keep; -1 for all. Older ones are deleted only after
            the new one is written durably. If listing the folder is not permitted, those of earlier
            runs stay.
        save_last: whether to save after the last epoch or iteration too, whatever the interval. In
            an EpochBasedRunner with ``by_epoch=False``, that is the last iteration of the last
            epoch, even if the loader yields more or fewer batches than its ``len()`` says.
        sync_buffer: whether to average the model's buffers over all ranks first, as
            `SyncBuffersHook` does.
        file_client_args: the storage, such as ``dict(backend="s3")``; see
            `FileClient`. By default that of ``out_dir``'s URI, or the local disk.
        background: write in the background, so that training waits only until the state is copied.
            The next save and the end of the run wait for the file, and raise its errors.
        sharded: write folders ``epoch_N.sharded`` or ``iter_N.sharded``, and the link
            ``latest.sharded``, instead of files; on local disks only.
        kwargs: passed on to ``runner.save_checkpoint``: ``filename_tmpl``, ``meta``,
            ``create_symlink``.

    Raises:
        ValueError: ``interval`` or ``max_keep_ckpts`` is neither positive nor -1; an unknown
            storage, or with ``sharded`` a remote one; at the start of a run, no folder to write to,
            or a ``filename_tmpl`` that is not a file name; with ``sharded``, at a save, ranks
            without this hook or with another one.
        TypeError: at the start of a run, an argument that ``runner.save_checkpoint`` does not have,
            or a ``meta`` that a checkpoint cannot hold.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"parameters"})
    writes: ClassVar[frozenset[str]] = frozenset({"checkpoint"})

    interval = TriggerSetting()
    by_epoch = TriggerSetting()
    save_last = TriggerSetting()
    _last_saved: int | None = None  # the number of finished epochs or iterations at that time

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        sync_buffer: bool = False,
        file_client_args: Mapping[str, Any] | None = None,
        *,
        background: bool = True,
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, value in {"interval": interval, "max_keep_ckpts": max_keep_ckpts}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value == 0 or value < -1:
                raise ValueError(
                    f"CheckpointHook: {name} must be a positive int, or -1 for "
                    f"{'never' if name == 'interval' else 'all'}; not {value!r}"
                )
        flags = {"by_epoch": by_epoch, "save_optimizer": save_optimizer, "save_last": save_last}
        flags |= {"sync_buffer": sync_buffer, "background": background, "sharded": sharded}
        check_flags("CheckpointHook", **flags)
        self.out_dir = self._given_out_dir = path_or_none("CheckpointHook", out_dir=out_dir)
        self.file_client = FileClient.infer_client(file_client_args, out_dir)
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.sync_buffer = sync_buffer
        self.file_client_args = file_client_args
        self.background = background
        self.sharded = sharded
        self.args = kwargs
        self._saved_names: list[str] = []  # files of this run that are not deleted

    def triggers(self) -> Mapping[str, Trigger]:
        interval = max(self.interval, 0)
        by_epoch = Trigger(epochs=interval, last_epoch=self.save_last)
        by_iter = Trigger(iters=interval, last_iter=self.save_last)
        at_end = Trigger(last_epoch=self.save_last)
        return {
            "after_train_epoch": by_epoch if self.by_epoch else at_end,
            "after_train_iter": NEVER if self.by_epoch else by_iter,
        }

    def checkpoint_folder(self, runner: Any) -> tuple[str, FileClient]:
        """Where checkpoints go, and the storage."""
        return resolve_out_dir(self, self._given_out_dir, runner)

    def required_signature(self, runner: Any) -> Any:
        """When it saves and what: all ranks gather their states for the file then."""
        names = ("interval", "by_epoch", "save_last", "save_optimizer", "sync_buffer", "sharded")
        return {name: getattr(self, name) for name in names}

    def before_run(self, runner: Any) -> None:
        self.out_dir, self.file_client = self.checkpoint_folder(runner)
        if self.sharded and not self.file_client.is_local:
            raise ValueError(
                f"CheckpointHook: sharded=True writes to local disks only, not to {self.out_dir!r}"
            )
        self._saved_names = []
        self.check_runner(runner)
        self._check_template()
        warn_without_epochs(self, runner)
        self._check_meta()
        runner.logger.info("checkpoints will be saved to %s", self.out_dir)
        links = [f"latest\\{self._suffix}"] if self.args.get("create_symlink", True) else []
        last = runner.max_epochs if self.by_epoch else runner.max_iters
        names, longest = [self._pattern()], self._template.format(last or 1)
        if self.sharded:
            check_can_write(self, links, longest, folders=names)
        else:
            check_can_write(self, [*names, *links], longest)
        if self.file_client.is_local and get_dist_info()[0] == 0:
            remove_leftovers(local_path(self.out_dir))

    def after_train_epoch(self, runner: Any) -> None:
        last = self.save_last and self.is_last_epoch(runner)
        if self.by_epoch:
            if last or self.every_n_epochs(runner, self.interval):
                runner.logger.info("saving checkpoint at %d epochs", runner.epoch + 1)
                self._save(runner)
        # The last iteration may not have been known as such: len(loader) can be wrong.
        elif last and self._last_saved != runner.iter:
            runner.logger.info("saving checkpoint at %d iterations", runner.iter)
            self._save(runner)

    def after_train_iter(self, runner: Any) -> None:
        if not self.by_epoch and (
            self.every_n_iters(runner, self.interval)
            or (self.save_last and self.is_last_iter(runner))
        ):
            runner.logger.info("saving checkpoint at %d iterations", runner.iter + 1)
            self._save(runner)

    def after_run(self, runner: Any) -> None:
        """Wait until the last checkpoint is written, so that later hooks find the file."""
        runner.checkpoint_writer.close()

    def close(self, runner: Any, error: BaseException | None) -> None:
        runner.checkpoint_writer.close()

    def _save(self, runner: Any) -> None:
        if self.sync_buffer:
            average_buffers(runner.model)
        with runner.eval_weights():
            if self.sharded:
                self._check_ranks(runner)
                runner.gather_state(full_tensors=False)
                self._save_on_each_rank(runner)
            else:
                runner.gather_state()
                self._save_checkpoint(runner)
        self._last_saved = self._count_finished(runner)

    def _count_finished(self, runner: Any) -> int:
        """The number of finished epochs or iterations, the current one included."""
        if self.by_epoch:
            return int(runner.epoch + 1)
        counted = getattr(runner, "current_event", None) == "after_train_epoch"
        return int(runner.iter if counted else runner.iter + 1)

    @master_only
    def _save_checkpoint(self, runner: Any) -> None:
        """Save a checkpoint on rank 0, then delete those that exceed ``max_keep_ckpts``."""
        self._save_on_each_rank(runner)

    def _save_on_each_rank(self, runner: Any) -> None:
        """The same on the ranks that call it: all of them for a sharded checkpoint."""
        number = self._count_finished(runner)
        filename = self._template.format(number)
        with runner.checkpoint_writer.saving(self.background, self.file_client):
            runner.save_checkpoint(
                self.out_dir,
                save_optimizer=self.save_optimizer,
                **({"sharded": True} if self.sharded else {}),
                **{**self.args, "filename_tmpl": escape_template(filename)},
            )
            if runner.meta is not None:
                messages = runner.meta.setdefault("hook_msgs", {})
                path = self.file_client.join_path(self.out_dir or "", filename)
                runner.checkpoint_writer.then(partial(messages.__setitem__, "last_ckpt", path))
            if self.max_keep_ckpts > 0 and get_dist_info()[0] == 0:
                runner.checkpoint_writer.then(partial(self._delete_old, number))

    def _delete_old(self, newest: int) -> None:
        """Delete all but the latest ``max_keep_ckpts`` checkpoints up to the newest one.

        Files with higher numbers, as of a run that was resumed from an earlier checkpoint, stay.
        """
        pattern = re.compile(self._pattern())
        if self.out_dir is None or pattern.groups != 1:
            return
        self._saved_names.append(self._template.format(newest))
        try:
            names = list(
                self.file_client.list_dir_or_file(
                    self.out_dir, list_dir=self.sharded, list_file=not self.sharded
                )
            )
        except PermissionError:  # listing the folder is not permitted
            names = self._saved_names
        numbered = sorted(
            (int(match[1]), name)
            for name in set(names)
            if (match := pattern.fullmatch(name)) and int(match[1]) <= newest
        )
        self._saved_names = [name for _, name in numbered[-self.max_keep_ckpts :]]
        for _, name in numbered[: -self.max_keep_ckpts]:
            with contextlib.suppress(FileNotFoundError):
                path = self.file_client.join_path(self.out_dir, name)
                if not self.sharded:
                    self.file_client.remove(path)
                elif is_sharded_folder(local_path(path)):
                    remove_folder(local_path(path))

    def _pattern(self) -> str:
        """A regular expression for the names of the checkpoints, with a group for each number."""
        return "".join(
            re.escape(text) + ("" if field is None else r"(\d+)")
            for text, field, _, _ in Formatter().parse(self._template)
        )

    @property
    def _suffix(self) -> str:
        return ".sharded" if self.sharded else ".pth"

    @property
    def _template(self) -> str:
        default = ("epoch_{}" if self.by_epoch else "iter_{}") + self._suffix
        return str(self.args.get("filename_tmpl", default))

    def sync_signature(self, runner: Any) -> Any:
        """What ranks must share to write sharded checkpoints together; None without ``sharded``."""
        if not self.sharded:
            return None
        return self.interval, self.by_epoch, self.save_last, self._template, str(self.out_dir)

    def _check_ranks(self, runner: Any) -> None:
        """Refuse to wait for ranks that will not come.

        Without ``handle_signals`` ranks do not compare their hooks, and nothing is known.
        """
        alone = get_dist_info()[1] == 1 or not getattr(runner, "handle_signals", False)
        if not alone and not runner.is_synchronized(self):
            raise ValueError(
                "CheckpointHook: sharded=True needs all ranks, but they do not all have this hook "
                "with the same arguments, or have other hooks that differ: register the same hooks "
                "on all ranks"
            )

    def _check_template(self) -> None:
        """Refuse a ``filename_tmpl`` whose names cannot be written, before the first save."""
        template = self.args.get("filename_tmpl", "{}.pth")
        try:
            name = template.format(1)
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(
                f"CheckpointHook: filename_tmpl={template!r} is not a file name with a placeholder "
                f"{{}} for a number: {error}"
            ) from error
        if os.path.basename(name) != name or name in (".", ".."):
            raise ValueError(
                f"CheckpointHook: filename_tmpl={template!r} must be a file name without a folder"
            )
        if not name or "\0" in name:
            raise ValueError(f"CheckpointHook: filename_tmpl={template!r} is not a file name")

    def _check_meta(self) -> None:
        """Refuse a ``meta`` that no checkpoint can hold; the runner checks its own meta."""
        meta = self.args.get("meta")
        if meta is not None and not isinstance(meta, Mapping):
            raise TypeError(
                f"CheckpointHook: meta must be a dict or None, not {type(meta).__name__}"
            )
        plain(meta, "CheckpointHook: meta")

    def check_runner(self, runner: Any) -> None:
        """Refuse arguments that ``runner.save_checkpoint`` does not have."""
        known = inspect.signature(runner.save_checkpoint).parameters
        if any(p.kind is p.VAR_KEYWORD for p in known.values()):
            return
        for name in self.args:
            if name not in known:
                own = set(inspect.signature(type(self).__init__).parameters) - {"self", "kwargs"}
                raise TypeError(
                    f"CheckpointHook has no argument {name!r}, and neither has "
                    f"{type(runner).__name__}.save_checkpoint. "
                    + did_you_mean(name, own | set(known) | {"priority"})
                )
