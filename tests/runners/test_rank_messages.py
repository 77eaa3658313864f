"""What several ranks say: rank 0 how the run goes, the others warnings, with their rank."""

from __future__ import annotations

from pathlib import Path

from tests.distributed.workers import run_workers

PROGRAM = """
import io, logging, sys
from hookrun import EpochBasedRunner, Hook, get_logger
from tests.support import TinyModel, make_loader

class Talking(Hook):
    def before_epoch(self, runner):
        runner.logger.info("an epoch %d", 1)
        runner.logger.warning("beware of %s", "50%")

def said(logger):
    sys.stderr = io.StringIO()
    model = TinyModel()
    runner = EpochBasedRunner(
        model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        work_dir=folder / str(rank),
        max_epochs=1,
        logger=logger,
    )
    runner.logger.setLevel("DEBUG")
    log_config = {"interval": 1, "hooks": [{"type": "TextLoggerHook"}]}
    runner.register_training_hooks({"policy": "fixed"}, {}, {"interval": 1}, log_config)
    runner.register_hook(Talking())
    runner.stop("100%")  # hookrun warns: it has no effect
    runner.run([make_loader(2)], [("train", 1)])
    lines = [line for line in sys.stderr.getvalue().splitlines() if " - " in line]
    return [line.split(" - ", 2)[2].split(",")[0] for line in lines]

given = logging.getLogger("of the application")
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(asctime)s - %(name)s - %(levelname)s - %(message)s"))

class ToStderr(logging.Handler):
    def emit(self, record):
        sys.stderr.write(handler.format(record) + "\\n")

given.addHandler(ToStderr())
given.propagate = False
found["default"], found["given"] = said(None), said(given)
made = get_logger("made")
made.error("an error")
found["made"] = sys.stderr.getvalue().splitlines()[-1].split(" - ", 2)[2]
"""


def test_rank_0_speaks(tmp_path: Path) -> None:
    first, second = run_workers(PROGRAM, tmp_path)
    for which in ("default", "given"):
        text = "\n".join(first[which])
        for said in ("hooks will be called in this order", "saving checkpoint", "INFO - Epoch [1]"):
            assert said in text, text
        assert "INFO - an epoch 1" in first[which]
        assert "WARNING - beware of 50%" in first[which]
        assert "[rank" not in text
    ours = [line for line in second["default"] if "beware" not in line]
    assert all(line.startswith("WARNING - [rank 1] ") for line in ours), ours
    assert any("stop('100%') has no effect" in line for line in ours), ours
    assert "WARNING - [rank 1] beware of 50%" in second["default"]
    # What the application says itself through its own logger is left as it is.
    assert [line for line in second["given"] if line not in ours] == [
        "INFO - an epoch 1",
        "WARNING - beware of 50%",
    ]
    assert (first["made"], second["made"]) == ("ERROR - an error", "ERROR - [rank 1] an error")
