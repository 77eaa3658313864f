"""What the ranks of a run report to each other, so that an error can name its cause."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from .environment import get_dist_info, group_timeout

_PATIENCE = 2.0
"""Seconds to wait, after a collective has failed, for another rank to report why."""


class RankError(RuntimeError):
    """Another rank has failed, died, or not come; the message names it and the cause."""


class RunReports:
    """Reports of the ranks of one run, kept in the store of the default process group.

    A store needs no collective: a rank can report, and read reports, while others wait in one or
    are gone. To be created on all ranks, once per run: the n-th one of a rank belongs to the n-th
    ones of the others.

    Args:
        kind: what is counted: reports of different kinds have nothing to do with each other.
    """

    def __init__(self, kind: str = "run") -> None:
        self._rank, self._world_size = get_dist_info()
        self._group = dist.group.WORLD
        self._timeout = group_timeout().total_seconds()
        self._kind = kind
        self._place = _place()
        self._counts: Counter[str] = Counter()
        assert self._group is not None
        self._store = self._group.get_group_store()
        with _store_errors():
            number = self._store.add(f"hookrun/{kind}s/{self._rank}", 1)
            self._run = f"{kind}/{number}"
            self.note("had begun its run")

    @property
    def is_of_default_group(self) -> bool:
        """Whether the default process group is still the one of these reports."""
        return self._group is dist.group.WORLD

    def require_all_ranks(self, call: str) -> None:
        """Return when all ranks have called this, before collectives in which they would hang.

        Args:
            call: what the user has called, for messages.

        Raises:
            RankError: a rank has failed, has died, or has not called it within the timeout of the
                process group.
        """
        note = f"had called {call}, which all ranks must call"
        try:
            self.compare(call, note, None, lambda _: None)
        except RankError as error:
            raise RankError(f"{call} must be called on all ranks: {error}") from error

    def note(self, text: str, waits: bool = False) -> None:
        """Report what this rank did last.

        Args:
            text: goes on after "it", as in "it had finished epoch 2".
            waits: whether it now waits for the others, outside of the collectives of training.
        """
        mine = {"text": text, "waits": waits, "place": self._place, "pid": os.getpid()}
        self._set(f"last/{self._rank}", json.dumps(mine))

    def compare(self, point: str, note: str, value: Any, judge: Callable[[list[Any]], Any]) -> Any:
        """Return on all ranks what a function makes of a value of each.

        Args:
            point: a name for this call; the n-th call by a name belongs to the n-th of the others.
            note: where this rank is, as for `note`.
            value: of this rank; of plain types, as for JSON.
            judge: called with the values in order of rank, on rank 0; returns plain types.

        Raises:
            RankError: a rank has failed, has died, or has not called this within the timeout of
                the process group.
        """
        self._counts[point] += 1
        point = f"{point}/{self._counts[point]}"
        with _store_errors():
            self.note(note, waits=True)
            self._set(f"{point}/{self._rank}", json.dumps(value))
            if self._rank == 0:
                self._wait([f"{point}/{rank}" for rank in self._ranks], point)
                values = [json.loads(self._get(f"{point}/{rank}") or "") for rank in self._ranks]
                self._set(f"{point}/result", json.dumps(judge(values)))
            self._wait([f"{point}/result"], point)
            self.note(note)
            return json.loads(self._get(f"{point}/result") or "")

    def fail(self, error: BaseException) -> None:
        """Report the error that ends the run on this rank. The first one of all is the cause."""
        with contextlib.suppress(RankError), _store_errors():
            if self._store.add(self._key("failures"), 1) == 1:
                text = f"rank {self._rank} has failed: {type(error).__name__}: {error}"
                self._set("failure", text)

    def end(self, text: str) -> None:
        """Report that the run has ended on this rank as it should; see `note`."""
        with contextlib.suppress(RankError), _store_errors():
            self.note(text)
            self._set(f"ended/{self._rank}", "")

    def lose(self, error: BaseException) -> None:
        """Report that waiting for another rank has failed here: see `is_lost`."""
        with contextlib.suppress(RankError), _store_errors():
            self._set(f"lost/{self._rank}", str(error))

    def raise_cause(self, error: BaseException) -> None:
        """Raise what is known of why a collective has failed here.

        Args:
            error: that of the collective, which was given to `lose`.

        Raises:
            RankError: names another rank, and what has become of it; or says that all ranks have
                waited.
        """
        deadline = time.monotonic() + min(_PATIENCE, self._timeout)
        with _store_errors():
            for _ in _pauses():
                silent = self._lacking("lost")
                self._raise_failure(silent)
                elsewhere = [rank for rank in self._ranks if self._is_elsewhere(rank)]
                if elsewhere or (silent and time.monotonic() >= deadline):
                    rank = (elsewhere or silent)[0]
                    raise RankError(f"waited in vain for rank {rank}: {self._describe(rank)}")
                if not silent:
                    raise RankError(
                        "all ranks have waited in vain for each other: either they were in "
                        "different collectives, as where a part of the model or a hook is at work "
                        f"on some of them only, or the network has failed ({error})"
                    )

    def _wait(self, keys: Sequence[str], point: str) -> None:
        """Return when there are these keys, of which the last ones to come are a ``point``'s."""
        deadline = time.monotonic() + self._timeout
        for _ in _pauses():
            if self._has(*keys):
                return
            missing = self._lacking(point)
            try:
                self._raise_failure(missing)
            except RankError:
                if self._has(*keys):  # by now: the failure may be what follows from them
                    return
                raise
            ended = [rank for rank in missing if self._has(f"ended/{rank}")]
            if ended and not self._has(*keys):
                raise RankError(f"waited in vain for {_name(ended)}: {self._describe(ended[0])}")
            if time.monotonic() >= deadline:
                waited = f"waited {self._timeout:g} s in vain for {_name(missing or [0])}"
                raise RankError(f"{waited}: {self._describe((missing or [0])[0])}")

    def _raise_failure(self, missing: Iterable[int]) -> None:
        """Raise an error if any rank has failed, or one of the missing ones has died."""
        failure = self._get("failure")
        if failure is not None:
            raise RankError(failure)
        for rank in missing:
            last = self._last_of(rank)
            is_here = last.get("place") == self._place
            if is_here and not _is_alive(last["pid"]) and not self._has(f"ended/{rank}"):
                raise RankError(
                    f"rank {rank} has died (process {last['pid']}): it was killed, such as by the "
                    f"system when memory is short, or called os._exit; before, it {last['text']}"
                )

    def _is_elsewhere(self, rank: int) -> bool:
        """Whether another rank takes no part in training, since it is ahead or done."""
        if rank == self._rank:
            return False
        return self._has(f"ended/{rank}") or bool(self._last_of(rank).get("waits"))

    def _describe(self, rank: int) -> str:
        last = self._last_of(rank)
        if last:
            return f"it {last['text']}, and has not been heard of since"
        if self._kind != "run":
            return "it has not been heard of"
        return (
            "it has not begun its run. Either run() was not called there, or with "
            "handle_signals=False, or it has failed or died before"
        )

    def _last_of(self, rank: int) -> Mapping[str, Any]:
        """The last note of a rank; empty if there is none."""
        found: dict[str, Any] = json.loads(self._get(f"last/{rank}") or "{}")
        return found

    @property
    def _ranks(self) -> range:
        return range(self._world_size)

    def _lacking(self, name: str) -> list[int]:
        """The ranks that have not reported this."""
        if self._has(*(f"{name}/{rank}" for rank in self._ranks)):
            return []
        return [rank for rank in self._ranks if not self._has(f"{name}/{rank}")]

    # The store

    def _key(self, name: str) -> str:
        return f"hookrun/{self._run}/{name}"

    def _set(self, name: str, value: str) -> None:
        self._store.set(self._key(name), value)

    def _has(self, *names: str) -> bool:
        return bool(self._store.check([self._key(name) for name in names]))

    def _get(self, name: str) -> str | None:
        """What was set; None if nothing. (A store's own ``get`` waits for it.)"""
        return bytes(self._store.get(self._key(name))).decode() if self._has(name) else None


def comparable(value: Any) -> Any:
    """What to compare of a value, for `RunReports.compare`: numbers, texts and None themselves.

    Of lists, tuples and dicts, what they hold; of a tensor of one element, its number; of any other
    object the name of its class.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [comparable(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): comparable(each) for key, each in value.items()}
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    return type(value).__name__


def is_lost(error: BaseException | None) -> bool:
    """Whether an error is that of a collective or a wait for other ranks, not one of this rank.

    An error that was raised from such a one counts too.
    """
    while error is not None:
        if isinstance(error, (dist.DistError, RankError)):
            return True
        if type(error) is RuntimeError and _LOST.match(str(error)):
            return True
        error = error.__cause__
    return False


# Errors of collectives over gloo, and of some stores, have no class of their own. Those of gloo
# begin with its file and line.
_LOST = re.compile(
    r"(Gloo connectFullMesh failed with )?\[(enforce fail at )?\S*/gloo/\S+:\d+\] "
    r"|\[Rank \d+\]: Ranks? [\d, ]+ failed to pass monitoredBarrier in "
    r"|(Application timeout caused pair closure|Wait timeout|Socket Timeout)\Z"
)


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """A context whose errors of the store become a RankError."""
    try:
        yield
    except RankError:
        raise
    except (RuntimeError, OSError) as error:  # a FileStore has no error of its own
        raise RankError(
            "the store of the process group cannot be reached: the process that keeps it, rank 0 "
            f"or the launcher, has ended or died ({error})"
        ) from error


def _pauses() -> Iterator[None]:
    """Endless polls, with ever longer pauses in between; a signal can end a pause."""
    pause = 0.001
    while True:
        yield
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _place() -> str:
    """The machine, and the space of process numbers on it."""
    space = ""
    with contextlib.suppress(OSError):  # not on Linux
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{space}"


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and is not collected does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except ProcessLookupError:
        return False
    except (OSError, IndexError):  # another user's, or not on Linux
        return True


def _name(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    more = ", ..." if len(ranks) > 8 else ""
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{more}"
