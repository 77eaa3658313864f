"""How the kernels of a step are launched: natively where that is possible, else by Triton.

Natively, the kernels that Triton compiled are loaded once, their arguments lie ready, and a launch
is a call of the CUDA driver library, which is opened at run time. Environment variables:

- ``HOOKRUN_LAUNCHER=triton`` leaves all launches to Triton. Profilers that want to be called at
  each launch (such as Proton) are set up before the first step, or need this.
- ``HOOKRUN_CUDA_DRIVER`` names another library than ``libcuda.so.1``, such as the stand-in of the
  tests. Then kernels that got tensors on the CPU are launched there too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hookrun._native import cuda

from .backend import device_guard, triton_kernels

_DRIVER = "libcuda.so.1"
_UPLOADS_AT_ONCE = 8  # further ones take memory from torch's cache
_kernels: dict[tuple[str, torch.device], cuda.Kernel] = {}  # by their code and where they are


class PreparedLaunches(Protocol):
    """Launches that follow each other, again and again with most of the same arguments."""

    #: How they are launched, and why not natively, for `explain`.
    how: str

    def run(self, *tensors: Tensor) -> None:
        """Launch them all on the current stream of their device.

        Args:
            tensors: what now stands for the varying tensors, in their order.
        """
        ...


class TritonLaunches:
    """Launched by Triton, or run by its interpreter.

    Args:
        calls, varying, device: as for `prepare`.
        reason: why they are not launched natively.
    """

    def __init__(
        self, calls: Sequence[Any], varying: Sequence[Tensor], device: torch.device, reason: str
    ) -> None:
        self.how = f"launched by Triton, because {reason}"
        self._calls = calls
        self._varying = varying
        self._device = device

    def run(self, *tensors: Tensor) -> None:
        with device_guard(self._device):
            for call in self._calls:
                call.replaced(self._varying, tensors).launch()


class NativeLaunches:
    """Launched by the CUDA driver.

    Args:
        driver: the library.
        compiled: what `Call.compiled` gave for each of the calls.
        calls: the calls.
        varying: the tensors that others will stand for.
        device: where the kernels run; the current one, but only while this is made.
    """

    how = "launched natively"

    def __init__(
        self,
        driver: cuda.Driver,
        compiled: Sequence[Any],
        calls: Sequence[Any],
        varying: Sequence[Tensor],
        device: torch.device,
    ) -> None:
        self._device = device
        self._kept = calls  # whose tensors' addresses the launches hold
        self._launches = cuda.LaunchSequence(driver)
        for kernel, call in zip(compiled, calls, strict=True):
            places = {id(call.arguments[p.argument]): i for i, p in _of_arguments(kernel)}
            self._launches.add(
                _loaded(driver, kernel, device),
                call.grid,
                [(p.value, p.size, p.aligned) for p in kernel.parameters],
                [places.get(id(tensor), -1) for tensor in varying],
            )

    def run(self, *tensors: Tensor) -> None:
        self._launches.run(current_stream(self._device), [t.data_ptr() for t in tensors])


def prepare(
    calls: Sequence[Any], varying: Sequence[Tensor], device: torch.device
) -> PreparedLaunches:
    """Prepare launches; the tensors among their arguments are kept.

    Args:
        calls: of `hookrun.kernels.triton`, in order.
        varying: tensors among their arguments that others will stand for at each run.
        device: of all tensors.
    """
    reason = native_unsupported_reason(device)
    if reason is None:
        with device_guard(device):
            compiled = [call.compiled() for call in calls]
            reason = next((each for each in compiled if isinstance(each, str)), None)
            if reason is None:
                return NativeLaunches(_driver(), compiled, calls, varying, device)
    return TritonLaunches(calls, varying, device, reason)


class Uploads:
    """Copies of parts of a block to its counterpart on a device; the host waits for none.

    Args:
        target: on the device, int64.
    """

    def __init__(self, target: Tensor) -> None:
        self._target = target
        self._device = target.device
        self._pinned: Tensor | None = None
        self._ring: cuda.UploadRing | None = None
        if native_unsupported_reason(self._device) is None:
            self._pinned = self.host_block(_UPLOADS_AT_ONCE * len(target))
            with device_guard(self._device):
                self._ring = cuda.UploadRing(
                    _driver(), self._pinned.data_ptr(), target.nbytes, _UPLOADS_AT_ONCE
                )

    def send(self, block: npt.NDArray[np.int64], begin: int, end: int) -> None:
        """Copy this part; the block may be changed afterwards.

        Not while a CUDA graph is captured.
        """
        offset = 8 * begin
        if self._ring is not None and self._ring.send(
            self._target.data_ptr() + offset,
            block.ctypes.data + offset,
            8 * (end - begin),
            current_stream(self._device),
        ):
            return
        host = self.host_block(end - begin)
        host.copy_(torch.from_numpy(block[begin:end]))
        self._target[begin:end].copy_(host, non_blocking=True)

    def host_block(self, count: int) -> Tensor:
        """Memory that a copy to the device can read after the host has gone on.

        Torch's cache of pinned memory does not hand it out again before such a copy is done.
        """
        pinned = self._device.type == "cuda"
        return torch.empty(count, dtype=torch.int64, device="cpu", pin_memory=pinned)


def native_unsupported_reason(device: torch.device) -> str | None:
    """Why kernels are not launched natively on a device; None if they are."""
    choice = os.environ.get("HOOKRUN_LAUNCHER") or "native"
    if choice not in ("native", "triton"):
        raise ValueError(f"HOOKRUN_LAUNCHER={choice}: choose native or triton")
    if choice == "triton":
        return "HOOKRUN_LAUNCHER=triton"
    if device.type != "cuda" and "HOOKRUN_CUDA_DRIVER" not in os.environ:
        return f"the device is {device.type}"
    if torch.version.hip is not None:
        return "this torch is for AMD's GPUs"
    kernels = triton_kernels()
    if kernels.interpreter.is_on():
        return "Triton interprets its kernels"
    if kernels.launch.has_hooks():
        return "Triton has been asked to call hooks at each launch"
    driver = open_driver(_library())
    return driver if isinstance(driver, str) else None


@cache
def open_driver(library: str) -> cuda.Driver | str:
    """The CUDA driver library; or why it cannot be opened."""
    try:
        return cuda.Driver(library)
    except RuntimeError as error:
        return str(error)


def current_stream(device: torch.device) -> int:
    """The driver's handle of the device's current stream."""
    if device.type != "cuda":
        return 0
    return int(torch._C._cuda_getCurrentRawStream(device.index))


def _driver() -> cuda.Driver:
    """The library, where `native_unsupported_reason` knows of none."""
    driver = open_driver(_library())
    assert isinstance(driver, cuda.Driver)
    return driver


def _library() -> str:
    return os.environ.get("HOOKRUN_CUDA_DRIVER") or _DRIVER


def _of_arguments(kernel: Any) -> list[tuple[int, Any]]:
    """The parameters that a call has arguments for, with their numbers."""
    return [(i, p) for i, p in enumerate(kernel.parameters) if p.argument is not None]


def _loaded(driver: cuda.Driver, kernel: Any, device: torch.device) -> cuda.Kernel:
    """The kernel on its device, where it stays as long as the process."""
    key = (kernel.hash, device)
    if key not in _kernels:
        _kernels[key] = cuda.Kernel(
            driver, kernel.cubin, kernel.name, kernel.threads, kernel.shared_bytes
        )
    return _kernels[key]
