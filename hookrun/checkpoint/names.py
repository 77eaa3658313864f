"""Matching the names of a state dict to those of a model, whatever wrappers added to either.

Names are compared unchanged, without the parts that wrappers add anywhere in them, and without an
outer module such as a TrainStep. Each such view of the file is tried with each view of the model;
the pair in which most entries fit is taken, and among equals the one that changes names least.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from hookrun.distributed import INNER_NAMES

Shapes = Mapping[str, tuple[int, ...] | None]
"""Names to shapes; None, for what has no shape, fits every shape."""

# Attributes by which wrappers usually hold the inner module; other modules may use them too.
_USUAL_NAMES = ("module", "model")
# What a view removes, from safe to bold: components that only wrappers add; components that
# wrappers usually add; all entries outside of one module.
_SAFE, _USUAL, _PARTIAL = range(1, 4)


@dataclass(frozen=True)
class Match:
    """Which entries correspond.

    Attributes:
        names: names in the file to names in the model.
        rename: maps any other name of the file to the model's in the same way, or to None.
        ambiguous: if several parts of the file fit equally well and none was taken: the prefixes of
            their names.
        ambiguous_in_model: the same for several parts of the model.
        is_part: whether one side is only a part of the other, such as a backbone.
    """

    names: dict[str, str]
    rename: Callable[[str], str | None] = field(default=lambda name: name)
    ambiguous: Sequence[str] = ()
    ambiguous_in_model: Sequence[str] = ()
    is_part: bool = False


@dataclass(frozen=True)
class _View:
    """One way to compare the names of one side.

    Attributes:
        names: names as compared to the original names.
        level: what is removed: 0 for nothing, ``_SAFE``, ``_USUAL`` or ``_PARTIAL``.
        dropped: components removed anywhere in a name.
        prefix: the module to which the entries are restricted, removed from the names.
    """

    names: Mapping[str, str]
    level: int = 0
    dropped: Collection[str] = ()
    prefix: str = ""

    def rename(self, name: str) -> str | None:
        """A name as compared; None if it is outside of ``prefix``."""
        name = _without(name, self.dropped)
        if not self.prefix:
            return name
        return name.removeprefix(f"{self.prefix}.") if name.startswith(f"{self.prefix}.") else None

    @property
    def is_usual(self) -> bool:
        """Whether the prefix has only names that wrappers usually have."""
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
    """Find which entries correspond.

    Args:
        file, model: their entries.
        plain: names without the model's known wrappers to its names.
        extra: names of the file that need not be in the model, such as averages.
        optional: names of the model that need not be in the file.
    """
    core, needed = file.keys() - set(extra), model.keys() - set(optional)
    if core <= model.keys() or needed <= file.keys():
        return Match({name: name for name in file if name in model})
    best: list[tuple[tuple[int, ...], Match]] = []
    for theirs, ours in product(_views(file, extra), _views_of_model(model, plain, optional)):
        most = min(len(theirs.names), len(ours.names))
        if (theirs.level == ours.level == _PARTIAL) or (best and most < best[0][0][0]):
            continue
        if not (theirs.is_usual or ours.is_usual):
            continue  # "head" instead of "neck" is another part of the network, not a wrapper
        match = _compare(theirs, ours)
        fitting = {
            name for name, original in match.names.items() if _fits(file[name], model[original])
        }
        # A partial view might be the wrong part, so it must have every needed entry.
        fitted = {match.names[name] for name in fitting}
        if theirs.level == _PARTIAL and not needed.intersection(ours.names.values()) <= fitted:
            continue
        if ours.level == _PARTIAL and not core.intersection(theirs.names.values()) <= fitting:
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
    """An empty match that says which parts would fit equally well."""
    pairs = [_prefixes(match) for match in matches]
    theirs, ours = (sorted(set(side)) for side in zip(*pairs, strict=True))
    if len(theirs) > 1:
        return Match({}, ambiguous=theirs)
    return Match({}, ambiguous_in_model=ours)


def _prefixes(match: Match) -> tuple[str, str]:
    """The prefixes of a match's names in the file and in the model, as far as they differ."""
    theirs, ours = _common_modules(match.names), _common_modules(match.names.values())
    while theirs and ours and theirs[-1] == ours[-1]:
        theirs, ours = theirs[:-1], ours[:-1]
    return ".".join(theirs), ".".join(ours)


def _common_modules(names: Iterable[str]) -> list[str]:
    """The modules that contain all names, from the outermost one."""
    modules = [name.split(".")[:-1] for name in names]
    common = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*modules, strict=False))
    return [each[0] for each in common]


def _compare(theirs: _View, ours: _View) -> Match:
    def rename(name: str) -> str | None:
        seen = theirs.rename(name)
        return None if seen is None else ours.names.get(seen)

    names = {
        original: ours.names[name] for name, original in theirs.names.items() if name in ours.names
    }
    return Match(names, rename, is_part=_PARTIAL in (theirs.level, ours.level))


def _views_of_model(
    model: Iterable[str], plain: Mapping[str, str], optional: Collection[str]
) -> list[_View]:
    """The views of the model's names, and of those without its known wrappers."""
    views = _views(model, optional)
    if any(name != original for name, original in plain.items()):
        for view in _views(
            plain, {name for name, original in plain.items() if original in optional}
        ):
            names = {name: plain[each] for name, each in view.names.items()}
            views.append(replace(view, names=names))
    return views


def _views(names: Iterable[str], extra: Collection[str]) -> list[_View]:
    """The views of names.

    Args:
        names: the names.
        extra: names that a part may lack and still count as all of them.
    """
    names = list(names)
    views: list[_View] = []
    for level, dropped in (
        (0, set()),
        (_SAFE, INNER_NAMES),
        (_USUAL, {*INNER_NAMES, "module"}),
    ):
        seen = {_without(name, dropped): name for name in names}
        if len(seen) == len(names) and all(seen != view.names for view in views):
            views.append(
                _View(seen, level, dropped)
            )  # else two names would become one, or none changed
    return [*views, *(part for view in views for part in _parts(view, extra))]


def _parts(view: _View, extra: Collection[str]) -> Iterator[_View]:
    """The partial views by module: each outermost one, and the only one inside of such a one."""
    by_module: dict[str, dict[str, str]] = {}
    for name, original in view.names.items():
        first, dot, rest = name.partition(".")
        if dot:
            by_module.setdefault(first, {})[rest] = original
    core = len(set(view.names.values()) - set(extra))
    for prefix, names in by_module.items():
        is_all = len(set(names.values()) - set(extra)) == core
        level = _USUAL if is_all or prefix in _USUAL_NAMES else _PARTIAL
        yield _View(names, max(level, view.level), view.dropped, prefix)
        while len(firsts := {name.partition(".")[0] for name in names}) == 1 and all(
            "." in name for name in names
        ):
            prefix = f"{prefix}.{firsts.pop()}"
            names = {name.partition(".")[2]: original for name, original in names.items()}
            yield _View(names, max(level, view.level), view.dropped, prefix)


def _without(name: str, parts: Collection[str]) -> str:
    if not parts:
        return name
    *modules, last = name.split(".")
    return ".".join([*(each for each in modules if each not in parts), last])


def _fits(theirs: tuple[int, ...] | None, ours: tuple[int, ...] | None) -> bool:
    return theirs is None or ours is None or theirs == ours
