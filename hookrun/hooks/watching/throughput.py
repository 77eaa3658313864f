"""ThroughputHook: how fast a run trains, and what it waits for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from hookrun.core import HOOKS, Hook, starts_with_defaults

_LATEST = 1000  # the steps of which median and percentile are taken

# Dense bf16/fp16 matrix multiplication, in FLOP/s, as the data sheets give it, by what
# torch.cuda.get_device_name() contains. The first that fits counts.
_PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H800": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


@HOOKS.register_module()
@starts_with_defaults()
class ThroughputHook(Hook):
    """Writes the speed of training to the log buffer, and a summary to the log at the end.

    ``samples_per_sec``
        of all ranks, of the latest interval; if ``train_step`` returns ``num_samples``.
    ``data_share``
        the part of the time, from 0 to 1, in which the step waits for its batch.
    ``step_time_median``, ``step_time_p99``
        of the latest 1,000 iterations, waiting included, in seconds.
    ``gpu_memory_mib``
        the peak that was allocated on this rank's GPU; if there is one.
    ``mfu``
        model FLOPs utilization: the part of the GPUs' peak that the model uses; if
        ``flops_per_sample`` is given.

    Times are those of the host: work that is queued on a GPU counts in the iteration in which the
    host waits for it. Evaluations and the time between two epochs are not counted.

    Args:
        interval: the number of iterations from one report to the next.
        flops_per_sample: floating-point operations of a training step per sample: about 6 times the
            parameters times the tokens of a transformer.
        peak_flops: what one GPU can do in a second; by default the dense bf16 peak of the GPU, if
            it is a known one.

    Raises:
        TypeError, ValueError: ``interval`` is no positive int, or a number of FLOPs not positive;
            when the run begins: ``flops_per_sample`` is given, and the peak of the device unknown.
    """

    writes: ClassVar[frozenset[str]] = frozenset({"log"})

    def __init__(
        self,
        interval: int = 10,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
    ) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval <= 0:
            raise ValueError(f"ThroughputHook: interval must be a positive int, not {interval!r}")
        self.interval = interval
        for name, value in (("flops_per_sample", flops_per_sample), ("peak_flops", peak_flops)):
            if value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"ThroughputHook: {name} must be a number, not {value!r}")
            if not value > 0:
                raise ValueError(f"ThroughputHook: {name} must be positive, not {value!r}")
        self.flops_per_sample = flops_per_sample
        self.peak_flops = peak_flops
        self._reset()

    def _reset(self) -> None:
        self._then = time.perf_counter()  # the end of the last step
        self._waited = 0.0
        self._steps: deque[float] = deque(maxlen=_LATEST)
        self._window = _Window()
        self._whole = _Window()
        self._counts_samples = True

    def before_run(self, runner: Any) -> None:
        self._reset()
        if self.flops_per_sample is not None and self.peak_flops is None:
            self.peak_flops = _known_peak()

    def before_train_epoch(self, runner: Any) -> None:
        self._then = time.perf_counter()

    def before_train_iter(self, runner: Any) -> None:
        self._waited = time.perf_counter() - self._then

    def after_train_iter(self, runner: Any) -> None:
        now = time.perf_counter()
        spent, self._then = now - self._then, now
        self._steps.append(spent)
        samples = self._samples(runner)
        for window in (self._window, self._whole):
            window.add(spent, self._waited, samples)
        if self._window.steps >= self.interval:
            runner.log_buffer.update(self._values(self._window, runner))
            self._window = _Window()

    def after_val_iter(self, runner: Any) -> None:
        self._then = time.perf_counter()

    def evaluation_begins(self, runner: Any) -> None:
        """Leave an evaluation out; a custom event of EvalHook."""
        self._then -= time.perf_counter()

    def evaluation_ends(self, runner: Any) -> None:
        """Time counts again."""
        self._then += time.perf_counter()

    def after_run(self, runner: Any) -> None:
        if self._whole.steps == 0 or runner.rank != 0:
            return
        values = self._values(self._whole, runner)
        parts = []
        if "samples_per_sec" in values:
            parts.append(f"{values['samples_per_sec']:.1f} samples/s")
        parts.append(
            f"step time {values['step_time_median'] * 1e3:.2f} ms (median), "
            f"{values['step_time_p99'] * 1e3:.2f} ms (99th percentile)"
        )
        parts.append(f"{values['data_share']:.1%} of it waiting for data")
        if "gpu_memory_mib" in values:
            parts.append(f"GPU memory {values['gpu_memory_mib']:.0f} MiB")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.1%}")
        runner.logger.info("throughput: %s", ", ".join(parts))

    def _samples(self, runner: Any) -> int:
        outputs = getattr(runner, "outputs", None)
        samples = outputs.get("num_samples") if isinstance(outputs, Mapping) else None
        if isinstance(samples, int):
            return samples * int(runner.world_size)
        if self._counts_samples:
            self._counts_samples = False
            runner.logger.warning(
                "ThroughputHook cannot count samples: train_step returns no 'num_samples' that is "
                "an int"
            )
        return 0

    def _values(self, window: _Window, runner: Any) -> dict[str, float]:
        steps, values = sorted(self._steps), {}
        if self._counts_samples and window.seconds > 0:
            values["samples_per_sec"] = window.samples / window.seconds
        values["data_share"] = window.waited / window.seconds if window.seconds > 0 else 0.0
        values["step_time_median"] = percentile(steps, 0.5)
        values["step_time_p99"] = percentile(steps, 0.99)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no type for it
            values["gpu_memory_mib"] = torch.cuda.max_memory_allocated() / (1 << 20)
        if self.flops_per_sample is not None and "samples_per_sec" in values:
            assert self.peak_flops is not None
            flops = self.flops_per_sample * values["samples_per_sec"]
            values["mfu"] = flops / (self.peak_flops * runner.world_size)
        return values


class _Window:
    """Sums over some iterations."""

    def __init__(self) -> None:
        self.steps = self.samples = 0
        self.seconds = self.waited = 0.0

    def add(self, seconds: float, waited: float, samples: int) -> None:
        self.steps += 1
        self.samples += samples
        self.seconds += seconds
        self.waited += waited


def percentile(ordered: list[float], part: float) -> float:
    """The value below which this part of the values lies; between two, their weighted average.

    Args:
        ordered: at least one value, in ascending order.
        part: from 0 to 1.
    """
    position = part * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _known_peak() -> float:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    for part, flops in _PEAK_FLOPS.items():
        if part in name:
            return flops
    raise ValueError(
        f"ThroughputHook: flops_per_sample needs the peak of the device, and that of {name} is not "
        "known: give peak_flops, in FLOP/s"
    )
