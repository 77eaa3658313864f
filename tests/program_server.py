"""The process whose forks run the programs of `programs.py`. It does nothing itself but import."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import types
import warnings
from typing import Any

import tests.conftest  # noqa: F401  # takes the native module from where the tests do

# isort: split
import torch
import torch.distributed.fsdp
import torch.distributed.tensor

import hookrun  # noqa: F401

torch.optim.SGD([torch.zeros(1)], lr=1.0)  # imports for seconds, the first time


def next_job() -> dict[str, Any] | None:
    """In a fork, the job that came, with its streams in place; in the server, None at the end."""
    jobs = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, *_ = socket.recv_fds(jobs, 1, 5)
        if not message:
            return None
        watcher = os.fork()
        if watcher == 0:
            jobs.close()
            return _forked(*descriptors)
        for each in descriptors:
            os.close(each)
        with contextlib.suppress(ChildProcessError):  # there is none any more
            while os.waitpid(-1, os.WNOHANG)[0]:  # watchers that have ended
                pass


def _forked(job: int, report: int, *streams: int) -> dict[str, Any]:
    """Fork once more, and tell the child's number, and how it ended."""
    child = os.fork()
    if child:
        for each in (job, *streams):
            os.close(each)
        os.write(report, b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(report)
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    with os.fdopen(job) as file:
        found: dict[str, Any] = json.load(file)
    return found


def run_job(job: dict[str, Any]) -> None:
    """As Python's command line does."""
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    kind, *arguments = job["command"]
    if kind == "-c":
        code, *arguments = arguments
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec", dont_inherit=True), vars(main))
    elif kind == "-m":
        name, *arguments = arguments
        sys.argv = [name, *arguments]
        sys.path.insert(0, job["folder"])
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        sys.path[0] = os.path.dirname(kind)
        runpy.run_path(kind, run_name="__main__")


def run_and_exit(job: dict[str, Any]) -> None:
    """End as Python does, but without taking apart what was imported, which takes seconds."""
    code = 0
    try:
        run_job(job)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else error.code is not None
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    threading._shutdown()  # type: ignore[attr-defined]  # waits for those that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        signal.raise_signal(-code)
    os._exit(code)


if __name__ == "__main__":
    gc.collect()
    gc.freeze()  # a collection in a fork would copy all that it looks at
    found = next_job()
    if found is not None:
        run_and_exit(found)
