"""Writing a run's checkpoints: at once, or in the background from a snapshot."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hookrun.core.interrupts import interruptible, uninterrupted
from hookrun.storage import FileClient, link

from .files import local_path, write_checkpoint
from .snapshot import Snapshots

Step = Callable[[], None]


class Writer:
    """Writes the checkpoints of a run in the order in which they are saved, one at a time.

    ``save`` returns when the file is durable. Within ``with writer.saving():`` it returns when a
    snapshot is taken, and the rest happens in the background after the block: write, move the link,
    then what ``then`` was given, such as deleting older files. Each step waits for the one before;
    when one fails, those behind it are left out. The failure is raised by the next ``save``,
    ``saving`` or ``wait``, whichever comes first.
    """

    def __init__(self) -> None:
        self._snapshots = Snapshots()
        self._thread: threading.Thread | None = None
        self._done = threading.Event()  # of what the thread does
        self._failure: BaseException | None = None
        self._client: FileClient | None = None
        self._steps: list[Step] | None = None  # of the block at work, in the background

    @contextlib.contextmanager
    def saving(
        self,
        background: bool = True,
        client: FileClient | None = None,
        undo: Step = lambda: None,
    ) -> Iterator[None]:
        """A block whose saves go to one storage, and to the background if wanted.

        It first waits for the write before it: there is never more than one. A block that raises
        writes nothing in the background.

        Args:
            background: whether ``save`` returns before the file is written.
            client: the storage; by default that of the folder's URI.
            undo: called when the block or what it left to the background raises.

        Raises:
            Exception: what the last write in the background raised.
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
            folder: where to, a path or a URI.
            filename: the file's name in it.
            latest: the name of a link to move to this file, where the storage has links.

        Raises:
            OSError: what the storage refuses.
            Exception: what the last write in the background raised.
        """
        client = self._client or FileClient.infer_client(uri=folder)
        path = client.join_path(folder, filename)
        if self._steps is None:
            self.wait()
            write_checkpoint(checkpoint, path, client)
        else:
            copy, arrived = self._snapshots.take(checkpoint)
            self._steps.append(partial(_write_copy, copy, arrived, path, client))
        if latest is not None and client.allow_symlink:
            self.then(partial(link, local_path(path), latest))

    def then(self, step: Step) -> None:
        """Do something once what was saved in this block is durable; outside of a block, now."""
        if self._steps is None:
            step()
        else:
            self._steps.append(step)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            Exception: what the write raised.
        """
        if self._thread is not None:
            # Ctrl-C ends the wait only. In join() and is_alive(), CPython below 3.13 would take it
            # for the end of the thread. A forked child has no thread, and waits for none.
            if uninterrupted(self._thread.is_alive):
                self._done.wait()
            uninterrupted(self._thread.join)
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            failure.add_note("while a checkpoint was written in the background")
            raise failure

    def close(self) -> None:
        """Wait, and give the memory of snapshots back; ``save`` works afterwards too.

        Raises:
            Exception: what the write raised.
        """
        try:
            self.wait()
        finally:
            self._snapshots.forget()

    def _start(self, steps: list[Step], undo: Step) -> None:
        """Take the steps in the background; where the system refuses a thread, here and now."""
        # Not a daemon: the interpreter waits for it when the run ends in a way that closes nothing.
        training_goes_on = threading.Event()
        self._done = threading.Event()
        thread = threading.Thread(
            target=self._work,
            args=(steps, undo, training_goes_on),
            name="hookrun-checkpoint",
            daemon=False,
        )
        try:
            thread.start()
        except RuntimeError:
            training_goes_on.set()
            interruptible(self._work, steps, undo, training_goes_on)
            self.wait()
        else:
            self._thread = thread
            training_goes_on.set()

    def _work(self, steps: list[Step], undo: Step, training_goes_on: threading.Event) -> None:
        # A new thread would keep the interpreter's lock for milliseconds, while the step waits.
        training_goes_on.wait()
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
    copy: dict[str, Any], arrived: Callable[[], None], path: str, client: FileClient
) -> None:
    arrived()
    write_checkpoint(copy, path, client)
