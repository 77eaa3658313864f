"""What imports take above `import torch`.

Claim: ``import hookrun`` takes at most 150 ms: names are imported when they are asked for. What
``from hookrun import *`` takes, which imports them all, is compared with the peers' runners.

Floor. ``import torch``, which all of them need.

Each import is timed in a process of its own, in processor time. A collection of garbage may fall
into it, which walks over what torch has made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from comparison import Comparison, Target
from timing import Case, race

OURS, ALL_NAMES, FLOOR = "hookrun", "hookrun, all names", "import torch"
IMPORTS = {
    OURS: "import hookrun",
    ALL_NAMES: "from hookrun import *",
    "hookrun, operations": "import hookrun.ops",
    "MMCV": "import peers.mmcv_runner; peers.mmcv_runner.import_runner()",
    "MMEngine": "import mmengine.runner",
    "Ignite": "import ignite.engine, ignite.handlers",
    "Lightning": "import lightning",
    "HF Trainer": "from transformers import Trainer",
}


def processor_time(statement: str, before: str) -> float:
    """Seconds that the statement takes in a new process, after another one."""
    code = (
        f"import time, warnings; warnings.simplefilter('ignore'); {before}; "
        f"start = time.process_time(); {statement}; print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    here = Path(__file__).parent  # of `peers`
    done = subprocess.run(command, capture_output=True, text=True, cwd=here)
    if done.returncode:
        raise ImportError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split()[-1])


def case(statement: str, before: str) -> Case:
    return Case(lambda n: lambda: processor_time(statement, before), 1, own_clock=True)


@pytest.mark.filterwarnings("ignore")
def bench_import(benchmark, rounds, record):
    cases, missing = {}, {}
    for name, statement in IMPORTS.items():
        try:
            processor_time(statement, "import torch")
        except ImportError as error:
            missing[name] = str(error)
        else:
            cases[name] = case(statement, "import torch")
    cases[FLOOR] = case(FLOOR, "pass")
    samples = race(benchmark, cases, min(rounds, 3))  # half a minute each
    comparison = Comparison(
        title="An import, above that of torch",
        unit="ms",
        per_second=1e3,
        baseline=None,
        floor=FLOOR,
        floor_is="what all of them need",
        subject=ALL_NAMES,
        targets=(Target(OURS, 150.0, "ms"),),
        counts_calls=False,
    )
    record.add("import", comparison.figure(samples, cases, missing))
