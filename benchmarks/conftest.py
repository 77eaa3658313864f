"""Options and fixtures of the benchmarks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peers import ALL_PEERS, load_peers
from record import RESULTS, Record

# The reference is measured beside the native dispatcher; it must not stand in for it.
os.environ.pop("HOOKRUN_BACKEND", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hookrun benchmarks")
    group.addoption("--rounds", type=int, default=25, help="how often each system is timed")
    group.addoption("--results", type=Path, default=RESULTS, help="the folder of the results file")


@pytest.fixture(scope="session")
def record(request: pytest.FixtureRequest) -> Record:
    """Takes the figures."""
    return Record(request.config.getoption("--results"))


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--rounds")


@pytest.fixture(scope="session")
def peers():
    """The installed peers by name, and why the others are missing."""
    return load_peers()


@pytest.fixture(scope="session")
def all_peers():
    """The same, with those that take part in whole trainings only."""
    return load_peers(ALL_PEERS)
