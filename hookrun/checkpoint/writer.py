"""Writing a run's checkpoints, directly or in the background from a snapshot."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hookrun.core.interrupts import interruptible, uninterrupted
from hookrun.distributed import fail_together, get_dist_info
from hookrun.storage import FileClient, link

from .files import local_path, write_checkpoint
from .parts_writer import Parts, RankGroup
from .snapshot import Snapshots

Step = Callable[[], None]


class Writer:
    """Writes the checkpoints of a run in the order in which they are saved, one at a time.

    ``save`` returns when the file is durable. Within ``with writer.saving():`` it returns when a
    snapshot is taken, and the rest happens in the background after the block: write the file, move
    the link, then run the steps passed to ``then``, such as deleting older files. The steps run in
    order; when one fails, the later ones are skipped. The error is raised by the next ``save``,
    ``saving`` or ``wait``, whichever comes first.
    """

    def __init__(self) -> None:
        self._snapshots = Snapshots()
        self._ranks = RankGroup()
        self._thread: threading.Thread | None = None
        self._done = threading.Event()  # set when the thread has run all steps
        self._failure: BaseException | None = None
        self._client: FileClient | None = None
        self._steps: list[Step] | None = None  # of the current block, to run in the background

    @contextlib.contextmanager
    def saving(
        self,
        background: bool = True,
        client: FileClient | None = None,
        undo: Step = lambda: None,
    ) -> Iterator[None]:
        """A context whose saves go to one storage, and happen in the background if wanted.

        It first waits for an unfinished write, so that there is never more than one. If the block
        raises, nothing is written in the background.

        Args:
            background: whether ``save`` returns before the file is written.
            client: the storage; by default that of the folder's URI.
            undo: called when the block, or a step of it in the background, raises.

        Raises:
            Exception: the error of the previous write in the background.
        """
        self.wait()
        self._snapshots.recycle()
        before = self._client, self._steps
        self._client, self._steps = client, [] if background else None
        try:
            yield
            steps = self._steps
        except BaseException:
            undo()
            raise
        finally:
            self._client, self._steps = before
        if steps:
            uninterrupted(self._start, steps, undo)

    def save(
        self,
        checkpoint: dict[str, Any],
        folder: str | os.PathLike[str],
        filename: str,
        latest: str | None = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: plain types and tensors; within ``saving`` the tensors may change as soon
                as this returns.
            folder: a path or a URI.
            filename: the file's name in it.
            latest: the name of a link to move to this file, where the storage has links.

        Raises:
            OSError: the storage refused.
            Exception: the error of the previous write in the background.
        """
        client = self._client or FileClient.infer_client(uri=folder)
        path = client.join_path(folder, filename)
        if self._steps is None:
            self.wait()
            write_checkpoint(checkpoint, path, client)
        else:
            copy, synchronize = self._snapshots.take(checkpoint)
            self._steps.append(partial(_write_copy, copy, synchronize, path, client))
        if latest is not None and client.allow_symlink:
            self.then(partial(link, local_path(path), latest))

    def save_sharded(
        self,
        checkpoint: dict[str, Any],
        folder: str | os.PathLike[str],
        name: str,
        latest: str | None = None,
    ) -> None:
        """Write a checkpoint as a folder, of which each rank writes a part; on all ranks alike.

        Args:
            checkpoint: as for `save`; the sharded tensors are the same on all ranks, and of
                the rest that of rank 0 is written.
            folder: a path that all ranks share.
            name: the name of the new folder in it.
            latest: the name of a link to move to the new folder.

        Raises:
            ValueError: the storage is no local disk.
            OSError: the disk of a rank refused; on all ranks.
            Exception: the error of the previous write in the background.
        """
        client = self._client or FileClient.infer_client(uri=folder)
        with fail_together("saving a sharded checkpoint"):
            if not client.is_local:
                raise ValueError(
                    f"sharded checkpoints are written to local disks only, and {str(folder)!r} is "
                    "none: leave out sharded=True, or save to a local folder"
                )
            path = local_path(folder) / name
            if self._steps is None:
                self.wait()
            parts = Parts(checkpoint, None if self._steps is None else self._snapshots)
        self._ranks.prepare()
        if self._steps is None:
            parts.write(path, self._ranks)
        else:
            self._steps.append(partial(parts.write, path, self._ranks))
        if latest is not None and get_dist_info()[0] == 0:
            self.then(partial(link, path, latest))

    def then(self, step: Step) -> None:
        """Run a step once the saves of this block are durable; outside of a block, now."""
        if self._steps is None:
            step()
        else:
            self._steps.append(step)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            Exception: the error of the write.
        """
        if self._thread is not None:
            # Ctrl-C may only interrupt the wait on the event: after an interrupt in join() or
            # is_alive(), CPython below 3.13 considers the thread finished. In a forked child the
            # thread does not exist, and is_alive() is False.
            if uninterrupted(self._thread.is_alive):
                self._done.wait()
            uninterrupted(self._thread.join)
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            failure.add_note("while a checkpoint was written in the background")
            raise failure

    def close(self) -> None:
        """Wait, and free the memory of snapshots; ``save`` works afterwards too.

        Raises:
            Exception: the error of the write.
        """
        try:
            self.wait()
        finally:
            self._snapshots.release()

    def _start(self, steps: list[Step], undo: Step) -> None:
        """Run the steps in the background, or right here if no thread can be started."""
        # Not a daemon, so that the interpreter waits for it even if close() is never called.
        main_thread_returned = threading.Event()
        self._done = threading.Event()
        thread = threading.Thread(
            target=self._work,
            args=(steps, undo, main_thread_returned),
            name="hookrun-checkpoint",
            daemon=False,
        )
        try:
            thread.start()
        except RuntimeError:
            main_thread_returned.set()
            interruptible(self._work, steps, undo, main_thread_returned)
            self.wait()
        else:
            self._thread = thread
            main_thread_returned.set()

    def _work(self, steps: list[Step], undo: Step, main_thread_returned: threading.Event) -> None:
        # Without this, the new thread would take the GIL for milliseconds while start() returns.
        main_thread_returned.wait()
        try:
            while steps:
                steps.pop(0)()
        except BaseException as error:
            self._failure = error
            steps.clear()
            undo()
        finally:
            self._done.set()


def _write_copy(
    copy: dict[str, Any], synchronize: Callable[[], None], path: str, client: FileClient
) -> None:
    synchronize()
    write_checkpoint(copy, path, client)
