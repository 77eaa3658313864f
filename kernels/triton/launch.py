"""A kernel and its arguments, apart from launching them.

Triton's own launcher finds out at each launch which compiled kernel fits the arguments; that costs
more than the launch. A `Call` that is launched again and again is therefore compiled once, for
whoever can launch a compiled kernel: `compiled` gives all that is needed for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from torch import Tensor

_ALIGNED = ["tt.divisibility", 16]
_SIZES = {"i32": 4, "i64": 8}
_WARP = 32  # threads


class Parameter(NamedTuple):
    """One parameter of a compiled kernel, and the argument for it."""

    #: Which of the call's arguments it is; None for what Triton appends.
    argument: int | None
    #: An address, or an integer.
    value: int
    #: In bytes.
    size: int
    #: Whether the kernel was compiled for multiples of 16 only.
    aligned: bool


class Compiled(NamedTuple):
    """A call as the driver sees it."""

    name: str
    #: Different for kernels with different code.
    hash: str
    cubin: bytes
    #: Of a block.
    threads: int
    #: Of a block, dynamic.
    shared_bytes: int
    parameters: tuple[Parameter, ...]


class Call(NamedTuple):
    """A jitted kernel, the number of its programs, and all of its arguments in order."""

    kernel: Any
    grid: int
    arguments: tuple[Any, ...]
    warps: int = 4

    def launch(self) -> None:
        """Launch it by Triton, or run it in Triton's interpreter."""
        self.kernel[(self.grid,)](*self.arguments, num_warps=self.warps)

    def replaced(self, old: Sequence[Tensor], new: Sequence[Tensor]) -> Call:
        """The same with other tensors in the place of some."""
        now = {id(before): after for before, after in zip(old, new, strict=True)}
        return self._replace(arguments=tuple(now.get(id(each), each) for each in self.arguments))

    def compiled(self) -> Compiled | str:
        """What a launch of these arguments consists of; or why only Triton can launch it.

        Triton compiles a kernel for what it finds out about its arguments: which addresses are
        multiples of 16, which integers are 1. It chooses here as it would for a launch, and tells
        of the kernel that it has chosen what that relies on.
        """
        kernel = self.kernel.warmup(*self.arguments, grid=(self.grid,), num_warps=self.warps)
        metadata = kernel.metadata
        if metadata.num_ctas != 1 or metadata.launch_cooperative_grid or metadata.launch_pdl:
            return f"{metadata.name} needs more than a plain launch"
        if metadata.global_scratch_size or metadata.profile_scratch_size:
            return f"{metadata.name} needs memory beside its arguments"
        parameters = []
        for number, kind in enumerate(kernel.src.signature.values()):
            value = self.arguments[number]
            aligned = _ALIGNED in kernel.src.attrs.get((number,), [])
            if kind == "constexpr":  # is in the code
                constant = kernel.src.constants[(number,)]
                assert getattr(constant, "value", constant) == getattr(value, "value", value)
            elif kind.startswith("*"):
                parameters.append(Parameter(number, value.data_ptr(), 8, aligned))
            elif kind in _SIZES:
                parameters.append(Parameter(number, value, _SIZES[kind], aligned))
            else:
                return f"{metadata.name} has an argument of the type {kind}"
        # Memory that Triton would allocate, for kernels that need any: none of these does.
        parameters += [Parameter(None, 0, 8, False)] * 2
        return Compiled(
            metadata.name,
            kernel.hash,
            kernel.asm["cubin"],
            _WARP * metadata.num_warps,
            metadata.shared,
            tuple(parameters),
        )


def launch(calls: Sequence[Call]) -> None:
    """Launch them by Triton, one after the other."""
    for call in calls:
        call.launch()


def has_hooks() -> bool:
    """Whether someone, such as a profiler, asked Triton to be called at each launch."""
    hooks = (triton.knobs.runtime.launch_enter_hook, triton.knobs.runtime.launch_exit_hook)
    return any(hook is not None and getattr(hook, "calls", True) for hook in hooks)
