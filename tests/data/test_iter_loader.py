"""IterLoader: endless passes, their number, and going on within one."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest

from hookrun import IterLoader


class Sampler:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Loader(list[Any]):
    """A list of batches with a sampler."""

    def __init__(self, batches: Any) -> None:
        super().__init__(batches)
        self.sampler = Sampler()


def test_passes_follow_each_other_and_are_counted_as_they_begin() -> None:
    loader = Loader("abc")
    endless = IterLoader(loader)
    taken = [(next(endless), endless.epoch, endless.position) for _ in range(7)]
    assert taken == [
        ("a", 0, 1),
        ("b", 0, 2),
        ("c", 0, 3),
        ("a", 1, 1),
        ("b", 1, 2),
        ("c", 1, 3),
        ("a", 2, 1),
    ]
    assert loader.sampler.epochs == [1, 2]
    assert len(endless) == 3
    assert iter(endless) is endless


def test_a_loader_without_a_sampler() -> None:
    endless = IterLoader(["a"])
    assert [next(endless) for _ in range(3)] == ["a"] * 3


@pytest.mark.parametrize(
    ("position", "expected"),
    [(0, "abcab"), (1, "bcabc"), (2, "cabca"), (3, "abcab"), (4, "abcab")],
)
def test_it_goes_on_within_a_pass(position: int, expected: str) -> None:
    loader = Loader("abc")
    endless = IterLoader(loader, epoch=2, position=position)
    assert loader.sampler.epochs == [2]
    assert endless.epoch == 2
    assert "".join(next(endless) for _ in range(5)) == expected


def test_every_position_is_reached_again() -> None:
    whole = IterLoader(Loader("abc"))
    for _ in range(8):
        again = IterLoader(Loader("abc"), whole.epoch, whole.position)
        assert (again.epoch, again.position) == (whole.epoch, whole.position)
        batch = next(whole)
        assert (next(again), again.epoch) == (batch, whole.epoch)


@pytest.mark.parametrize("batches", [[], iter([])])
def test_no_batches_at_all(batches: Any) -> None:
    with pytest.raises(ValueError, match="gives no batches"):
        next(IterLoader(batches))


def test_a_generator_can_be_gone_through_once() -> None:
    endless = IterLoader(batch for batch in "ab")
    assert [next(endless), next(endless)] == ["a", "b"]
    with pytest.raises(ValueError, match="a generator can be gone through only once"):
        next(endless)


def test_an_exception_of_the_loader_is_raised_as_it_is() -> None:
    def failing() -> Any:
        yield "a"
        raise OSError("disk")

    endless = IterLoader(failing())
    assert next(endless) == "a"
    with pytest.raises(OSError, match="disk"):
        next(endless)


def test_no_length() -> None:
    with pytest.raises(TypeError):
        len(IterLoader(iter("ab")))


def test_a_batch_that_cannot_be_fetched_does_not_count() -> None:
    class Flaky:
        def __init__(self) -> None:
            self.left = [3, 2, 1]

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            if not self.left:
                raise StopIteration
            number = self.left.pop()
            if number == 2:
                raise OSError("no such sample")
            return number

    endless = IterLoader(Flaky())
    assert next(endless) == 1
    with pytest.raises(OSError, match="no such sample"):
        next(endless)
    assert endless.position == 1
    assert next(endless) == 3
    assert (endless.position, endless.epoch) == (2, 0)
    with pytest.raises(ValueError, match="Flaky gives no batches"):
        next(endless)


class Counting:
    """Its own iterator, which begins anew whenever it is asked for one."""

    begun = 0

    def __iter__(self) -> Any:
        self.left = 3
        self.begun += 1
        return self

    def __next__(self) -> int:
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return self.left


def test_a_closed_loader_keeps_its_counts_and_lets_go_of_its_iterator() -> None:
    class Loader:
        def __iter__(self) -> Any:
            return iter(Counting())

    endless = IterLoader(Loader())
    assert next(endless) == 2
    iterators = [each for each in gc.get_objects() if isinstance(each, Counting)]
    assert len(iterators) == 1
    iterator = weakref.ref(iterators.pop())
    assert iterator() is not None
    endless.close()
    gc.collect()
    assert iterator() is None
    assert (endless.position, endless.epoch) == (1, 0)


def test_a_loader_is_asked_for_one_iterator_a_pass() -> None:
    """Asking draws random numbers, where it shuffles."""
    loader = Counting()
    endless = IterLoader(loader)
    assert [next(endless) for _ in range(7)] == [2, 1, 0, 2, 1, 0, 2]
    assert loader.begun == 3


@pytest.mark.parametrize("copied", [copy.copy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_goes_on_where_the_loader_is(copied: Any) -> None:
    endless = IterLoader(Counting())
    taken = [next(endless) for _ in range(4)]
    other = copied(endless)
    assert taken == [2, 1, 0, 2]
    assert (other.position, other.epoch) == (1, 1)
    assert next(other) == 1
