"""How far the run of a checkpoint was, without reading its tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from hookrun.storage import open_file

from .archive import check_archive, read_pickle
from .pickle_scan import check_pickle


def read_step(path: Path) -> tuple[int, int] | None:
    """The epoch and the iteration that a local file says it was saved at.

    Only the list of what is in it is read, not the tensors, so that damage may go unnoticed.

    Returns:
        None where it does not say, or cannot be read so: files of the old kind, damaged ones.
    """
    try:
        with open_file(path) as file:
            check_archive(file)
            data = read_pickle(file)
        if data is None or check_pickle(data) is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever resumes from it is told
            tree = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        epoch, iteration = (tree["meta"][name] for name in ("epoch", "iter"))
    except Exception:  # a damaged file can make the unpickler raise anything
        return None
    return (epoch, iteration) if type(epoch) is type(iteration) is int else None
