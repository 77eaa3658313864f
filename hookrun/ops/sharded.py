"""Tensors of which each rank has a part: torch's DTensor, as FSDP2 and tensor parallelism use it.

A norm over them takes one all-reduce of one number per dimension of their mesh. All ranks of the
mesh must take part.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(*tensors: Any) -> bool:
    """Whether one of these is a DTensor."""
    # Imported by no one, the module has made none; importing it here would take a second.
    module = sys.modules.get("torch.distributed.tensor")
    if module is None:
        return False
    return any(issubclass(kind, module.DTensor) for kind in set(map(type, tensors)))


def local(tensor: Any) -> Tensor:
    """This rank's part of a DTensor; any other tensor as it is."""
    part: Tensor = tensor._local_tensor if is_sharded(tensor) else tensor
    return part


def local_like(tensor: Any, partner: Any) -> Tensor:
    """This rank's part, sharded as the partner is."""
    if is_sharded(tensor) and is_sharded(partner) and tensor.placements != partner.placements:
        tensor = tensor.redistribute(partner.device_mesh, partner.placements)
    return local(tensor)


def replicated_like(number: Tensor, tensor: Any) -> Tensor:
    """A number that all ranks of the tensor's mesh have, as a replicated DTensor.

    If the tensor is no DTensor, the number as it is.
    """
    if not is_sharded(tensor):
        return number
    from torch.distributed.tensor import DTensor, Replicate

    mesh = tensor.device_mesh
    result: Tensor = DTensor.from_local(number, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return result


def norm_over_all(
    tensors: Sequence[Any], norm_type: float, norm: Callable[[list[Tensor]], Tensor]
) -> Tensor:
    """Norm of tensors of which some are DTensors: each element counts once.

    Args:
        tensors: DTensors, of one mesh or several, and plain ones, which all ranks have in full.
        norm_type: p or ``inf``.
        norm: makes the norm of plain tensors, 0-dim and fp64.

    Returns:
        The norm, 0-dim and fp64, the same on every rank.
    """
    plain = [tensor for tensor in tensors if not is_sharded(tensor)]
    by_mesh: dict[Any, list[Any]] = {}
    for tensor in tensors:
        if is_sharded(tensor):
            by_mesh.setdefault(tensor.device_mesh, []).append(tensor)
    device = local(tensors[0]).device
    norms = [norm(plain).to(device)]
    for mesh, sharded in by_mesh.items():
        parts = [part for tensor in sharded for part in _parts_that_count(tensor, mesh)]
        power = _reduced(_power(norm(parts).to(local(sharded[0]).device), norm_type), mesh)
        norms.append(_root(power, norm_type).to(device))
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms), norm_type)
    return total


def maximum_over_meshes_(number: Tensor, tensors: Sequence[Any]) -> None:
    """Replace a number by the largest of all ranks that have a part of these tensors.

    Nothing is sent for tensors that are no DTensors.
    """
    for mesh in dict.fromkeys(each.device_mesh for each in tensors if is_sharded(each)):
        _all_reduce(number, dist.ReduceOp.MAX, mesh)


def _parts_that_count(tensor: Any, mesh: Any) -> list[Tensor]:
    """This rank's part, unless another rank's replica of it counts: the first one's does."""
    from torch.distributed.tensor import Replicate

    summed = [Replicate() if each.is_partial() else each for each in tensor.placements]
    if summed != list(tensor.placements):
        tensor = tensor.redistribute(mesh, summed)
    coordinate = mesh.get_coordinate()
    replicas = zip(tensor.placements, coordinate, strict=True)
    counts = all(not placement.is_replicate() or at == 0 for placement, at in replicas)
    return [tensor._local_tensor] if counts else []


def _power(norm: Tensor, norm_type: float) -> Tensor:
    """What is reduced over the ranks: [x^p] for a sum, or [x, x is NaN] for a maximum."""
    if math.isinf(norm_type):  # a maximum over ranks may lose a NaN
        return torch.stack([norm.nan_to_num(nan=0.0, posinf=math.inf), norm.isnan().to(norm)])
    return norm.pow(norm_type).reshape(1)


def _root(power: Tensor, norm_type: float) -> Tensor:
    if math.isinf(norm_type):
        return torch.where(power[1] > 0, math.nan, power[0])
    return power[0].pow(1 / norm_type)


def _reduced(power: Tensor, mesh: Any) -> Tensor:
    op = dist.ReduceOp.MAX if power.numel() == 2 else dist.ReduceOp.SUM
    _all_reduce(power, op, mesh)
    return power


def _all_reduce(number: Tensor, op: Any, mesh: Any) -> None:
    """Reduce it over all ranks of the mesh, in place."""
    for dimension in range(mesh.ndim):
        dist.all_reduce(number, op, group=mesh.get_group(dimension))
