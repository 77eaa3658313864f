"""The sampler's indices on their way to a loader: counted, or skipped without being fetched."""

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

from .iterate import iterate

ALL = -1
"""In place of a number of indices to skip: skip all of them."""


class IndexPass:
    """The indices of one pass: counted, or without the first ``skip`` ones.

    A batch of which only some indices are skipped becomes a smaller batch.

    Args:
        batches: the indices, in batches.
        batch_types: the types that are batches; anything else is one index.
        skip: indices to skip.
        counting: whether to keep ``ends`` and ``digests``.

    Attributes:
        ends: for each batch, the indices from the beginning of the pass to its end.
        digests: for each batch, a checksum of all these indices.
        first: batches that were skipped completely.
        digest: a checksum of the skipped indices; None where the pass has fewer.
    """

    def __init__(
        self, batches: Iterator[Any], batch_types: tuple[type, ...], skip: int, counting: bool
    ) -> None:
        self.ends: list[int] = []
        self.digests: list[int] = []
        self.first = 0
        self.digest: int | None = 0
        self._batch_types, self._skip = batch_types, skip
        self._batches = self._counted(batches) if counting else batches

    def __iter__(self) -> IndexPass:
        return self

    def __next__(self) -> Any:
        if self._skip:
            self.skip_now()
        return next(self._batches)

    def skip_now(self) -> None:
        """Draw the indices to skip, unless that has been done."""
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
        return batch if isinstance(batch, self._batch_types) else (batch,)

    def _checksum(self, batch: Any, before: int) -> int:
        """It depends on the indices, not on how they are divided into batches."""
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
    """A wrapper around the batch sampler of a loader, or its sampler where it makes no batches.

    In a pass that was prepared (`iter_through`), the indices go through an
    `IndexPass`; in any other they are passed on unchanged. Persistent workers hold on to
    this object for later passes.

    Attributes:
        inner: the wrapped sampler.
        current: the prepared pass, once the loader has asked for its iterator.
    """

    def __init__(self, inner: Any, in_batches: bool) -> None:
        self.inner = inner
        self.current: IndexPass | None = None
        self._batch_types = (list, tuple, Tensor, np.ndarray) if in_batches else (list,)
        self._prepared: tuple[int, bool] | None = None

    def prepare(self, skip: int, counting: bool) -> None:
        """Make the next iterators skip the first ``skip`` indices, or count."""
        self._prepared, self.current = (skip, counting), None

    def release(self) -> None:
        """Make the next iterators plain ones of the wrapped sampler."""
        self._prepared = None

    def __iter__(self) -> Iterator[Any]:
        if self._prepared is None:
            return iter(self.inner)
        skip, counting = self._prepared
        if skip == ALL:
            return iter(())
        # Loaders with workers call iter() twice, and use the second iterator.
        self.current = IndexPass(iter(self.inner), self._batch_types, skip, counting)
        return self.current

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # asked for while this is being copied
            raise AttributeError(name)
        return getattr(self.inner, name)


def iter_through(
    loader: Any, source: DataLoader[Any], skip: int = 0, counting: bool = False
) -> tuple[Iterator[Any], IndexPass | None]:
    """An iterator of a loader whose indices go through an `IndexPass`, and that pass.

    Afterwards the loader's attributes are as before, also where a signal interrupts this.

    Args:
        loader: what makes the iterator.
        source: the DataLoader that it is, or wraps.
        skip: indices to skip on this rank, or `ALL`.
        counting: whether to keep ``ends`` and ``digests``.

    Returns:
        None as the pass where the loader's ``__iter__`` has not used the wrapped sampler.
    """
    batches, indices = uninterrupted(_iter_through, loader, source, skip, counting)
    if indices is not None:
        indices.skip_now()
    return batches, indices


def _iter_through(
    loader: Any, source: DataLoader[Any], skip: int, counting: bool
) -> tuple[Iterator[Any], IndexPass | None]:
    name = "sampler" if source.batch_sampler is None else "batch_sampler"
    inner = vars(source).get(name)
    stream = None if inner is None else _stream_of(source, inner, name == "batch_sampler")
    if stream is None:  # the sampler is a property, or the loader cannot be hashed
        return interruptible(iter, loader), None
    stream.prepare(skip, counting)
    vars(source)[name] = stream  # DataLoader.__setattr__ refuses it
    try:
        batches = interruptible(iter, loader)
    finally:
        vars(source)[name] = inner
        stream.release()
    return batches, stream.current


def follows_sampler(loader: Any, count: int) -> bool | None:
    """Whether a loader that overrides ``__iter__`` yields one batch for each that it draws.

    One that reorders batches draws ahead, and one that drops batches draws more than it yields.
    To find out, batches of ``count`` samples are fetched.

    Returns:
        None for a loader that does not override it; nothing is fetched then.
    """
    custom = isinstance(loader, DataLoader) and type(loader).__iter__ is not DataLoader.__iter__
    if not custom or isinstance(loader.dataset, IterableDataset) or hasattr(loader, "state_dict"):
        return None
    batches, indices = iter_through(_Started(loader), loader, counting=True)
    if indices is None:
        return False
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    total = len(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    for yielded, _ in enumerate(batches, 1):
        if len(indices.ends) != min(yielded + ahead, total) or total <= ahead:
            return False
        if indices.ends[yielded - 1] >= count:
            break
    return True


class _Started:
    """A loader whose iterators have fetched a batch: a generator asks for its indices only then."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        batches = iterate(self.loader)
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
    """A string that identifies an index, in other processes too."""
    if isinstance(index, (int, np.integer)):
        return str(int(index))
    if isinstance(index, (str, float)):
        return str(index)
    if isinstance(index, (tuple, list)):
        return f"({','.join(map(_name_of, index))})"
    if isinstance(index, (Tensor, np.ndarray)):
        return str(index.tolist())
    return type(index).__name__
