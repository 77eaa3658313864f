"""Files that try to run code, to reach out of a folder, or to trick a reader.

Each maker is given where to write and a file that code in it would touch.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Maker = Callable[[Path, Path], None]
MAKERS: dict[str, Maker] = {}


class Call:
    """Calls something when unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


def named(name: str) -> Callable[[Maker], Maker]:
    def add(maker: Maker) -> Maker:
        assert name not in MAKERS
        MAKERS[name] = maker
        return maker

    return add


# Objects whose __reduce__ calls something.

CALLS: dict[str, Callable[[str], Call]] = {
    "os.system": lambda t: Call(os.system, f"touch {t}"),
    "os.popen": lambda t: Call(os.popen, f"touch {t}"),
    "os.mkdir": lambda t: Call(os.mkdir, t),
    "subprocess.run": lambda t: Call(subprocess.run, ["touch", t]),
    "subprocess.Popen": lambda t: Call(subprocess.Popen, ["touch", t]),
    "open": lambda t: Call(open, t, "w"),
    "io.open": lambda t: Call(io.FileIO, t, "w"),
    "pathlib": lambda t: Call(Path.touch, Path(t)),
    "eval": lambda t: Call(eval, f"open({t!r}, 'w')"),
    "exec": lambda t: Call(exec, f"open({t!r}, 'w')"),
    "import": lambda t: Call(builtins.__import__, "this"),
    "getattr": lambda t: Call(getattr, Path, "touch"),
    "map": lambda t: Call(map, os.system, [f"touch {t}"]),
    "compile": lambda t: Call(compile, f"open({t!r}, 'w')", "x", "exec"),
    "torch.load": lambda t: Call(torch.load, t),
    "torch.save": lambda t: Call(torch.save, {}, t),
    "torch.hub": lambda t: Call(torch.hub.load_state_dict_from_url, f"file://{t}"),
    "numpy.load": lambda t: Call(__import__("numpy").load, t, None, True),
    "numpy.save": lambda t: Call(__import__("numpy").save, t, 1),
    "pickle.loads": lambda t: Call(pickle.loads, pickle.dumps(Call(os.mkdir, t))),
    "runpy": lambda t: Call(__import__("runpy").run_path, t),
    "shutil": lambda t: Call(__import__("shutil").copyfile, "/etc/hostname", t),
}


def _call_maker(call: Callable[[str], Call], kind: str) -> Maker:
    def make(path: Path, touched: Path) -> None:
        evil = call(str(touched))
        if kind == "bare":
            path.write_bytes(pickle.dumps(evil))
        else:
            tree = {"meta": {"epoch": 1, "iter": 1, "x": evil}, "state_dict": {}}
            torch.save(tree, path, _use_new_zipfile_serialization=kind == "zip")

    return make


for _name, _call in CALLS.items():
    MAKERS[f"reduce {_name}"] = _call_maker(_call, "zip")
for _kind in ("old format", "bare"):
    for _name in ("os.system", "eval", "pathlib"):
        MAKERS[f"reduce {_name}, {_kind}"] = _call_maker(CALLS[_name], _kind)


# Opcodes put together by hand.


def _short(text: bytes) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text


def _opcodes(make: Callable[[bytes], bytes]) -> Maker:
    def maker(path: Path, touched: Path) -> None:
        write_archive(path, {"archive/data.pkl": make(str(touched).encode())})

    return maker


OPCODES: dict[str, Callable[[bytes], bytes]] = {
    "GLOBAL and REDUCE": lambda t: b"\x80\x02cposix\nsystem\n(X" + _long(b"touch " + t) + b"tR.",
    "STACK_GLOBAL": lambda t: (
        b"\x80\x04" + _short(b"posix") + _short(b"mkdir") + b"\x93" + b"X" + _long(t) + b"\x85R."
    ),
    "INST": lambda t: b"(X" + _long(t) + b"iposix\nmkdir\n.",
    "OBJ": lambda t: b"(cposix\nmkdir\nX" + _long(t) + b"o.",
    "NEWOBJ": lambda t: b"\x80\x02cio\nFileIO\nX" + _long(t) + b"X\x01\x00\x00\x00w\x86\x81.",
    "NEWOBJ_EX": lambda t: b"\x80\x04cio\nFileIO\nX" + _long(t) + b"X\x01\x00\x00\x00w\x86}\x92.",
    "BUILD of a class": lambda t: b"\x80\x02ccollections\nOrderedDict\n}U\x01aK\x01sb.",
    "dotted name": lambda t: (
        b"\x80\x04" + _short(b"torch") + _short(b"os.system") + b"\x93"
        b"X" + _long(b"touch " + t) + b"\x85R."
    ),
    "EXT1": lambda t: b"\x80\x02\x82\x01.",
    "EXT4": lambda t: b"\x80\x02\x84\x01\x00\x00\x00.",
    "PERSID": lambda t: b"Pstorage\n.",
    "BINPERSID of a string": lambda t: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "BINPERSID of another kind": lambda t: b"\x80\x02(X\x06\x00\x00\x00modulecposix\nsystem\ntQ.",
    "hidden behind STOP": lambda t: (
        b"\x80\x02cposix\nmkdir\nX" + _long(t) + b"\x85R0].cposix\nmkdir\nX" + _long(t) + b"\x85R."
    ),
    "memo that is not there": lambda t: b"\x80\x02h\xff.",
    "huge memo": lambda t: b"\x80\x02]r\xff\xff\xff\x7f0j\xff\xff\xff\x7fR.",
    "empty stack": lambda t: b"\x80\x02R.",
    "no STOP": lambda t: b"\x80\x02]",
    "unknown opcode": lambda t: b"\x80\x02\xfe.",
    "protocol 255": lambda t: b"\x80\xff].",
    "string longer than the file": lambda t: b"\x80\x02X\xff\xff\xff\x7fabc.",
    "negative length": lambda t: b"\x80\x02T\xff\xff\xff\xffabc.",
}


def _long(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


for _name, _make in OPCODES.items():
    MAKERS[f"opcodes {_name}"] = _opcodes(_make)


# Archives that are not what they seem.


def records() -> dict[str, bytes]:
    """The records of a checkpoint that is all right."""
    file = io.BytesIO()
    torch.save({"meta": {"epoch": 1, "iter": 1}, "state_dict": {"w": torch.ones(1000)}}, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, content: dict[str, bytes], packed: int = zipfile.ZIP_STORED) -> None:
    """An archive of these records; those of a plain checkpoint that are missing are added."""
    whole = {**{n: d for n, d in records().items() if "data/" not in n}, **content}
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, data in whole.items():
            archive.writestr(name, data)


@named("storage shorter than it says")
def _(path: Path, touched: Path) -> None:
    write_archive(path, {**records(), "archive/data/0": b"\0" * 16})


@named("storage longer than it says")
def _(path: Path, touched: Path) -> None:
    write_archive(path, {**records(), "archive/data/0": b"\0" * 40000})


@named("storage that is missing")
def _(path: Path, touched: Path) -> None:
    write_archive(path, {"archive/data.pkl": records()["archive/data.pkl"]})


@named("tensor larger than its storage")
def _(path: Path, touched: Path) -> None:
    content = records()
    pickled = content["archive/data.pkl"]
    assert b"M\xe8\x03\x85" in pickled  # the shape: (1000,)
    content["archive/data.pkl"] = pickled.replace(b"M\xe8\x03\x85", b"M\xff\xff\x85")
    write_archive(path, content)


@named("negative shape")
def _(path: Path, touched: Path) -> None:
    content = records()
    pickled = content["archive/data.pkl"]
    content["archive/data.pkl"] = pickled.replace(b"M\xe8\x03\x85", b"J\xff\xff\xff\xff\x85")
    write_archive(path, content)


@named("storage key that leaves the folder")
def _(path: Path, touched: Path) -> None:
    content = records()
    pickled = content["archive/data.pkl"]
    key = b"X\x01\x00\x00\x000"
    assert key in pickled
    outside = b"../../" + str(touched).encode()
    content["archive/data.pkl"] = pickled.replace(key, b"X" + _long(outside))
    write_archive(path, content)


for _name, _record in {
    "record above the folder": "../evil",
    "record above from within": "archive/../../evil",
    "absolute record": "/tmp/evil",
    "record of a drive": "archive\\..\\evil",
    "record in another folder": "other/data.pkl",
    "record without a folder": "data.pkl",
}.items():

    def _named_record(path: Path, touched: Path, record: str = _record) -> None:
        write_archive(path, {**records(), record: b"\x80\x02]."})

    MAKERS[_name] = _named_record


@named("two records of one name")
def _(path: Path, touched: Path) -> None:
    write_archive(path, records())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Call(os.mkdir, str(touched))))


@named("packed records, which could be a bomb")
def _(path: Path, touched: Path) -> None:
    content = records()
    content["archive/data/0"] = b"\0" * 4_000_000
    write_archive(path, content, zipfile.ZIP_DEFLATED)


@named("records that overlap")
def _(path: Path, touched: Path) -> None:
    write_archive(path, records())
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02")
    second = data.find(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]  # where its data begins
    path.write_bytes(data)


@named("encrypted record")
def _(path: Path, touched: Path) -> None:
    write_archive(path, records())
    data = bytearray(path.read_bytes())
    first = data.find(b"PK\x01\x02")
    data[first + 8] |= 1
    path.write_bytes(data)


@named("archive with bytes in front")
def _(path: Path, touched: Path) -> None:
    write_archive(path, records())
    path.write_bytes(pickle.dumps(Call(os.mkdir, str(touched))) + path.read_bytes())


@named("TorchScript")
def _(path: Path, touched: Path) -> None:
    write_archive(path, {"archive/constants.pkl": b"\x80\x02].", "archive/code/x.py": b""})


@named("metadata of a distributed checkpoint")
def _(path: Path, touched: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict_metadata": Call(os.mkdir, str(touched))}))


@named("a real distributed checkpoint's metadata")
def _(path: Path, touched: Path) -> None:
    from torch.distributed.checkpoint.metadata import Metadata

    path.write_bytes(pickle.dumps(Metadata({}, planner_data=Call(os.mkdir, str(touched)))))


@named("tar archive of the oldest torch")
def _(path: Path, touched: Path) -> None:
    import tarfile

    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(Call(os.mkdir, str(touched)))
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@named("a digest over something evil")
def _(path: Path, touched: Path) -> None:
    from hookrun.checkpoint.digest import DigestWriter

    with open(path, "wb") as file:
        writer = DigestWriter(file)
        torch.save({"meta": Call(os.mkdir, str(touched))}, writer)
        writer.finish()
