"""ProgressBarHook in the kernel of a notebook, where one is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT

pytestmark = pytest.mark.long  # starting a kernel takes seconds

CELL = """
from hookrun import EpochBasedRunner, EvalHook, ProgressBarHook
from tests.support import TinyModel, make_loader

runner = EpochBasedRunner(TinyModel(), max_epochs=2)
runner.logger.setLevel("ERROR")
runner.register_hook(EvalHook(make_loader(3)))
runner.register_hook(ProgressBarHook())
runner.run([make_loader(10)], [("train", 1)])
"""


def test_the_bar_is_one_output_that_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipykernel", reason="needs a kernel")
    nbclient: Any = pytest.importorskip("nbclient", reason="needs a client of kernels")
    nbformat: Any = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    nbclient.NotebookClient(notebook, timeout=120).execute(cwd=str(tmp_path))
    (output,) = [each for each in notebook.cells[0].outputs if each.output_type == "display_data"]
    text = output.data["text/plain"]
    assert text.splitlines()[0].startswith("epoch 2/2 ━")
    assert " 20/20 " in text.splitlines()[0]
