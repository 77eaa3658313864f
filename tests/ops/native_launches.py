"""Checks of native launches against a stand-in for the driver, in a process of their own.

    python -m tests.ops.native_launches

prints what failed, by name, as JSON. A process in which Triton's interpreter is on compiles no
kernel, so pytest's cannot run these. Tensors are on the CPU: the stand-in runs no kernel.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from hookrun._native import cuda
from hookrun.ops import FusedStep, LossScale, explain
from tests.native.stand_in.library import Launch, StandIn
from tests.native.stand_in.triton_driver import use_stand_in

CPU = torch.device("cpu")
SHAPES = [(17,), (3, 4), (), (1100,), (70000,)]
CHECKS: dict[str, Callable[[StandIn], None]] = {}


def check(function: Callable[[StandIn], None]) -> Callable[[StandIn], None]:
    CHECKS[function.__name__] = function
    return function


@contextmanager
def raises(*parts: str) -> Iterator[None]:
    """The block raises a RuntimeError whose text has all of these parts."""
    with pytest.raises(RuntimeError) as raised:
        yield
    for part in parts:
        assert part in str(raised.value)


def make_step(
    *, half: bool = False, adam: bool = True, mixed: bool = False, **options: Any
) -> tuple[FusedStep, list[Tensor]]:
    """A FusedStep with averages, and the parameters whose gradients it reads."""
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    kind: Any = torch.optim.AdamW if adam else torch.optim.SGD
    optimizer = kind(params, lr=0.1, **({} if adam else {"momentum": 0.9}))
    model: list[Any] = [torch.nn.Parameter(p.detach().half()) for p in params]
    if mixed:
        model[0] = params[0]  # kept in fp32, as norm layers are
    read = model if half else params
    for param in read:
        param.grad = torch.randn_like(param)
    step = FusedStep(
        optimizer,
        ema=[p.detach().clone() for p in params],
        ema_momentum=0.1,
        model_params=model if half else None,
        loss_scaler=LossScale(8.0) if half else None,
        **options,
    )
    return step, read


def prepared(step: FusedStep) -> Any:
    """The launches of the latest step."""
    (tables,) = step._engines[0]._tables.values()
    (found,) = tables._prepared.values()
    return found.launches


RECIPES: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, clipped": {"grad_clip": {"max_norm": 1.0}},
    "adam, masters of fp16": {"half": True, "grad_clip": {"max_norm": 1.0}},
    "adam, masters of fp16 and fp32": {"half": True, "mixed": True},
    "sgd, clipped": {"adam": False, "grad_clip": {"max_norm": 1.0}},
    "sgd, skipping": {"adam": False, "skip_nonfinite": True},
}


@check
def the_launches_are_those_of_tritons_own_launcher(driver: StandIn) -> None:
    for name, options in RECIPES.items():
        for without_grad in (False, True):
            driver.reset()
            step, read = make_step(**options)
            if without_grad:
                read[1].grad = None
            step.step()
            ours = driver.launches()
            assert 2 <= len(ours) <= (5 if without_grad else 4), (name, ours)
            assert driver.count("cuLaunchKernelEx") == 0
            assert "launched natively" in explain()
            launches = prepared(step)
            tables = next(iter(step._engines[0]._tables.values()))
            norm = torch.empty(())
            driver.reset()
            launches.run(norm, tables.grads)
            native = driver.launches()
            driver.reset()
            for call in launches._kept:
                call.launch()
            assert driver.count("cuLaunchKernel") == 0
            assert driver.count("cuLaunchKernelEx") == len(native)
            theirs = driver.launches()
            assert without_norm(native) == without_norm(theirs), name
            decision = next(i for i, each in enumerate(native) if each.kernel == "_finalise")
            assert native[decision].parameters[2] == (8, norm.data_ptr()), name


def without_norm(launches: list[Launch]) -> list[Launch]:
    """The launches but for the address of the norm, which is another one each time."""
    return [
        each._replace(parameters=(*each.parameters[:2], *each.parameters[3:]))
        if each.kernel == "_finalise"
        else each
        for each in launches
    ]


@check
def each_step_launches_with_its_own_norm_and_every_pointer_is_a_tensors(driver: StandIn) -> None:
    step, read = make_step(half=True, grad_clip={"max_norm": 1.0})
    step.step()
    for _ in range(3):
        for param in read:
            param.grad = torch.randn_like(param)
        launches = prepared(step)
        driver.reset()
        for tensor in [a for call in launches._kept for a in call.arguments]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                driver.allocate(storage.data_ptr(), storage.nbytes())
        with allocating(driver):
            step.step()
        assert isinstance(step.grad_norm, Tensor)
        (decision,) = (each for each in driver.launches() if each.kernel == "_finalise")
        assert decision.parameters[2] == (8, step.grad_norm.data_ptr())
    driver.reset()
    driver.allocate(64, 16)
    with raises("cuLaunchKernel of the kernel _norm", "CUDA_ERROR_ILLEGAL_ADDRESS"):
        step.step()


@contextmanager
def allocating(driver: StandIn) -> Iterator[None]:
    """The norms that steps make meanwhile are the device's memory too."""
    make = torch.empty_like

    def empty_like(*arguments: Any, **options: Any) -> Tensor:
        made = make(*arguments, **options)
        driver.allocate(made.data_ptr(), made.nbytes)
        return made

    with mock.patch.object(torch, "empty_like", empty_like):
        yield


def norm_call(offset: int = 0, first: int = 0) -> tuple[Any, Tensor]:
    """A call of the first pass, and its table of addresses, which begins so many rows late."""
    from hookrun.kernels.triton import norm
    from hookrun.kernels.triton.table import table_of

    table = table_of([[torch.randn(100), torch.randn(50000)]], kinds_per_launch=2)
    addresses = torch.zeros(8, dtype=torch.int64)[offset:]
    launches = [part._replace(first=first) for part in table.launches]
    partials = norm.Partials(len(table.chunks), False, CPU)
    (call,) = norm.calls(launches, table.chunks, addresses, partials)
    return call, addresses


@check
def a_kernel_for_aligned_addresses_gets_no_others(driver: StandIn) -> None:
    from hookrun.ops.device_launch import prepare

    call, addresses = norm_call()
    launches = prepare([call], [addresses], CPU)
    driver.reset()
    with raises("parameter 2 of the kernel _norm", "multiples of 16"):
        launches.run(addresses[1:])
    assert driver.launches() == []
    launches.run(addresses[2:])
    (launch,) = driver.launches()
    assert launch.parameters[2] == (8, addresses[2:].data_ptr())
    # One that was compiled for any address is another kernel, and takes both.
    call, addresses = norm_call(offset=1)
    launches = prepare([call], [addresses], CPU)
    launches.run(addresses)
    launches.run(addresses[1:])
    compiled = call.compiled()
    assert [p.aligned for p in compiled.parameters] == [
        True,
        False,
        False,
        True,
        *[False] * 2,
    ]


@check
def integers_that_change_are_no_part_of_the_code(driver: StandIn) -> None:
    """0, 1, and multiples of 16 would be, where Triton specialises."""
    compiled = [norm_call(first=first)[0].compiled() for first in (0, 1, 16, 7)]
    assert len({each.hash for each in compiled}) == 1
    assert [each.parameters[1].value for each in compiled] == [0, 1, 16, 7]
    assert all(each.parameters[1].size == 4 for each in compiled)


def native_sequence(driver: StandIn) -> Any:
    """A launch of the first pass on the device that is current."""
    library = cuda.Driver(str(driver.path))
    compiled = norm_call()[0].compiled()
    kernel = cuda.Kernel(
        library, compiled.cubin, compiled.name, compiled.threads, compiled.shared_bytes
    )
    sequence = cuda.LaunchSequence(library)
    sequence.add(kernel, 3, [(p.value, p.size, p.aligned) for p in compiled.parameters], [])
    return sequence


@check
def launches_go_to_the_device_of_their_kernels(driver: StandIn) -> None:
    driver.device = 1
    sequence = native_sequence(driver)
    driver.device = 0
    other, own = driver.stream(0), driver.stream(1)
    sequence.run(own, [])
    sequence.run(0, [])
    assert [(each.device, each.stream) for each in driver.launches()] == [(1, own), (1, 0)]
    assert driver.device == 0
    with raises("cuLaunchKernel of the kernel _norm", "CUDA_ERROR_INVALID_CONTEXT (201)"):
        sequence.run(other, [])
    assert driver.device == 0
    driver.device = 1
    driver.stream(1)
    pushed = driver.count("cuCtxPushCurrent")
    sequence.run(own, [])
    assert driver.count("cuCtxPushCurrent") == pushed  # it was current already


@check
def kernels_of_two_devices_are_no_sequence(driver: StandIn) -> None:
    sequence = native_sequence(driver)
    driver.device = 1
    library = cuda.Driver(str(driver.path))
    compiled = norm_call()[0].compiled()
    kernel = cuda.Kernel(library, compiled.cubin, "_norm", 128, compiled.shared_bytes)
    with raises("_norm is loaded on another device"):
        sequence.add(kernel, 1, [(0, p.size, False) for p in compiled.parameters], [])


@check
def errors_name_the_drivers_text_the_kernel_and_what_to_do(driver: StandIn) -> None:
    sequence = native_sequence(driver)
    driver.fail("cuLaunchKernel", 700)
    with raises(
        "cuLaunchKernel of the kernel _norm",
        "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered",
        "CUDA_LAUNCH_BLOCKING=1",
        "HOOKRUN_LAUNCHER=triton",
    ):
        sequence.run(0, [])
    driver.fail("cuLaunchKernel", 12345)
    with raises("error 12345"):
        sequence.run(0, [])
    sequence.run(0, [])
    with raises("vary in 0 addresses, but 1 are given"):
        sequence.run(0, [16])
    with raises("cuLaunchKernel", "CUDA_ERROR_INVALID_HANDLE"):
        sequence.run(0xDEAD0, [])
    library = cuda.Driver(str(driver.path))
    with raises("cuModuleLoadData of the kernel k", "CUDA_ERROR_NO_BINARY_FOR_GPU"):
        cuda.Kernel(library, b"no cubin at all", "k", 128, 0)
    cubin = norm_call()[0].compiled().cubin
    with raises("cuModuleGetFunction of the kernel other", "CUDA_ERROR_NOT_FOUND"):
        cuda.Kernel(library, cubin, "other", 128, 0)
    driver.device = -1
    with raises("the kernel _norm cannot be loaded", "no CUDA context is current"):
        cuda.Kernel(library, cubin, "_norm", 128, 0)


@check
def a_library_that_is_no_driver_is_not_used(driver: StandIn) -> None:
    from hookrun.ops.device_launch import native_unsupported_reason, open_driver, prepare

    with raises("libm.so.6 has no cuGetErrorName: it is no CUDA driver"):
        cuda.Driver("libm.so.6")
    for library, reason in (("libm.so.6", "no CUDA driver"), ("/no/lib.so", "cannot be opened")):
        os.environ["HOOKRUN_CUDA_DRIVER"] = library
        assert reason in str(native_unsupported_reason(CPU))
        assert isinstance(open_driver(library), str)
        call, addresses = norm_call()
        prepare([call], [addresses], CPU).run(addresses)
    os.environ["HOOKRUN_CUDA_DRIVER"] = str(driver.path)
    assert driver.count("cuLaunchKernelEx") == 2  # Triton's
    assert native_unsupported_reason(CPU) is None


@check
def what_needs_triton_is_left_to_it(driver: StandIn) -> None:
    import triton

    from hookrun.ops.device_launch import native_unsupported_reason

    os.environ["HOOKRUN_LAUNCHER"] = "triton"
    assert native_unsupported_reason(CPU) == "HOOKRUN_LAUNCHER=triton"
    step, _ = make_step()
    step.step()
    assert (driver.count("cuLaunchKernel"), driver.count("cuLaunchKernelEx")) == (0, 2)
    os.environ["HOOKRUN_LAUNCHER"] = "other"
    with pytest.raises(ValueError, match="choose native or triton"):
        native_unsupported_reason(CPU)
    del os.environ["HOOKRUN_LAUNCHER"]
    hooks = triton.knobs.runtime.launch_enter_hook
    seen: list[Any] = []
    record = seen.append
    hooks.add(record)
    try:
        assert "hooks" in str(native_unsupported_reason(CPU))
        step, _ = make_step()
        step.step()
        assert len(seen) == 2
    finally:
        hooks.remove(record)


@check
def arguments_must_have_the_sizes_that_the_cubin_has(driver: StandIn) -> None:
    library = cuda.Driver(str(driver.path))
    compiled = norm_call()[0].compiled()
    kernel = cuda.Kernel(library, compiled.cubin, "_norm", 128, compiled.shared_bytes)
    sizes = [p.size for p in compiled.parameters]
    for wrong in (sizes[:-1], [*sizes, 8], [8, 8, *sizes[2:]]):
        with raises("of the kernel _norm has", "bytes, not", "HOOKRUN_LAUNCHER=triton"):
            cuda.LaunchSequence(library).add(kernel, 1, [(0, size, False) for size in wrong], [])
    arguments = [(0, size, False) for size in sizes]
    with raises("a grid without blocks"):
        cuda.LaunchSequence(library).add(kernel, 0, arguments, [])
    with raises("there is no parameter 9 of the kernel _norm"):
        cuda.LaunchSequence(library).add(kernel, 1, arguments, [9])


@check
def uploads_take_turns_and_wait_for_nothing(driver: StandIn) -> None:
    library = cuda.Driver(str(driver.path))
    pinned, target = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    ring = cuda.UploadRing(library, pinned.data_ptr(), 32, 3)
    for number in range(7):
        values = torch.full((4,), number)
        assert ring.send(target.data_ptr(), values.data_ptr(), 32, 0)
        values.fill_(-1)
        assert target.tolist() == [number] * 4
    assert driver.count("cuEventCreate") == 3
    assert driver.count("cuMemcpyHtoDAsync") == 7
    driver.hold_events(True)
    assert not ring.send(target.data_ptr(), values.data_ptr(), 32, 0)
    assert target.tolist() == [6] * 4
    driver.hold_events(False)
    with raises("more is to be copied"):
        ring.send(target.data_ptr(), values.data_ptr(), 40, 0)
    assert ring.send(target.data_ptr(), values.data_ptr(), 8, 0)
    assert target.tolist() == [-1, 6, 6, 6]


def main() -> None:
    driver = use_stand_in()
    failures = {}
    for name, function in CHECKS.items():
        driver.reset()
        try:
            function(driver)
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps({"checks": list(CHECKS), "failures": failures}))


if __name__ == "__main__":
    main()
