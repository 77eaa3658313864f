"""Scanning a pickle for depth, size and colliding keys before it is loaded.

torch's unpickler builds values as it reads. A hundred thousand nested tuples crash the interpreter
when they are hashed; keys with the same hash make a dict of a few megabytes take hours; and a few
bytes can ask for any amount of memory. Here the opcodes are followed without building values: of
each, only its depth is known, and whether its hash could be made to collide.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any

from .bounds import MAX_DEPTH, MAX_VALUES

MAX_CONTAINERS = 5_000_000
MAX_ODD_KEYS = 20_000
"""Keys of a dict or set whose hashes can be made to collide: tuples, integers beyond 61 bits."""

_HASH_MODULUS = (1 << 61) - 1  # integers below are their own hashes

# What is known of a value: of a scalar, whether its hash can be made to collide ("odd") and whether
# it is an integer; of a global, its name; of a container, a list with these items:
_SAFE, _ODD, _NUMBER = 0, 1, 2
_DEPTH, _IS_TUPLE, _FIRST, _ODD_ITEMS, _ODD_FIRSTS = range(5)

_UNPACK_INT = struct.Struct("<i").unpack_from
_UNPACK_LENGTH = struct.Struct("<I").unpack_from


def check_pickle(data: bytes | mmap.mmap, start: int = 0) -> int | None:
    """Refuse a pickle whose values would exceed the bounds.

    Args:
        data: bytes that contain the pickle.
        start: the offset at which it begins.

    Returns:
        The offset of its end; None if it has opcodes that torch's unpickler does not support
        either, so that the end is unknown.

    Raises:
        ValueError: the message says which bound is exceeded.
    """
    try:
        return _Scan(data, start).run()
    except (IndexError, struct.error, KeyError):  # it is truncated, or refers to a missing value
        return None


class _Scan:
    """The stack machine of pickle, with what is known of values instead of the values."""

    def __init__(self, data: bytes | mmap.mmap, start: int) -> None:
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.containers = 0

    def run(self) -> int | None:
        data, memo, at, values = self.data, self.memo, self.at, 0
        stack = self.stack
        while True:
            code = data[at]
            at += 1
            if code == 0x71:  # BINPUT
                memo[data[at]] = stack[-1]
                at += 1
            elif code == 0x72:  # LONG_BINPUT
                memo[_UNPACK_LENGTH(data, at)[0]] = stack[-1]
                at += 4
            elif code == 0x68:  # BINGET
                stack.append(memo[data[at]])
                at += 1
            elif code == 0x6A:  # LONG_BINGET
                stack.append(memo[_UNPACK_LENGTH(data, at)[0]])
                at += 4
            elif code == 0x58:  # BINUNICODE
                at += 4 + _UNPACK_LENGTH(data, at)[0]
                stack.append(_SAFE)
            elif code in _NUMBERS:  # BININT, BININT1, BININT2
                at += _NUMBERS[code]
                stack.append(_NUMBER)
            elif code in _CONSTANTS:  # None, True, False and floats
                at += _CONSTANTS[code]
                stack.append(_SAFE)
            elif code == 0x55:  # SHORT_BINSTRING
                at += 1 + data[at]
                stack.append(_SAFE)
            elif code == 0x8A:  # LONG1
                size = data[at]
                number = int.from_bytes(data[at + 1 : at + 1 + size], "little", signed=True)
                stack.append(_NUMBER if abs(number) < _HASH_MODULUS else _ODD)
                at += 1 + size
            elif code == 0x28:  # MARK
                self._count_container()
                self.outer.append(stack)
                stack = self.stack = []
            elif code == 0x63:  # GLOBAL
                end = data.find(b"\n", at)
                last = data.find(b"\n", end + 1)
                if end < 0 or last < 0:
                    return None
                parts = (data[at:end], data[end + 1 : last])
                stack.append(".".join(part.decode("latin-1") for part in parts))
                at = last + 1
            elif code == 0x80:  # PROTO
                at += 1
            elif code == 0x2E:  # STOP
                return at
            elif not self._take(code):
                return None
            else:
                stack = self.stack
            values += 1
            if values > 2 * MAX_VALUES:
                raise ValueError(f"its pickle has more than {2 * MAX_VALUES} parts")

    def _take(self, code: int) -> bool:
        """Run an opcode that makes or fills containers; False if torch does not support it."""
        stack = self.stack
        if code in _TUPLES:
            size = _TUPLES[code]
            if size > len(stack):
                raise IndexError
            items = stack[len(stack) - size :]
            del stack[len(stack) - size :]
            stack.append(self._tuple(items))
        elif code == 0x74:  # TUPLE
            items, stack = self._pop_mark()
            stack.append(self._tuple(items))
        elif code in _EMPTY:
            self._count_container()
            stack.append([1, False, None, 0, 0])
        elif code == 0x61:  # APPEND
            item = stack.pop()
            self._add(stack[-1], [item])
        elif code == 0x65:  # APPENDS
            items, stack = self._pop_mark()
            self._add(stack[-1], items)
        elif code == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            self._set(stack[-1], [key, value])
        elif code == 0x75:  # SETITEMS
            items, stack = self._pop_mark()
            self._set(stack[-1], items)
        elif code in (0x52, 0x81):  # REDUCE, NEWOBJ
            arguments = stack.pop()
            stack[-1] = self._call(stack[-1], arguments)
        elif code == 0x62:  # BUILD
            stack.pop()
        elif code == 0x51:  # BINPERSID
            stack[-1] = _ODD
        else:
            return False
        return True

    def _pop_mark(self) -> tuple[list[Any], list[Any]]:
        items = self.stack
        self.stack = self.outer.pop()
        return items, self.stack

    def _count_container(self) -> None:
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise ValueError(f"its pickle has more than {MAX_CONTAINERS} lists, dicts and tuples")

    def _tuple(self, items: list[Any]) -> Any:
        self._count_container()
        if items and all(type(each) is int and each != _ODD for each in items):
            return _FLAT_TUPLES[items[0]]  # such as shapes
        made: list[Any] = [1, True, None, 0, 0]
        self._add(made, items)
        return made

    def _add(self, container: Any, items: list[Any]) -> None:
        """Put items into a container."""
        if type(container) is not list:
            return
        if container[_FIRST] is None and items:
            container[_FIRST] = items[0]
        for each in items:
            if type(each) is list:
                if each[_DEPTH] >= container[_DEPTH]:
                    container[_DEPTH] = each[_DEPTH] + 1
                    if container[_DEPTH] > 2 * MAX_DEPTH:
                        raise ValueError(f"its values are nested in more than {MAX_DEPTH} levels")
                container[_ODD_ITEMS] += each[_IS_TUPLE]
                container[_ODD_FIRSTS] += _is_odd(each[_FIRST])
            elif each == _ODD:
                container[_ODD_ITEMS] += 1

    def _set(self, container: Any, items: list[Any]) -> None:
        """Put keys and values into a dict."""
        if type(container) is not list:
            return
        odd = container[_ODD_ITEMS]
        keys = sum(map(_is_odd, items[::2]))
        self._add(container, items)
        container[_ODD_ITEMS] = odd + keys
        _check_keys(container[_ODD_ITEMS])

    def _call(self, function: Any, arguments: Any) -> Any:
        """What is known of a function's result."""
        if type(arguments) is not list or type(function) is not str:
            return _ODD
        first = arguments[_FIRST]
        if function.endswith(_SIZED) and first == _NUMBER:
            raise ValueError(f"it asks for memory with {function:.80}")
        if function.endswith(_COLLECTIONS):
            if type(first) is list:  # of items, or of (key, value) pairs
                of_pairs = function.endswith("Dict")
                _check_keys(first[_ODD_FIRSTS if of_pairs else _ODD_ITEMS])
            self._count_container()
            return [1, False, None, 0, 0]
        return _ODD


_FLAT_TUPLES = {first: [1, True, first, 0, 0] for first in (_SAFE, _NUMBER)}


def _is_odd(value: Any) -> bool:
    return bool(value[_IS_TUPLE] if type(value) is list else value == _ODD)


def _check_keys(odd: int) -> None:
    if odd > MAX_ODD_KEYS:
        raise ValueError(
            f"a dict or set in it has more than {MAX_ODD_KEYS} keys that are tuples, huge numbers "
            "or the like, whose hashes could all be one; trust=True reads it all the same"
        )


_NUMBERS = {0x4A: 4, 0x4B: 1, 0x4D: 2}
_CONSTANTS = {0x4E: 0, 0x88: 0, 0x89: 0, 0x47: 8}
_TUPLES = {0x29: 0, 0x85: 1, 0x86: 2, 0x87: 3}
_EMPTY = (0x5D, 0x7D, 0x8F)
_SIZED = (
    "Tensor",
    "Storage",
    ".bytearray",
)  # called with an integer, they allocate that much memory
_COLLECTIONS = (".set", ".OrderedDict", ".Counter")
