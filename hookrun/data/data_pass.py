"""One pass through a data loader, begun anew or gone on with where a run was resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from .going_on import Rest, begin, counts_samples, go_on, has_state, samples_in
from .order_search import find_order_makers, unwrapped
from .order_state import order_state, restore_order, watch
from .problems import Problem
from .restoring import check_order, restore_beginning, restore_between_passes, state_between_passes
from .rng import rng_state, set_rng_state
from .samples import (
    can_seek,
    is_iterable_style,
    replicas,
    samples_per_batch,
    seeking_sampler,
    total_samples,
)


class DataPass:
    """One pass through a loader. It may begin in the middle, by the quickest way that is exact:

    * a sampler that can ``seek`` (:class:`~hookrun.ResumableSampler`) begins there, and nothing of
      what has been seen is fetched;
    * a loader with a state of its own (torchdata's ``StatefulDataLoader``) is given it back;
    * from any other the seen batches are fetched again and thrown away. What the order follows from
      is set to what it was when the pass began, so that it is the same order, and random
      augmentation repeats;
    * where the batches have another size now, the samples count: those that have been seen are left
      out, and the first batch may be smaller.

    Args:
        loader: anything that can be iterated.
        epoch: the number of the pass; a sampler that can seek is told. None tells it nothing.
        place: where a resumed run is in this pass: what :meth:`place` gave.
        own: this process's part of that: what :meth:`own_state` gave, where a checkpoint has it.

    Attributes:
        first: batches that have been seen of it, in batches of this loader.
        problems: why what follows may differ from what the run that was not stopped saw.
    """

    def __init__(
        self,
        loader: Any,
        epoch: int | None = 0,
        place: Mapping[str, Any] | None = None,
        own: Mapping[str, Any] | None = None,
    ) -> None:
        self.loader = loader
        self.epoch = epoch or 0
        self.per_batch = samples_per_batch(loader)
        self.first = 0
        self.problems: list[Problem] = []
        self._rest: Rest | None = None
        self._counting = _is_counted(loader)
        counts = self._counting or counts_samples(loader)
        self._tells_samples = counts or self.per_batch is not None
        self._now: Mapping[str, Any] | None = None  # what to set behind the batches gone past
        self.rng: dict[str, Any] = {}
        self._beginning: dict[str, Any] = {}
        watch(loader)
        sampler = seeking_sampler(loader)
        if sampler is not None and epoch is not None:
            sampler.set_epoch(epoch)
            sampler.seek(0)
        if place is not None:
            self._go_on(place, own or {})

    def _go_on(self, place: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        if "now" in own and "begin" not in own and not place["batches"]:  # it had not begun
            self.problems += restore_between_passes(self.loader, own, self.epoch)
            set_rng_state(own["rng"])
            return

        def restore() -> list[Problem]:
            return restore_beginning(self.loader, place, own)

        self.problems += restore()
        self.problems += check_order(self.loader, place, own)
        self._take_note()
        here = {**place, "epoch": self.epoch}
        self._rest = go_on(self.loader, here, own, self._counting, restore)
        self.first = self._rest.first
        self.problems += self._rest.problems
        if self._rest.repeats:
            self._now = own.get("now")

    def _take_note(self) -> None:
        self.rng, self._beginning = rng_state(cuda=False), order_state(self.loader)

    @property
    def batches(self) -> Iterator[Any]:
        """The iterator over what is left; asked for the first time, it begins a pass."""
        if self._rest is None:
            self._take_note()
            self._rest = begin(self.loader, self._counting)
        return self._rest.batches

    def close(self) -> None:
        """Let go of the iterator, so that its worker processes end; what is known stays."""
        if self._rest is not None:
            self._rest.batches = iter(())
            if self._rest.counted is not None:
                self._rest.counted.close()

    def settle(self) -> None:
        """Let what the order follows from be what it was when the checkpoint was saved.

        To be called when all passes of a resumed run have begun, which may share generators.
        """
        now, self._now = self._now, None
        if now is not None:
            restore_order(self.loader, now, going_on=True)

    def samples(self, batches: int) -> int | None:
        """Samples of the pass that all processes have seen after so many batches, if known."""
        rest = self._rest or Rest(iter(()))
        if batches == rest.first:
            return rest.samples if batches or self._tells_samples else None
        if self.per_batch is None:
            here = self._seen_here(batches)
            return None if here is None else here * replicas(self.loader)
        if rest.samples is None:
            return None
        base = rest.samples if rest.counted_from is None else rest.counted_from
        seen, total = base + (batches - rest.first) * self.per_batch, total_samples(self.loader)
        return seen if total is None else min(seen, total)

    def _seen_here(self, batches: int) -> int | None:
        """Samples that this process has seen after so many batches, where they are counted."""
        rest = self._rest
        counted = None if rest is None else rest.indices or rest.counted
        ends = [] if counted is None else counted.ends
        return ends[batches - 1] if 0 < batches <= len(ends) else None

    def place(self, batches: int) -> dict[str, Any]:
        """Where a run is after so many batches of the pass: the same in every process."""
        samples = self.samples(batches)
        source = unwrapped(self.loader)
        if samples is None and isinstance(source, (list, tuple)):
            samples = samples_in(source, batches)
        place: dict[str, Any] = {"epoch": self.epoch, "batches": batches, "samples": samples}
        total, sampler = total_samples(self.loader), seeking_sampler(self.loader)
        if total is not None:
            place["total"] = total
        if hasattr(sampler, "state_dict"):
            place["sampler"] = sampler.state_dict()
        return place

    def own_state(self, batches: int, taken_ahead: bool) -> dict[str, Any]:
        """What goes with :meth:`place`, but is of this process alone.

        Args:
            batches: as for :meth:`place`.
            taken_ahead: whether a batch has been taken that is not done: the state of a loader is
                behind it already then, and left out.
        """
        if self._rest is None:
            return {"rng": rng_state(cuda=False), **state_between_passes(self.loader)}
        own: dict[str, Any] = {"rng": self.rng, "begin": self._beginning}
        own["now"] = order_state(self.loader)
        own["ahead"] = int(taken_ahead)
        indices, source = self._rest.indices, unwrapped(self.loader)
        here = self._seen_here(batches)
        if here is not None:
            own["samples"] = here
            if indices is not None:
                own["digest"] = indices.digests[batches - 1]
        if is_iterable_style(source):
            own["workers"] = source.num_workers
        if not taken_ahead and has_state(self.loader):
            own["state"] = self.loader.state_dict()
        return own

    def beginning(self) -> dict[str, Any]:
        """What goes through the whole pass once more: as :func:`state_between_passes` before it."""
        return {"now": self._beginning}


def _is_counted(loader: Any) -> bool:
    """Whether a pass counts its indices: where they come from a sampler that is not torch's."""
    source = unwrapped(loader)
    if not isinstance(source, DataLoader) or is_iterable_style(source) or has_state(source):
        return False
    if can_seek(loader):
        return False
    objects = find_order_makers(source).objects
    return any(path.startswith(("sampler", "batch_sampler")) for path in objects)
