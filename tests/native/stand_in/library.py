"""A stand-in for the CUDA driver library, for the host's side of a launch; see driver.cpp."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

SOURCE = Path(__file__).with_name("driver.cpp")


class Launch(NamedTuple):
    """One launch that the driver was asked for."""

    kernel: str
    device: int
    stream: int
    grid: tuple[int, ...]
    threads: tuple[int, ...]
    shared_bytes: int
    #: Size in bytes and value of each parameter.
    parameters: tuple[tuple[int, int], ...]


class _Record(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char * 64),
        ("device", ctypes.c_int32),
        ("parameters", ctypes.c_int32),
        ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("sizes", ctypes.c_uint32 * 16),
        ("values", ctypes.c_uint64 * 16),
    )


def compiler() -> str | None:
    """The C++ compiler at hand."""
    return shutil.which(os.environ.get("CXX", "c++"))


def build() -> Path:
    """Compile the stand-in, once for each version of it; its name is the driver's.

    So Triton's own launcher, which opens ``libcuda.so.1``, finds it too where it is loaded.
    """
    command = compiler()
    assert command is not None
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"hookrun-stand-in-{os.getuid()}-{version}"
    library = folder / "libcuda.so.1"
    if not library.is_file():
        folder.mkdir(exist_ok=True)
        partial = folder / f"{os.getpid()}.so"
        options = ["-std=c++17", "-O2", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
        subprocess.run([command, *options, str(SOURCE), "-o", str(partial)], check=True)
        partial.replace(library)
    return library


class StandIn:
    """The loaded library, and what it has recorded."""

    def __init__(self) -> None:
        self.path = build()
        self._library: Any = ctypes.CDLL(str(self.path), mode=ctypes.RTLD_GLOBAL)
        for name in ("stream", "count", "launch_count"):
            getattr(self._library, f"stand_in_{name}").restype = ctypes.c_uint64
        self._library.stand_in_launch.restype = ctypes.POINTER(_Record)
        self.reset()

    def reset(self) -> None:
        """Forget everything but handles; device 0 is current, and any memory may be used."""
        self._library.stand_in_reset()

    def record(self, on: bool) -> None:
        """Whether to check and record; without, calls return at once, for measuring."""
        self._library.stand_in_record(int(on))

    def hold_events(self, on: bool) -> None:
        """Whether the device never gets done with what it is asked to do."""
        self._library.stand_in_hold_events(int(on))

    def fail(self, entry: str, result: int) -> None:
        """Let the next call of an entry point return an error."""
        self._library.stand_in_fail(entry.encode(), result)

    def allocate(self, address: int, size: int) -> None:
        """Let a range be memory of the device; then nothing else is."""
        self._library.stand_in_allocate(ctypes.c_uint64(address), ctypes.c_uint64(size))

    @property
    def device(self) -> int:
        """The current device; -1 for no context."""
        return int(self._library.stand_in_device())

    @device.setter
    def device(self, number: int) -> None:
        self._library.stand_in_use_device(number)

    def stream(self, device: int) -> int:
        """A new stream of a device."""
        return int(self._library.stand_in_stream(device))

    def count(self, entry: str) -> int:
        """How often an entry point was called."""
        return int(self._library.stand_in_count(entry.encode()))

    def launches(self) -> list[Launch]:
        """All launches, in order."""
        count = self._library.stand_in_launch_count()
        return [_read(self._library.stand_in_launch(ctypes.c_uint64(i))[0]) for i in range(count)]


def _read(record: Any) -> Launch:
    parameters = zip(record.sizes, record.values, strict=True)
    return Launch(
        record.kernel.decode(),
        record.device,
        record.stream,
        tuple(record.grid),
        tuple(record.threads),
        record.shared_bytes,
        tuple(parameters)[: record.parameters],
    )
