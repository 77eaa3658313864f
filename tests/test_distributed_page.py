"""docs/distributed.md: its script runs on two ranks, and its commands train the example."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from hookrun.checkpoint import read_checkpoint
from tests.distributed.workers import run_ranks

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "distributed.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
SHORT = "--iters 4 --evaluate-every 2 --batch-size 2 --length 8 --width 8 --layers 1"


def test_the_script(tmp_path: Path) -> None:
    """All blocks of Python one after the other, as the page prints them."""
    assert {kind for kind, _ in BLOCKS} == {"bash", "python"}
    script = "\n".join(text for kind, text in BLOCKS if kind == "python")
    run_ranks("-c", script + "\ntorch.distributed.destroy_process_group()\n", cwd=tmp_path)
    for name, parameters in (("ddp", 6), ("own", 2), ("fsdp", 4)):
        file = read_checkpoint(tmp_path / "work_dirs" / name / "epoch_2.pth")
        assert len([each for each in file["state_dict"] if "running" not in each]) >= parameters
        assert not any("module" in each for each in file["state_dict"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(command: str, tmp_path: Path) -> None:
    """What torchrun does itself, such as restarts, is tested elsewhere."""
    torchrun, *words = shlex.split(command)
    at = words.index("examples/stdlib_gpt.py")
    assert torchrun == "torchrun"
    assert all(word.startswith("--") for word in words[:at])
    arguments = [*words[at + 1 :], *SHORT.split(), "--work-dir", str(tmp_path / "run")]
    texts = run_ranks(ROOT / words[at], *arguments, cwd=tmp_path)
    assert "held-out loss after 4 iterations" in texts[0]
    assert "held-out" not in texts[1]
