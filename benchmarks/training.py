"""Whole trainings that every system is given: models, their batches, and a clock in the loader.

A system's module has ``whole_training(work, loader, work_dir)``, which prepares a run of AdamW over
one pass of the loader, with clipping by norm, averages of the weights after each update, a cosine
learning rate by iteration, and the loss logged every so many iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu, scaled_dot_product_attention

LEARNING_RATE = 1e-3
MAX_NORM = 1.0
EMA_MOMENTUM = 1e-3
"""The weight of the new parameters in the averages."""
BATCHES = 8
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """A model and what it learns from.

    Attributes:
        make_model: without arguments; takes inputs, gives a row of scores for each label.
        make_batch: new random inputs and labels.
        threads: how many torch uses.
        iterations: how many are timed in a turn.
        log_interval: iterations from one line of the log to the next.
    """

    make_model: Callable[[], nn.Module]
    make_batch: Callable[[], Batch]
    threads: int
    iterations: int
    log_interval: int

    def model(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(0)
        return self.make_model()

    def batches(self, count: int) -> list[Batch]:
        """A few batches, over and over."""
        torch.manual_seed(1)
        few = [self.make_batch() for _ in range(BATCHES)]
        return [few[i % BATCHES] for i in range(count)]


class TimedBatches:
    """A list of batches that reads the clock when two of them are asked for.

    What lies between is ``last - first`` iterations, also where a system asks for a batch ahead of
    its use; what a system does at the start and the end of a run is left out.
    """

    def __init__(
        self, batches: list[Any], first: int, last: int, clock: Callable[[], float]
    ) -> None:
        self.batches = batches
        self._first, self._last = first, last
        self._clock = clock
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches[: self._first]
        start = self._clock()
        yield from self.batches[self._first : self._last]
        self.seconds = self._clock() - start
        yield from self.batches[self._last :]


@dataclass(frozen=True)
class Training:
    """A prepared run.

    Attributes:
        run: trains.
        weights: of the model as they are trained, after the run.
        averages: of them.
    """

    run: Callable[[], object]
    weights: Callable[[], list[Tensor]]
    averages: Callable[[], list[Tensor]]


class LossModel(nn.Module):
    """Computes its own loss, for systems that want that of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(self.model(inputs), labels)


def mlp() -> nn.Module:
    """Three layers, 6 tensors."""
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def deep_mlp() -> nn.Module:
    """81 layers, 162 small tensors, so initialized that gradients reach the first."""
    layers: list[nn.Module] = []
    for _ in range(80):
        linear = nn.Linear(32, 32)
        nn.init.kaiming_normal_(linear.weight)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + self.shortcut(x))


def cnn() -> nn.Module:
    """ResNet-18 for small images, a quarter as wide: 62 tensors."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        layers += [BasicBlock(inputs, width, stride), BasicBlock(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


class Block(nn.Module):
    """Causal attention and an MLP, each around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(out.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Four blocks of width 128 over 64 tokens: 53 tensors."""

    def __init__(self, words: int = 256, length: int = 64, width: int = 128) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.blocks(self.words(tokens) + self.places)
        return self.head(self.norm(x)).flatten(0, 1)


def _vectors(width: int) -> Callable[[], Batch]:
    return lambda: (torch.randn(32, width), torch.randint(10, (32,)))


def _images() -> Batch:
    return torch.randn(8, 3, 32, 32), torch.randint(10, (8,))


def _texts() -> Batch:
    return torch.randint(256, (4, 64)), torch.randint(256, (4 * 64,))


# The host is the limit of the MLPs: one thread. The others compute: as many as there are.
WORKS = {
    "MLP": Work(mlp, _vectors(64), threads=1, iterations=200, log_interval=50),
    "deep MLP": Work(deep_mlp, _vectors(32), threads=1, iterations=50, log_interval=50),
    "CNN": Work(cnn, _images, threads=2, iterations=10, log_interval=10),
    "GPT": Work(GPT, _texts, threads=2, iterations=10, log_interval=10),
}
