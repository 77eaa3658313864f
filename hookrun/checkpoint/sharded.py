"""Sharded tensors in checkpoints: files have them in full, so that any ranks can load them.

A sharded tensor is torch's DTensor, as FSDP2 (``fully_shard``) and tensor parallelism make them.
Gathering one takes all ranks of its mesh, whereas rank 0 alone writes the file. So tensors are
gathered first, on all ranks, and put in when the file is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from hookrun.distributed import get_dist_info
from hookrun.ops.sharded import is_sharded

from .snapshot import map_tensors

_Key = tuple[int, tuple[int, ...]]


class FullTensors:
    """The full tensors of sharded ones; must be made on all ranks alike.

    Rank 0 keeps them, on the CPU; the other ranks take part and keep nothing.

    Args:
        trees: dicts, lists and tuples of tensors, such as state dicts, in the same order on all
            ranks.
        step: when it was, so that values of an earlier step are not taken for those of a later one.
    """

    def __init__(self, trees: Iterable[Any], step: tuple[int, ...] = ()) -> None:
        self.step = step
        self._full: dict[_Key, Tensor] = {}
        # While they are alive, no other tensor has their memory, by which they are known.
        self._sharded = list(_sharded_in(list(trees)))
        is_master = get_dist_info()[0] == 0
        for tensor in self._sharded:
            full = tensor.full_tensor()
            if is_master:
                self._full[_key(tensor)] = full.detach().cpu()

    def fill_in(self, tree: Any) -> Any:
        """A copy of the tree with full tensors in place of the sharded ones.

        Ranks that keep nothing get the tree as it is.

        Raises:
            ValueError: a tensor was not gathered.
        """
        if get_dist_info()[0] != 0:
            return tree

        def full(tensor: Any) -> Tensor:
            if not is_sharded(tensor):
                return tensor  # type: ignore[no-any-return]  # a Tensor
            found = self._full.get(_key(tensor))
            if found is None:
                raise ValueError(
                    "parameters or their states are sharded over ranks, and a checkpoint has them "
                    "in full: call runner.gather_state() on all ranks before rank 0 saves"
                )
            return found

        return map_tensors(tree, full)


def has_sharded(tree: Any) -> bool:
    """Whether there is a sharded tensor in a tree of dicts, lists and tuples."""
    return next(_sharded_in(tree), None) is not None


def shard_like(value: Any, ours: Any) -> Any:
    """This rank's part of a full tensor, sharded as ours is; the value itself if ours is not.

    Each rank has the full tensor, so that nothing is sent.
    """
    if not is_sharded(ours) or not isinstance(value, Tensor) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    full = value.to(ours.device)
    return distribute_tensor(full, ours.device_mesh, ours.placements, src_data_rank=None)


def shard_optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """An optimizer's state dict with the states of sharded parameters sharded as these are.

    Args:
        optimizer: the optimizer.
        state: a state dict with full tensors.
    """
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if not is_sharded(*params):
        return state
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    sharded = dict(state["state"])
    for number, param in zip(numbers, params, strict=True):
        if number in sharded and is_sharded(param):
            sharded[number] = {
                name: shard_like(value, param) if _has_shape_of(value, param) else value
                for name, value in sharded[number].items()
            }
    return {**state, "state": sharded}


def _has_shape_of(value: Any, param: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == param.shape


def _sharded_in(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        if is_sharded(tree):
            yield tree
        return
    for each in tree:
        yield from _sharded_in(each)


def _key(tensor: Any) -> _Key:
    """The memory of this rank's part: state dicts give other objects for it each time."""
    return tensor.to_local().data_ptr(), tuple(tensor.shape)
