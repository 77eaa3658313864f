"""One rank of all jobs of `run_workers`: each is a fork of this process, which has imported torch.

Reads a job a line from stdin, and writes the exit code of each to stdout.
"""

from __future__ import annotations

import json
import os
import sys

import torch

import hookrun  # noqa: F401

torch.optim.SGD([torch.zeros(1)], lr=1.0)  # imports for seconds, the first time

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.clear()
        os.environ.update(job["environment"])
        output = os.open(job["output"], os.O_CREAT | os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output, stream.fileno())
        exec(compile(job["program"], "<string>", "exec", dont_inherit=True), globals())
        break  # and end as any program does
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
