"""Which entries of a state dict are which of a model's, whatever wrappers added to their names.

Names are compared as they are, without what wrappers add anywhere in them, and without the module
that is around the rest, such as a TrainStep. Each way to look at the file is tried with each way to
look at the model; what lets most entries fit is taken, and of such what changes least.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from hookrun.distributed import INNER_NAMES

Shapes = Mapping[str, tuple[int, ...] | None]
"""The shapes of entries by name; None where there is none, which fits every shape."""

# What wrappers call the module inside, as others may call one of theirs.
_USUAL_NAMES = ("module", "model")
# How far a way to look at names goes: only what nobody but wrappers adds is left out; what wrappers
# usually add; a part of the entries is taken, and the rest left.
_SURELY, _USUALLY, _IN_PART = range(1, 4)


@dataclass(frozen=True)
class Match:
    """Which entries belong together.

    Attributes:
        names: the model's names by the file's.
        rename: what the file's other names would be in the model.
        ambiguous: where several parts of the file fit equally well, so that none was taken: what
            their names begin with.
        ambiguous_in_model: the same of parts of the model, where only these are several.
    """

    names: dict[str, str]
    rename: Callable[[str], str | None] = field(default=lambda name: name)
    ambiguous: Sequence[str] = ()
    ambiguous_in_model: Sequence[str] = ()


@dataclass(frozen=True)
class _View:
    """A way to look at names: those of one side, by how they are compared."""

    names: Mapping[str, str]
    level: int = 0
    dropped: Collection[str] = ()  # components left out everywhere
    prefix: str = ""  # the module whose part of the entries it is

    def rename(self, name: str) -> str | None:
        """How a name is compared; None if it is not."""
        name = _without(name, self.dropped)
        if not self.prefix:
            return name
        return name.removeprefix(f"{self.prefix}.") if name.startswith(f"{self.prefix}.") else None

    @property
    def is_usual(self) -> bool:
        """Whether nothing is left out in front but what is usual there."""
        return set(self.prefix.split(".")) <= {"", *_USUAL_NAMES, *INNER_NAMES}

    @property
    def cost(self) -> tuple[int, int]:
        return self.level, len(self.prefix.split(".")) if self.prefix else 0


def match_names(
    file: Shapes,
    model: Shapes,
    plain: Mapping[str, str],
    extra: Collection[str] = (),
    optional: Collection[str] = (),
) -> Match:
    """Find which entries belong together.

    Args:
        file, model: their entries.
        plain: the model's names by what they are without the wrappers that it is known to have.
        extra: names of the file that need not be in the model, as averages.
        optional: names of the model that need not be in the file.
    """
    core, needed = file.keys() - set(extra), model.keys() - set(optional)
    if core <= model.keys() or needed <= file.keys():
        return Match({name: name for name in file if name in model})
    best: list[tuple[tuple[int, ...], Match]] = []
    for theirs, ours in product(_views(file, extra), _views_of_model(model, plain, optional)):
        most = min(len(theirs.names), len(ours.names))
        if (theirs.level == ours.level == _IN_PART) or (best and most < best[0][0][0]):
            continue
        if not (theirs.is_usual or ours.is_usual):
            continue  # "head" in place of "neck" is another part of a network, and no wrapper
        match = _compare(theirs, ours)
        fitting = {name for name, own in match.names.items() if _fits(file[name], model[own])}
        # A part that might as well be another one must have all that is asked for.
        fitted = {match.names[name] for name in fitting}
        if theirs.level == _IN_PART and not needed.intersection(ours.names.values()) <= fitted:
            continue
        if ours.level == _IN_PART and not core.intersection(theirs.names.values()) <= fitting:
            continue
        cost = (-sum(each) for each in zip(theirs.cost, ours.cost, strict=True))
        rank = (len(fitting), len(match.names), *cost)
        if not best or rank >= best[0][0]:
            best = [each for each in best if each[0] == rank]
            best.append((rank, match))
    if any(match.names != best[0][1].names for _, match in best):
        return _ambiguous([match for _, match in best])
    return best[0][1]


def _ambiguous(matches: Sequence[Match]) -> Match:
    """No match, but what would be several."""
    pairs = [_begin(match) for match in matches]
    theirs, ours = (sorted(set(side)) for side in zip(*pairs, strict=True))
    if len(theirs) > 1:
        return Match({}, ambiguous=theirs)
    return Match({}, ambiguous_in_model=ours)


def _begin(match: Match) -> tuple[str, str]:
    """What all names of a match begin with, in the file and in the model, where that differs."""
    theirs, ours = _common_modules(match.names), _common_modules(match.names.values())
    while theirs and ours and theirs[-1] == ours[-1]:
        theirs, ours = theirs[:-1], ours[:-1]
    return ".".join(theirs), ".".join(ours)


def _common_modules(names: Iterable[str]) -> list[str]:
    """The modules that all names are in, from the outermost one."""
    modules = [name.split(".")[:-1] for name in names]
    common = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*modules, strict=False))
    return [each[0] for each in common]


def _compare(theirs: _View, ours: _View) -> Match:
    def rename(name: str) -> str | None:
        seen = theirs.rename(name)
        return None if seen is None else ours.names.get(seen)

    names = {own: ours.names[name] for name, own in theirs.names.items() if name in ours.names}
    return Match(names, rename)


def _views_of_model(
    model: Iterable[str], plain: Mapping[str, str], optional: Collection[str]
) -> list[_View]:
    """The ways to look at the model's names, and at those without wrappers it is known to have."""
    views = _views(model, optional)
    if any(name != own for name, own in plain.items()):
        for view in _views(plain, {name for name, own in plain.items() if own in optional}):
            names = {name: plain[each] for name, each in view.names.items()}
            views.append(replace(view, names=names))
    return views


def _views(names: Iterable[str], extra: Collection[str]) -> list[_View]:
    """The ways to look at names.

    Args:
        names: them.
        extra: those that need not be in a part for it to be all of them.
    """
    names = list(names)
    views: list[_View] = []
    for level, dropped in (
        (0, set()),
        (_SURELY, INNER_NAMES),
        (_USUALLY, {*INNER_NAMES, "module"}),
    ):
        seen = {_without(name, dropped): name for name in names}
        if len(seen) == len(names) and all(seen != view.names for view in views):
            views.append(_View(seen, level, dropped))  # else two would be one; or none changed
    return [*views, *(part for view in views for part in _parts(view, extra))]


def _parts(whole: _View, extra: Collection[str]) -> Iterator[_View]:
    """Its entries in one module: each of the outermost, and each that is alone in such a one."""
    by_module: dict[str, dict[str, str]] = {}
    for name, own in whole.names.items():
        first, dot, rest = name.partition(".")
        if dot:
            by_module.setdefault(first, {})[rest] = own
    core = len(set(whole.names.values()) - set(extra))
    for prefix, names in by_module.items():
        is_all = len(set(names.values()) - set(extra)) == core
        level = _USUALLY if is_all or prefix in _USUAL_NAMES else _IN_PART
        yield _View(names, max(level, whole.level), whole.dropped, prefix)
        while len(firsts := {name.partition(".")[0] for name in names}) == 1 and all(
            "." in name for name in names
        ):
            prefix = f"{prefix}.{firsts.pop()}"
            names = {name.partition(".")[2]: own for name, own in names.items()}
            yield _View(names, max(level, whole.level), whole.dropped, prefix)


def _without(name: str, parts: Collection[str]) -> str:
    if not parts:
        return name
    *modules, last = name.split(".")
    return ".".join([*(each for each in modules if each not in parts), last])


def _fits(theirs: tuple[int, ...] | None, ours: tuple[int, ...] | None) -> bool:
    return theirs is None or ours is None or theirs == ours
