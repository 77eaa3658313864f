"""The epoch and iteration of a checkpoint, read without its tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from hookrun.storage import open_file

from .archive import check_archive, read_pickle
from .pickle_scan import check_pickle


def read_step(path: Path) -> tuple[int, int] | None:
    """The epoch and the iteration in the ``meta`` of a local file.

    The tensors are not read and the digest is not checked, so damage may go unnoticed.

    Returns:
        None if ``meta`` lacks them, or the file is damaged or of the format before torch 1.6.
    """
    try:
        with open_file(path) as file:
            check_archive(file)
            data = read_pickle(file)
        if data is None or check_pickle(data) is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # resuming from the file warns again
            tree = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        epoch, iteration = (tree["meta"][name] for name in ("epoch", "iter"))
    except Exception:  # a damaged file can make the unpickler raise anything
        return None
    return (epoch, iteration) if type(epoch) is type(iteration) is int else None
