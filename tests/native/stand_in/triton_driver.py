"""Lets Triton compile for a GPU that is not there, and launch into the stand-in for the driver."""

from __future__ import annotations

import os
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.driver import CudaDriver
from triton.runtime import driver

from .library import StandIn


class StandInDriver(CudaDriver):  # type: ignore[misc]
    """Triton's own driver, whose launcher is compiled against the stand-in, on two H100s."""

    def __init__(self, stand_in: StandIn) -> None:
        os.environ["TRITON_LIBCUDA_PATH"] = str(stand_in.path.parent)
        super().__init__()
        self.get_current_device = lambda: stand_in.device
        self.get_current_stream = lambda _: 0

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", 90, 32)


def use_stand_in() -> StandIn:
    """Load the stand-in and let Triton, and hookrun's launcher, launch into it.

    Before any kernel is imported: those that were imported for Triton's interpreter stay so.
    """
    stand_in = StandIn()
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["HOOKRUN_CUDA_DRIVER"] = str(stand_in.path)
    os.environ["HOOKRUN_BACKEND"] = "triton"
    driver.set_active(StandInDriver(stand_in))
    return stand_in
