"""What ``hookrun doctor`` says of this machine, and of what hookrun makes of it."""

from __future__ import annotations

import importlib.util
import platform
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from hookrun import _native, ops
from hookrun.ops.backend import latest_backends

_WIDTH = 80
_LABEL = 14
# What brings a package, and what it is for; by the name under which it is imported.
OPTIONAL = {
    "triton": ("pip install triton", "kernels for a GPU"),
    "matplotlib": ("pip install matplotlib", "plot-lr, plot-log and bench's picture"),
    "safetensors": ("pip install 'hookrun[safetensors]'", "exports of weights"),
    "tensorboard": ("pip install 'hookrun[tensorboard]'", "TensorboardLoggerHook"),
    "wandb": ("pip install 'hookrun[wandb]'", "WandbLoggerHook"),
    "mlflow": ("pip install 'hookrun[mlflow]'", "MlflowLoggerHook"),
    "neptune": ("pip install 'hookrun[neptune]'", "NeptuneLoggerHook"),
    "dvclive": ("pip install 'hookrun[dvclive]'", "DvcliveLoggerHook"),
    "swanlab": ("pip install 'hookrun[swanlab]'", "SwanlabLoggerHook"),
    "trackio": ("pip install 'hookrun[trackio]'", "TrackioLoggerHook"),
    "s3fs": ("pip install 'hookrun[s3]'", "files on S3"),
    "gcsfs": ("pip install 'hookrun[gs]'", "files on Google Cloud Storage"),
    "aiohttp": ("pip install 'hookrun[http]'", "files over HTTP"),
}


def report() -> Iterator[str]:
    """The lines of the report, of at most 80 columns where words allow it."""
    yield from _row("hookrun", f"{version('hookrun')}, Python {platform.python_version()}")
    yield from _row("native module", str(_native.__file__))
    yield from _row("CPU", f"{_native.cpu.isa()} kernels, {torch.get_num_threads()} threads")
    yield from _row("torch", torch.__version__)
    yield from _row("Triton", _version("triton") or "not installed")
    yield from _row("GPU", gpu())
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        yield ""
        yield f"back end of each op for tensors on {device}, tried here"
        for op, ran_on in try_ops(torch.device(device)).items():
            yield from _row(f"  {op}", ran_on, 19)
    missing = {name: each for name, each in OPTIONAL.items() if not _is_installed(name)}
    yield ""
    yield "not installed, and how to get it" if missing else "nothing is missing"
    for name, (command, purpose) in missing.items():
        yield from _row(f"  {name}", f"{command}  # {purpose}", 19)


def gpu() -> str:
    """The GPUs in one line, or why there is none to use."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return f"{', '.join(names)}, CUDA {torch.version.cuda}"
    if torch.version.cuda is None:
        return "none: this torch is built without CUDA (see pytorch.org for one with it)"
    return "none: torch finds no CUDA device and driver"


def try_ops(device: torch.device) -> dict[str, str]:
    """Run each op on a small tensor; returns what it ran on, or why it could not."""
    found = {}
    for op, call in _CALLS.items():
        try:
            call(device)
        except RuntimeError as error:
            found[op] = f"cannot run: {str(error).partition(chr(10))[0]}"
        else:
            found[op] = latest_backends().get(op, "unknown")
    return found


def _fused_step(device: torch.device) -> None:
    parameter = torch.nn.Parameter(torch.ones(8, device=device))
    parameter.grad = torch.ones_like(parameter)
    step = ops.FusedStep(torch.optim.SGD([parameter], lr=0.1))
    for _ in range(3):  # the first ones make a plan
        step.step()


def _clip(device: torch.device) -> None:
    parameter = torch.nn.Parameter(torch.ones(8, device=device))
    parameter.grad = torch.ones_like(parameter)
    ops.clip_grad_norm_([parameter], 1.0)


def _tensors(device: torch.device) -> list[torch.Tensor]:
    return [torch.ones(8, device=device)]


_CALLS: dict[str, Callable[[torch.device], object]] = {
    "FusedStep": _fused_step,
    "grad_norm": lambda d: ops.grad_norm(_tensors(d)),
    "unscale_": lambda d: ops.unscale_(_tensors(d), 1.0, torch.zeros((), device=d)),
    "clip_grad_norm_": _clip,
    "ema_update_": lambda d: ops.ema_update_(_tensors(d), _tensors(d), 0.1),
    "swap_": lambda d: ops.swap_(_tensors(d), _tensors(d)),
    "convert_": lambda d: ops.convert_(_tensors(d), _tensors(d)),
    "pack_": lambda d: ops.pack_(torch.ones(8, device=d), _tensors(d)),
    "unpack_": lambda d: ops.unpack_(_tensors(d), torch.ones(8, device=d)),
}


def _row(label: str, text: str, width: int = _LABEL) -> Iterator[str]:
    lines = textwrap.wrap(
        text, _WIDTH - width - 1, break_long_words=False, break_on_hyphens=False
    ) or [""]
    for index, line in enumerate(lines):
        yield f"{label if index == 0 else '':<{width}} {line}"


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
