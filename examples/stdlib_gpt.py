"""Train a small GPT on the text of Python's own standard library, on one process or many.

The text, about five million bytes, is on every machine that has Python, so nothing is downloaded:

    python examples/stdlib_gpt.py
    torchrun --nproc-per-node=2 examples/stdlib_gpt.py            # DDP
    torchrun --nproc-per-node=2 examples/stdlib_gpt.py --fsdp     # parameters sharded by FSDP2
    torchrun --nproc-per-node=2 --max-restarts=3 examples/stdlib_gpt.py     # survives failures

A process has a GPU of its own where there are any, and else shares the CPU. On two processes the
300 iterations take the loss on held-out text below 2.4 nats per byte; it begins at ln(256) = 5.5.
"""

from __future__ import annotations

import argparse
import json
import os
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from hookrun import (
    DistEvalHook,
    EMAHook,
    EvalHook,
    IterBasedRunner,
    ResumableDistributedSampler,
    ThroughputHook,
    TrainStep,
    get_dist_info,
    init_dist,
    set_random_seed,
)

SEED = 0
BYTES = 256  # a token is a byte
HELD_OUT = 64  # windows at the end of the text
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of the text that follow each other, with the bytes after each as targets."""

    def __init__(self, text: bytes, length: int) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.length = length

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.length
        window = self.text[start : start + self.length + 1].long()
        return window[:-1], window[1:]


class Block(nn.Module):
    """Causal attention and a layer of neurons, each around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.neurons = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.attention(self.norm1(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.neurons(self.norm2(x))


class GPT(nn.Module):
    """Predicts each next byte from those before it."""

    def __init__(self, length: int, width: int, layers: int, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        for each in (self.tokens, self.positions):
            nn.init.normal_(each.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, BYTES))

    def forward(self, text: Tensor) -> Tensor:
        positions = torch.arange(text.shape[1], device=text.device)
        return self.head(self.blocks(self.tokens(text) + self.positions(positions)))


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Nats per byte."""
    return F.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten())


def scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    return {"loss": loss_of(outputs, targets).item()}


def read_text() -> bytes:
    """The modules of the standard library, one after the other."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))


def make_loaders(arguments: argparse.Namespace) -> tuple[DataLoader[Tensor], DataLoader[Tensor]]:
    """The training text in an order that can be resumed, and the held-out text in its own."""
    rank, world_size = get_dist_info()
    text, kept = read_text(), HELD_OUT * arguments.length
    train = Windows(text[:-kept], arguments.length)
    test = Windows(text[-kept - 1 :], arguments.length)
    shuffled = ResumableDistributedSampler(train, seed=SEED)
    in_order = DistributedSampler(test, world_size, rank, shuffle=False)
    return (
        DataLoader(train, arguments.batch_size, sampler=shuffled, drop_last=True),
        DataLoader(test, arguments.batch_size, sampler=in_order),
    )


def make_model(arguments: argparse.Namespace, device: torch.device) -> TrainStep:
    """The network in DDP or FSDP2, where there are several processes, with a training step."""
    network: nn.Module = GPT(arguments.length, arguments.width, arguments.layers).to(device)
    if arguments.fsdp:
        for each in (network.tokens, network.positions, *network.blocks, network.head):
            fully_shard(each)
        fully_shard(network)
    elif get_dist_info()[1] > 1:
        network = DistributedDataParallel(network)
    return TrainStep(network, loss_of, autocast=PRECISIONS[arguments.precision])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iters", type=int, default=300, help="iterations; a step takes several")
    parser.add_argument("--accumulate", type=int, default=1, help="iterations per step")
    parser.add_argument("--evaluate-every", type=int, default=50, metavar="ITERS")
    parser.add_argument("--batch-size", type=int, default=16, help="windows, for each process")
    parser.add_argument("--length", type=int, default=64, help="bytes in a window")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--fsdp", action="store_true", help="shard the parameters by FSDP2")
    parser.add_argument("--work-dir", default="work_dirs/stdlib_gpt")
    parser.add_argument("--resume", metavar="FILE", help="a checkpoint, or 'auto' for the newest")
    arguments = parser.parse_args()
    if arguments.fsdp and "RANK" not in os.environ:
        parser.error("--fsdp shards over processes: start the program with torchrun")
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        arguments.resume = "auto"  # torchrun has started the processes anew
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if "RANK" in os.environ:  # torchrun sets it
        init_dist("pytorch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_random_seed(SEED)
    train_loader, test_loader = make_loaders(arguments)
    model = make_model(arguments, device)
    runner = IterBasedRunner(
        model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.1),
        work_dir=arguments.work_dir,
        meta={"exp_name": "stdlib_gpt", "seed": SEED},
        max_iters=arguments.iters,
    )
    scaled = {"loss_scale": "dynamic"} if arguments.precision == "fp16" else {}
    runner.register_training_hooks(
        lr_config={
            "policy": "CosineAnnealing",
            "min_lr": 0.0,
            "warmup": "linear",
            "warmup_iters": max(arguments.iters // 10, 1),
        },
        optimizer_config={
            "type": f"GradientCumulative{'Fp16' if scaled else ''}OptimizerHook",
            "cumulative_iters": arguments.accumulate,
            "grad_clip": {"max_norm": 1.0},
            **scaled,
        },
        checkpoint_config={"interval": 100, "max_keep_ckpts": 2},
        log_config={
            "interval": 10,
            "average_over_ranks": True,
            "hooks": [{"type": "TextLoggerHook"}],
        },
    )
    # Between the optimizer, which it averages, and the checkpoints, which hold its averages.
    runner.register_hook(EMAHook(momentum=0.05, warm_up=10), priority=45)
    evaluation = EvalHook if get_dist_info()[1] == 1 else DistEvalHook
    runner.register_hook(
        evaluation(
            test_loader,
            by_epoch=False,
            interval=arguments.evaluate_every,
            save_best="loss",
            metrics=scores,
        )
    )
    runner.register_hook(ThroughputHook())
    if arguments.resume:
        runner.resume(arguments.resume)
    runner.run([train_loader], [("train", 1)])

    if runner.rank == 0:
        loss = runner.meta["hook_msgs"]["best_score"]
        summary = {"loss": round(loss, 4), "iterations": runner.iter}
        (Path(arguments.work_dir) / "summary.json").write_text(json.dumps(summary) + "\n")
        print(f"held-out loss after {runner.iter} iterations: {loss:.4f} nats per byte")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
