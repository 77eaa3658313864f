"""Encoding values that ``torch.load(weights_only=True)`` refuses as plain types and tensors.

Loading must not run code from a file, so only plain types and tensors can be saved. Arrays are
saved as tensors, paths as strings, and so on; a list of notes beside the tree says which values
were encoded and from what, and `decode` restores them. Readers other than hookrun see the
encoded values.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence, ValuesView
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bounds import check_hashes

NOTES = "hookrun_kinds"
"""The key of a checkpoint under which the notes are: ``[path, kind, *arguments]`` each."""

Keys = tuple[Any, ...]  # keys and indices that lead to a value in the tree

# Saved unchanged.
_UNCHANGED = (type(None), bool, complex, torch.dtype, torch.device)
# Subclasses of these are saved as the base class.
_MADE_PLAIN: tuple[type[Any], ...] = (int, float, bytes, bytearray)
_VIEWS = (KeysView, ValuesView, ItemsView)
_MALICIOUS = (ArithmeticError, RecursionError)  # raised only by notes that an attacker wrote
_MAX_ODD = 10_000
# Characters of an array of strings, in which each takes as many as the longest.
_MAX_TEXT = 1 << 28
# By kind, values that are saved as strings: their type, how to write and how to read them.
_TEXTS: dict[str, tuple[type, Callable[[Any], str], Callable[[str], Any]]] = {
    "path": (pathlib.PurePath, str, pathlib.Path),
    "datetime": (datetime.datetime, lambda x: x.isoformat(), datetime.datetime.fromisoformat),
    "date": (datetime.date, lambda x: x.isoformat(), datetime.date.fromisoformat),
    "time": (datetime.time, lambda x: x.isoformat(), datetime.time.fromisoformat),
    "uuid": (uuid.UUID, str, uuid.UUID),
}


def plain(value: Any, where: str = "meta") -> Any:
    """A copy of a tree with all values encoded as plain types and tensors.

    Args:
        value: what is to be saved.
        where: its name, for the error message.

    Raises:
        TypeError: an object that loading could not restore without running code.
    """
    return Encoder().encode(value, where)


class Encoder:
    """Encodes a tree part by part as plain types and tensors, and notes what was encoded.

    Beside plain types and tensors there may be NumPy arrays and scalars, sets, frozensets, deques,
    ranges, paths, dates and times, and UUIDs, which `decode` restores. Numbers, strings,
    lists, tuples and dicts of subclasses, such as members of IntEnum, are saved as the base class.

    Attributes:
        notes: the notes so far.
    """

    def __init__(self) -> None:
        self.notes: list[list[Any]] = []

    def encode(self, value: Any, where: str, path: Keys = ()) -> Any:
        """A plain copy of a part of the tree.

        Args:
            value: the part.
            where: its name, for the error message.
            path: the keys that lead to it from the root of the checkpoint.

        Raises:
            TypeError: an object that loading could not restore without running code.
        """
        try:
            return self._encode(value, where, path)
        except RecursionError:
            raise TypeError(
                f"{where} is nested too deeply for a checkpoint; does something in it hold itself?"
            ) from None

    def add_notes(self, checkpoint: dict[str, Any]) -> None:
        """Add the notes to the checkpoint that has all encoded parts."""
        if self.notes:
            checkpoint[NOTES] = self.notes

    def _encode(self, value: Any, where: str, path: Keys) -> Any:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, np.generic):  # first, because np.float64 is a float too
            return self._encode_scalar(value, where, path)
        if isinstance(value, np.ndarray):
            return self._encode_array(value, where, path)
        if isinstance(value, _UNCHANGED):
            return value
        for number_or_bytes in _MADE_PLAIN:
            if isinstance(value, number_or_bytes):
                return number_or_bytes(value)
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, Mapping):
            return self._encode_mapping(value, where, path)
        if isinstance(value, (list, tuple, deque, *_VIEWS)):
            items = self._encode_items(value, where, path)
            if isinstance(value, deque):
                self._note(path, "deque", value.maxlen)
            return tuple(items) if isinstance(value, tuple) else items
        if isinstance(value, (set, frozenset)):
            return self._encode_set(value, where, path)
        if isinstance(value, range):
            self._note(path, "range")
            return [value.start, value.stop, value.step]
        if isinstance(value, datetime.timedelta):
            self._note(path, "timedelta")
            return [value.days, value.seconds, value.microseconds]
        for kind, (text_type, write, _) in _TEXTS.items():
            if isinstance(value, text_type):
                self._note(path, kind)
                return write(value)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        raise _refusal(value, where)

    def _note(self, path: Keys, kind: str, *arguments: Any) -> None:
        self.notes.append([list(path), kind, *arguments])

    def _encode_items(self, items: Any, where: str, path: Keys) -> list[Any]:
        return [
            self._encode(each, f"{where}[{index}]", (*path, index))
            for index, each in enumerate(items)
        ]

    def _encode_mapping(self, mapping: Mapping[Any, Any], where: str, path: Keys) -> Any:
        names, are_plain = _plain_keys(mapping, where)
        if are_plain and not _has_many_odd(names):
            result: Any = OrderedDict() if isinstance(mapping, OrderedDict) else {}
            for name, value in zip(names, mapping.values(), strict=True):
                result[name] = self._encode(value, f"{where}[{name!r}]", (*path, name))
            return result
        pairs = []
        for index, (key, value) in enumerate(mapping.items()):
            plain_key = self._encode(key, f"a key of {where}", (*path, index, 0))
            pairs.append([plain_key, self._encode(value, f"{where}[{key!r}]", (*path, index, 1))])
        self._note(path, "dict")
        return pairs

    def _encode_set(self, value: Any, where: str, path: Keys) -> Any:
        before = len(self.notes)
        items = self._encode_items(value, f"list({where})", path)
        # It stays a set unless an item was encoded, or a reader would suspect colliding hashes.
        stays_set = before == len(self.notes) and not _has_many_odd(items)
        if isinstance(value, frozenset) or not stays_set:
            self._note(path, "frozenset" if isinstance(value, frozenset) else "set")
        return set(items) if stays_set else items

    def _encode_scalar(self, value: np.generic, where: str, path: Keys) -> Any:
        number = value.item()
        if value.dtype.kind in "biufcUS" and not isinstance(number, np.generic):
            self._note(path, "scalar", value.dtype.str)
            return number
        return self._encode_memory(np.asarray(value), where, path, is_scalar=True)

    def _encode_array(self, value: Any, where: str, path: Keys) -> Any:
        dtype, shape = value.dtype, list(value.shape)
        if type(value) not in (np.ndarray, np.memmap):
            raise _refusal(value, where)
        if dtype.kind == "O":
            self._note(path, "objects", shape)
            return self._encode_items(value.ravel().tolist(), where, path)
        if dtype.kind in "US" and value.nbytes <= _MAX_TEXT:
            self._note(path, "texts", shape)
            return value.ravel().tolist()
        if dtype.kind in "biufc" and dtype.isnative and dtype.char not in "gG":  # torch has these
            self._note(path, "array")
            return torch.from_numpy(np.array(value, order="C"))
        return self._encode_memory(value, where, path, is_scalar=False)

    def _encode_memory(self, value: Any, where: str, path: Keys, is_scalar: bool) -> Any:
        dtype = value.dtype
        if (
            dtype.hasobject or dtype.isbuiltin == 2
        ):  # has object fields; or the dtype is another package's
            raise _refusal(value, where)
        descr = np.lib.format.dtype_to_descr(dtype)
        self._note(path, "memory", descr, list(value.shape), is_scalar)
        return torch.from_numpy(np.frombuffer(value.tobytes(), np.uint8).copy())


def _plain_keys(mapping: Mapping[Any, Any], where: str) -> tuple[list[Any], bool]:
    """The encoded keys, and whether they are equal to the original ones."""
    if all(type(key) in (str, int) for key in mapping):
        return list(mapping), True
    encoder = Encoder()
    names = [encoder._encode(key, f"a key of {where}", ()) for key in mapping]
    return names, all(kind == "scalar" for _, kind, *_ in encoder.notes)


def _has_many_odd(keys: Sequence[Any]) -> bool:
    """Whether many keys are of types whose hashes can be made to collide; readers refuse those."""
    if len(keys) <= _MAX_ODD:
        return False
    odd = (isinstance(k, (tuple, complex)) or (type(k) is int and abs(k) >> 60) for k in keys)
    return sum(map(bool, odd)) > _MAX_ODD


def _refusal(value: Any, where: str) -> TypeError:
    return TypeError(
        f"{where} is a {type(value).__name__}, which a checkpoint cannot hold: it would need code "
        "to be restored. Leave it out, or give plain types (numbers, strings, lists, tuples, "
        "dicts, sets, NumPy arrays) or tensors in its place, such as its name."
    )


def decode(tree: dict[str, Any]) -> dict[str, Any]:
    """Restore the encoded values of a checkpoint in place, and remove its notes.

    Raises:
        ValueError: the notes do not fit the tree.
    """
    notes = tree.pop(NOTES, None)
    if notes is None:
        return tree
    try:
        # Inner values first: a set of paths needs its items to be paths already.
        for path, kind, *arguments in sorted(notes, key=lambda note: -len(note[0])):
            _replace(tree, path, partial(_decode_value, _DECODERS[kind], arguments))
    except (TypeError, ValueError, LookupError, AttributeError, *_MALICIOUS) as error:
        raise ValueError(
            f"what it notes of values in it does not fit them ({type(error).__name__}: {error})"
        ) from error
    return tree


def _replace(tree: Any, path: Sequence[Any], change: Callable[[Any], Any]) -> Any:
    """Change the value at a path in place; tuples on the way are replaced by new ones."""
    key, *further = path
    new = _replace(tree[key], further, change) if further else change(tree[key])
    if isinstance(tree, tuple):
        return (*tree[:key], new, *tree[key + 1 :])
    tree[key] = new
    return tree


def _decode_value(decoder: Callable[..., Any], arguments: Sequence[Any], value: Any) -> Any:
    return decoder(value, *arguments)


def _array_of_memory(memory: Tensor, descr: Any, shape: list[int], is_scalar: bool) -> Any:
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject:
        raise ValueError("an array of objects has no memory of its own")
    array = np.frombuffer(memory.cpu().numpy().tobytes(), dtype).reshape(shape).copy()
    return array[()] if is_scalar else array


def _array_of_objects(items: list[Any], shape: list[int]) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)


def _array_of_texts(items: list[Any], shape: list[int]) -> Any:
    if max(map(len, items), default=0) * len(items) > _MAX_TEXT:
        raise ValueError("an array of strings would be larger than any that was saved")
    return (np.array(items) if items else np.empty(0, "U1")).reshape(shape)


def _dict_of_pairs(pairs: list[Any]) -> Any:
    check_hashes([key for key, _ in pairs])
    return dict(pairs)


_DECODERS: dict[str, Callable[..., Any]] = {
    **{kind: read for kind, (_, _, read) in _TEXTS.items()},
    "array": lambda tensor: tensor.cpu().numpy(),
    "memory": _array_of_memory,
    "objects": _array_of_objects,
    "texts": _array_of_texts,
    "scalar": lambda number, dtype: np.dtype(dtype).type(number),
    "set": lambda items: set(check_hashes(items)),
    "frozenset": lambda items: frozenset(check_hashes(items)),
    "deque": deque,
    "dict": _dict_of_pairs,
    "range": lambda bounds: range(*bounds),
    "timedelta": lambda parts: datetime.timedelta(*parts),
}
