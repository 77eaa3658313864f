"""One pass through a data loader, from its start or from where a run was resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from .order_search import find_order_makers, unwrapped
from .order_state import order_state, restore_order, watch
from .problems import Problem
from .restoring import check_order, restore_beginning, restore_between_passes, state_between_passes
from .resume_pass import RemainingPass, begin, counts_samples, has_state, resume, samples_in
from .rng import rng_state, set_rng_state
from .samples import (
    can_seek,
    is_iterable_style,
    over_ranks,
    own_total,
    replicas,
    samples_per_batch,
    seeking_sampler,
    total_samples,
    world_size,
)


class DataPass:
    """One pass through a loader. A resumed pass skips to its position in the fastest exact way:

    * a sampler that can ``seek`` (`ResumableSampler`) starts there, and no sample
      that has been seen is fetched again;
    * a loader that has a ``state_dict`` (torchdata's ``StatefulDataLoader``) loads it;
    * with any other loader, the seen batches are fetched again and thrown away. Before that, the
      state that determines the order (see `order_state`) is set back to the start of the
      pass, so that the order and random augmentation repeat;
    * where the batch size has changed, samples are skipped rather than batches; the first batch may
      be smaller.

    Args:
        loader: anything that can be iterated.
        epoch: the number of the pass, for ``set_epoch`` of a sampler that can seek. None: it is not
            called.
        loader_position: where a resumed run is in this pass: the result of `position`.
        rank_state: the result of `rank_state` on this rank, if the checkpoint has it.

    Attributes:
        first: batches that have been seen in this pass, in units of this loader's batches.
        problems: why the remaining batches may differ from those of an uninterrupted run.
    """

    def __init__(
        self,
        loader: Any,
        epoch: int | None = 0,
        loader_position: Mapping[str, Any] | None = None,
        rank_state: Mapping[str, Any] | None = None,
    ) -> None:
        self.loader = loader
        self.epoch = epoch or 0
        self.per_batch = samples_per_batch(loader)
        self.first = 0
        self.problems: list[Problem] = []
        self._remaining: RemainingPass | None = None
        self._counting = _is_counted(loader)
        counts = self._counting or counts_samples(loader)
        self._knows_samples = counts or self.per_batch is not None
        # The order state at the resume point, to be set once the seen batches are skipped.
        self._saved_order: Mapping[str, Any] | None = None
        self.rng: dict[str, Any] = {}
        self._beginning: dict[str, Any] = {}
        watch(loader)
        sampler = seeking_sampler(loader)
        if sampler is not None and epoch is not None:
            sampler.set_epoch(epoch)
            sampler.seek(0)
        if loader_position is not None:
            self._resume(loader_position, rank_state or {})

    def _resume(self, loader_position: Mapping[str, Any], rank_state: Mapping[str, Any]) -> None:
        if "now" in rank_state and "begin" not in rank_state and not loader_position["batches"]:
            # The pass had not begun.
            self.problems += restore_between_passes(self.loader, rank_state, self.epoch)
            set_rng_state(rank_state["rng"])
            return

        def restore() -> list[Problem]:
            return restore_beginning(self.loader, loader_position, rank_state)

        self.problems += restore()
        self.problems += check_order(self.loader, loader_position, rank_state)
        self._record_beginning()
        loader_position = over_ranks(self.loader, {**loader_position, "epoch": self.epoch})
        self._remaining = resume(self.loader, loader_position, rank_state, self._counting, restore)
        self.first = self._remaining.first
        self.problems += self._remaining.problems
        if self._remaining.repeats:
            self._saved_order = rank_state.get("now")

    def _record_beginning(self) -> None:
        self.rng, self._beginning = rng_state(cuda=False), order_state(self.loader)

    @property
    def batches(self) -> Iterator[Any]:
        """The iterator over the remaining batches. The first access begins the pass."""
        if self._remaining is None:
            self._record_beginning()
            self._remaining = begin(self.loader, self._counting)
        return self._remaining.batches

    def close(self) -> None:
        """Drop the iterator, so that its worker processes end. Counts stay readable."""
        if self._remaining is not None:
            self._remaining.batches = iter(())
            if self._remaining.counted is not None:
                self._remaining.counted.close()

    def restore_saved_order(self) -> None:
        """Set the state that determines the order to what it was when the checkpoint was saved.

        To be called after all passes of a resumed run have begun: loaders may share generators, and
        beginning a pass draws from them.
        """
        saved, self._saved_order = self._saved_order, None
        if saved is not None:
            restore_order(self.loader, saved, in_pass=True)

    def samples(self, batches: int) -> int | None:
        """Samples that all ranks together have seen after ``batches``; None if unknown."""
        remaining = self._remaining or RemainingPass(iter(()))
        if batches == remaining.first:
            return remaining.samples if batches or self._knows_samples else None
        if self.per_batch is None:
            on_rank = self._seen_by_rank(batches)
            return None if on_rank is None else on_rank * replicas(self.loader)
        if remaining.samples is None:
            return None
        base = remaining.samples if remaining.counted_from is None else remaining.counted_from
        seen, total = (
            base + (batches - remaining.first) * self.per_batch,
            total_samples(self.loader),
        )
        return seen if total is None else min(seen, total)

    def _seen_by_rank(self, batches: int) -> int | None:
        """Samples that this rank has seen after ``batches``; None where they are not counted."""
        remaining = self._remaining
        counted = None if remaining is None else remaining.indices or remaining.counted
        ends = [] if counted is None else counted.ends
        return ends[batches - 1] if 0 < batches <= len(ends) else None

    def position(self, batches: int) -> dict[str, Any]:
        """The loader position after ``batches`` of the pass: the same on all ranks."""
        samples = self.samples(batches)
        source = unwrapped(self.loader)
        if samples is None and isinstance(source, (list, tuple)):
            samples = samples_in(source, batches)
        position: dict[str, Any] = {"epoch": self.epoch, "batches": batches, "samples": samples}
        position["world_size"] = world_size()
        total, sampler = own_total(self.loader), seeking_sampler(self.loader)
        if total is not None:
            position["total"] = total
        if hasattr(sampler, "state_dict"):
            position["sampler"] = sampler.state_dict()
        return position

    def rank_state(self, batches: int, taken_ahead: bool) -> dict[str, Any]:
        """The part of the resume point that is specific to this rank, beside `position`.

        Args:
            batches: as for `position`.
            taken_ahead: whether a batch has been fetched that is not finished. The loader's own
                ``state_dict`` would already count it, and is left out then.
        """
        if self._remaining is None:
            return {"rng": rng_state(cuda=False), **state_between_passes(self.loader)}
        state: dict[str, Any] = {"rng": self.rng, "begin": self._beginning}
        state["now"] = order_state(self.loader)
        state["ahead"] = int(taken_ahead)
        indices, source = self._remaining.indices, unwrapped(self.loader)
        on_rank = self._seen_by_rank(batches)
        if on_rank is not None:
            state["samples"] = on_rank
            if indices is not None:
                state["digest"] = indices.digests[batches - 1]
        if is_iterable_style(source):
            state["workers"] = source.num_workers
        if not taken_ahead and has_state(self.loader):
            state["state"] = self.loader.state_dict()
        return state

    def beginning(self) -> dict[str, Any]:
        """The state to repeat the pass from its start: `state_between_passes` as of then."""
        return {"now": self._beginning}


def _is_counted(loader: Any) -> bool:
    """Whether a pass counts its indices: only where a sampler that is not torch's yields them."""
    source = unwrapped(loader)
    if not isinstance(source, DataLoader) or is_iterable_style(source) or has_state(source):
        return False
    if can_seek(loader):
        return False
    objects = find_order_makers(source).objects
    return any(path.startswith(("sampler", "batch_sampler")) for path in objects)
