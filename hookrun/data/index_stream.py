"""The indices that a loader asks its dataset for: counted, and left out without being fetched."""

from __future__ import annotations

import itertools
import weakref
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hookrun.core.interrupts import interruptible, uninterrupted

NOTHING = -1
"""In place of a number of indices to leave out: all of them."""


class IndexPass:
    """The indices of one pass: counted, or without the first ones.

    Where a batch has some of those that are left out, the others are a smaller batch.

    Args:
        batches: the indices, in batches.
        kinds: the types that are batches; anything else is one index.
        skip: indices to leave out.
        counting: whether to keep ``ends`` and ``digests``.

    Attributes:
        ends: indices behind each batch, counted from the beginning of the pass.
        digests: a checksum of all these indices, for each batch.
        first: batches of which every index was left out.
        digest: a checksum of what was left out; None where the pass has not even so much.
    """

    def __init__(
        self, batches: Iterator[Any], kinds: tuple[type, ...], skip: int, counting: bool
    ) -> None:
        self.ends: list[int] = []
        self.digests: list[int] = []
        self.first = 0
        self.digest: int | None = 0
        self._kinds, self._skip = kinds, skip
        self._batches = self._counted(batches) if counting else batches

    def __iter__(self) -> IndexPass:
        return self

    def __next__(self) -> Any:
        if self._skip:
            self.leave_out()
        return next(self._batches)

    def leave_out(self) -> None:
        """Draw the indices to leave out, unless that has been done."""
        skip, self._skip = self._skip, 0
        seen = digest = 0
        while seen < skip:
            batch = next(self._batches, None)
            if batch is None:
                self.digest = None
                return
            size = len(self._items(batch))
            if seen + size > skip:
                digest = self._checksum(batch[: skip - seen], digest)
                self._batches = itertools.chain([batch[skip - seen :]], self._batches)
                break
            digest = self._checksum(batch, digest)
            self.first += 1
            seen += size
        self.digest = digest

    def _items(self, batch: Any) -> Any:
        return batch if isinstance(batch, self._kinds) else (batch,)

    def _checksum(self, batch: Any, before: int) -> int:
        """One that depends on the indices, not on how they are divided into batches."""
        names = "".join(f"{_name_of(each)}," for each in self._items(batch))
        return zlib.crc32(names.encode(), before)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        end = digest = 0
        for batch in batches:
            end += len(self._items(batch))
            digest = self._checksum(batch, digest)
            self.ends.append(end)
            self.digests.append(digest)
            yield batch


class IndexStream:
    """Stands in for the batch sampler of a loader, or for its sampler where it makes no batches.

    It hands on what that gives, in a pass that has been prepared (:func:`iter_through`) by way of
    an :class:`IndexPass`. Persistent workers keep it for later passes.

    Attributes:
        inner: what it stands in for.
        present: the pass that was prepared, if an iterator has been made of it.
    """

    def __init__(self, inner: Any, in_batches: bool) -> None:
        self.inner = inner
        self.present: IndexPass | None = None
        self._kinds = (list, tuple, Tensor, np.ndarray) if in_batches else (list,)
        self._prepared: tuple[int, bool] | None = None

    def prepare(self, skip: int, counting: bool) -> None:
        """Let the iterators to come leave out the first ``skip`` indices, or count."""
        self._prepared, self.present = (skip, counting), None

    def release(self) -> None:
        """Let the iterators to come be those of what this stands in for."""
        self._prepared = None

    def __iter__(self) -> Iterator[Any]:
        if self._prepared is None:
            return iter(self.inner)
        skip, counting = self._prepared
        if skip == NOTHING:
            return iter(())
        # Loaders with workers ask twice, and use the second one.
        self.present = IndexPass(iter(self.inner), self._kinds, skip, counting)
        return self.present

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # asked for while this is being copied
            raise AttributeError(name)
        return getattr(self.inner, name)


def iter_through(
    loader: Any, source: DataLoader[Any], skip: int = 0, counting: bool = False
) -> tuple[Iterator[Any], IndexPass | None]:
    """An iterator of a loader that gets its indices in a prepared pass, and that pass.

    The loader is afterwards as it was before, whatever interrupts this.

    Args:
        loader: what makes the iterator.
        source: the DataLoader that it is, or wraps.
        skip: indices to leave out, in this process; or :data:`NOTHING`.
        counting: whether to keep ``ends`` and ``digests``.

    Returns:
        None as the pass where the loader has made no iterator through it; not every one does.
    """
    batches, indices = uninterrupted(_iter_through, loader, source, skip, counting)
    if indices is not None:
        indices.leave_out()
    return batches, indices


def _iter_through(
    loader: Any, source: DataLoader[Any], skip: int, counting: bool
) -> tuple[Iterator[Any], IndexPass | None]:
    name = "sampler" if source.batch_sampler is None else "batch_sampler"
    inner = vars(source).get(name)
    stream = None if inner is None else _stream_of(source, inner, name == "batch_sampler")
    if stream is None:  # its attributes are computed
        return interruptible(iter, loader), None
    stream.prepare(skip, counting)
    vars(source)[name] = stream  # assigning it is refused
    try:
        batches = interruptible(iter, loader)
    finally:
        vars(source)[name] = inner
        stream.release()
    return batches, stream.present


def follows_sampler(loader: Any, count: int) -> bool | None:
    """Whether a loader with an ``__iter__`` of its own gives each batch as its indices are drawn.

    One that reorders batches draws some ahead, and one that leaves some out draws more than it
    gives. The batches of so many samples are fetched to find out.

    Returns:
        None for any other loader; nothing has been fetched then.
    """
    has_own = isinstance(loader, DataLoader) and type(loader).__iter__ is not DataLoader.__iter__
    if not has_own or isinstance(loader.dataset, IterableDataset) or hasattr(loader, "state_dict"):
        return None
    batches, indices = iter_through(_Started(loader), loader, counting=True)
    if indices is None:
        return False
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    in_all = len(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    for given, _ in enumerate(batches, 1):
        if len(indices.ends) != min(given + ahead, in_all) or in_all <= ahead:
            return False
        if indices.ends[given - 1] >= count:
            break
    return True


class _Started:
    """A loader whose iterators have begun, for a generator asks for its indices only then."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        return itertools.chain(list(itertools.islice(batches, 1)), batches)


_streams: weakref.WeakKeyDictionary[DataLoader[Any], IndexStream] = weakref.WeakKeyDictionary()


def _stream_of(loader: DataLoader[Any], inner: Any, in_batches: bool) -> IndexStream | None:
    try:
        stream = _streams.get(loader)
        if stream is None or stream.inner is not inner:
            stream = _streams[loader] = IndexStream(inner, in_batches)
    except TypeError:  # it cannot be hashed
        return None
    return stream


def _name_of(index: Any) -> str:
    """What tells an index from others, in another process too."""
    if isinstance(index, (int, np.integer)):
        return str(int(index))
    if isinstance(index, (str, float)):
        return str(index)
    if isinstance(index, (tuple, list)):
        return f"({','.join(map(_name_of, index))})"
    if isinstance(index, (Tensor, np.ndarray)):
        return str(index.tolist())
    return type(index).__name__
