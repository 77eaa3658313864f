"""Writing a sharded checkpoint: all ranks write their parts, and rank 0 publishes the folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hookrun.distributed import error_first, get_dist_info, group_timeout
from hookrun.ops.sharded import local
from hookrun.storage import new_folder, publish_folder

from .files import write_checkpoint
from .parts import KEY, RUN_FILE, describe, is_replaceable, size_and_digest, split
from .snapshot import Snapshots

_WHAT = "writing a sharded checkpoint"


class RankGroup:
    """The ranks that write together, over a gloo group of their own.

    Collectives of background threads would otherwise come between those of training. Must be used
    on all ranks alike.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._world: Any = None

    def prepare(self) -> None:
        """Make the group, if that has not been done in this process group."""
        if get_dist_info()[1] > 1 and self._world is not dist.group.WORLD:
            self._group = dist.new_group(backend="gloo", timeout=group_timeout())
            self._world = dist.group.WORLD

    @property
    def process_group(self) -> Any:
        """Torch's group; None where there is one rank."""
        return self._group if get_dist_info()[1] > 1 else None

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks."""
        if self.process_group is None:
            return [value]
        values: list[Any] = [None] * get_dist_info()[1]
        dist.all_gather_object(values, value, group=self.process_group)
        return values

    @contextlib.contextmanager
    def failing_together(self, values: list[Any]) -> Iterator[None]:
        """A context in which each rank works alone; if one raises an Exception, all do.

        Args:
            values: what the block leaves in it becomes what all ranks have left, by rank.

        Raises:
            OSError: another rank has failed; the message names it.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        text = None if error is None else f"{type(error).__name__}: {error}"
        with error_first(error):
            found = self.gather((text, list(values)))
        if error is not None:
            error.add_note(f"on rank {get_dist_info()[0]}, while {_WHAT}; the other ranks end, too")
            raise error
        for rank, (text, _) in enumerate(found):
            if text is not None:
                raise OSError(f"{_WHAT} failed on rank {rank}: {text}")
        values[:] = [each for _, left in found for each in left]


class Parts:
    """What this rank writes of a checkpoint, ready to be written in the background.

    Args:
        checkpoint: plain types and tensors, some sharded; all ranks have the same sharded ones.
        snapshots: takes copies, so that the tensors may change; None to write them as they are.
    """

    def __init__(self, checkpoint: dict[str, Any], snapshots: Snapshots | None) -> None:
        from torch.distributed.checkpoint.default_planner import create_default_local_save_plan

        rest, tensors, self.places = split(checkpoint)
        is_master = get_dist_info()[0] == 0
        self._rest: dict[str, Any] = rest if is_master else {}
        self.plan = create_default_local_save_plan(tensors, is_master)
        self.tensors: dict[str, Tensor] = {name: local(each) for name, each in tensors.items()}
        self._synchronize: Callable[[], None] = lambda: None
        if snapshots is not None:
            copies, self._synchronize = snapshots.take([self._rest, self.tensors])
            self._rest, self.tensors = copies

    def write(self, path: Path, ranks: RankGroup) -> None:
        """Write the folder; all ranks must call it, and the name is there once all have written.

        Raises:
            FileExistsError: a folder of something else has that name.
            OSError: the disk of a rank refused; on all ranks. An old folder of that name is there.
        """
        self._synchronize()
        made: list[Any] = []
        with contextlib.ExitStack() as folder:
            with ranks.failing_together(made):
                if get_dist_info()[0] == 0:
                    _check_replaceable(path)
                    made.append(str(folder.enter_context(new_folder(path))))
            temporary = Path(made[0])
            metadata = _write_parts(self, temporary, ranks) if self.places else None
            files: list[Any] = []
            with ranks.failing_together(files):
                own = temporary.glob(f"__{get_dist_info()[0]}_*.distcp")
                files += [(each.name, size_and_digest(each)) for each in own]
            with ranks.failing_together([]):
                if get_dist_info()[0] == 0:
                    self._finish(path, temporary, metadata, dict(files))

    def _finish(
        self, path: Path, temporary: Path, metadata: Any, files: dict[str, tuple[int, str]]
    ) -> None:
        """On rank 0: describe the files, and give the folder its name."""
        for name in files:
            if not (temporary / name).is_file():
                raise FileNotFoundError(
                    f"{name}, which another rank has written, is not in {str(temporary)!r} of rank "
                    "0: all ranks must share the folder that sharded checkpoints go to"
                )
        if metadata is not None:
            files[".metadata"] = size_and_digest(temporary / ".metadata")
        described = describe(metadata, self.places, files)
        write_checkpoint({**self._rest, KEY: described}, temporary / RUN_FILE)
        publish_folder(temporary, path)


def _check_replaceable(path: Path) -> None:
    if path.is_dir() and not is_replaceable(path):
        raise FileExistsError(
            f"{str(path)!r} is a folder of something else, which a sharded checkpoint would "
            "replace: move it away, or give another name"
        )


def _write_parts(parts: Parts, folder: Path, ranks: RankGroup) -> Any:
    """Write the tensors through torch; returns its metadata on rank 0."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    class Planner(DefaultSavePlanner):
        """The plan that was made when the tensors were copied, and the copies."""

        def create_local_plan(self) -> Any:
            self.plan = parts.plan
            return self.plan

        def lookup_object(self, index: Any) -> Any:
            return parts.tensors[index.fqn]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is")
            return save(
                {},
                storage_writer=FileSystemWriter(folder),
                planner=Planner(flatten_state_dict=False, dedup_save_to_lowest_rank=True),
                process_group=ranks.process_group,
                no_dist=ranks.process_group is None,
            )
    except CheckpointException as error:  # which is no Exception
        rank, (cause, _) = next(iter(error.failures.items()))
        text = f"{_WHAT} failed on rank {rank}: {type(cause).__name__}: {cause}"
        raise OSError(text) from cause
