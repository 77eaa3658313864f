"""Runs Python programs, each in a fork of one process that has imported torch and hookrun.

Importing them takes seconds, longer than most of the programs. What is about those imports, or
about how a process starts, needs `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# The process that is forked, with the socket to it; started when it is first needed.
_server: list[Any] = []


class Program:
    """A program that runs, much as ``subprocess.Popen`` with pipes, but for stderr: that is a file.

    Args:
        command: ``-c`` and code, ``-m`` and the name of a module, or a file; then its arguments.
        env: its environment; this process's by default.
        cwd: where it runs; the root of the project by default.
        output: a file for all that it prints, instead of ``stdout`` and ``stderr``.
        interactive: whether ``stdout`` can be read while it runs. Such a program may print no more
            than a pipe holds, 64 KiB, that is not read.
    """

    def __init__(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: str | Path = ROOT,
        output: Path | None = None,
        interactive: bool = True,
    ) -> None:
        job = {
            "command": [str(each) for each in command],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd),
        }
        self.returncode: int | None = None
        given, stdin = os.pipe()
        stdout, printed = os.pipe()
        self._control, report = os.pipe()
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)
        self._stderr: Any = output.open("w+") if output else _temporary()
        self._printed: Any = self.stdout if interactive else _temporary()
        to = printed if interactive else self._printed.fileno()
        streams = [given, self._stderr.fileno() if output else to, self._stderr.fileno()]
        with tempfile.TemporaryFile("w+") as file:
            json.dump(job, file)
            file.flush()
            file.seek(0)
            socket.send_fds(_started(), [b"j"], [file.fileno(), report, *streams])
        for each in (given, printed, report):
            os.close(each)
        self.pid = int(self._line())

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        """It is killed, if it still runs."""
        self.kill()
        self.wait()
        for each in (self.stdin, self.stdout, self._printed, self._stderr):
            with contextlib.suppress(BrokenPipeError):
                each.close()

    def poll(self) -> int | None:
        """The exit status, negative after a signal; None while it runs."""
        if self.returncode is None and select.select([self._control], [], [], 0)[0]:
            self.returncode = int(self._line())
            os.close(self._control)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended."""
        if self.poll() is None:
            if not select.select([self._control], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.poll()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, given: str = "", timeout: float | None = 60) -> tuple[str, str]:
        """Give it something to read, wait for its end; what else it printed, and its stderr."""
        self.stdin.write(given)
        self.stdin.close()
        self.wait(timeout)
        for each in {self._stderr, self._printed} - {self.stdout}:
            each.seek(0)
        return self._printed.read(), self._stderr.read()

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self) -> str:
        """A line of what the fork's parent tells of it."""
        line = b""
        while not line.endswith(b"\n"):
            got = os.read(self._control, 1)
            assert got, "the process that runs programs has ended"
            line += got
        return line.decode()


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: str | Path = ROOT,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as ``subprocess.run`` with captured output."""
    with Program(*command, env=env, cwd=cwd, interactive=False) as program:
        out, err = program.communicate(timeout=timeout)
        return subprocess.CompletedProcess(list(map(str, command)), program.wait(), out, err)


def _temporary() -> Any:
    return tempfile.TemporaryFile("w+")


def _started() -> socket.socket:
    """The socket to the process that is forked."""
    if not _server:
        ours, its = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.program_server", str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[its.fileno()],
            # All that runs on several processes here is small: they would only share the cores.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            start_new_session=True,
        )
        its.close()
        _server[:] = process, ours, os.getpid()
    connection: socket.socket = _server[1]
    return connection


@atexit.register
def _stop() -> None:
    if _server and _server[2] == os.getpid():
        process, connection, _ = _server
        connection.close()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _server.clear()
