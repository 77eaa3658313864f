"""DefaultOptimizerConstructor: learning rates and weight decays by kinds of parameters."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any, ClassVar

from torch import nn
from torch.nn import GroupNorm, LayerNorm, Parameter
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from hookrun.core.errors import did_you_mean
from hookrun.core.overrides import overrides

from .registries import OPTIMIZER_BUILDERS, OPTIMIZERS

_NORMS = (_BatchNorm, _InstanceNorm, GroupNorm, LayerNorm)
_MULTIPLIERS = (
    *("bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult"),
    "dcn_offset_lr_mult",
)
_KEYS = ("custom_keys", *_MULTIPLIERS, "bypass_duplicate")
_CUSTOM_KEYS = ("lr_mult", "decay_mult")


@OPTIMIZER_BUILDERS.register_module()
class DefaultOptimizerConstructor:
    """Builds an optimizer whose parameters have their own learning rates and weight decays.

    Without ``paramwise_cfg`` the optimizer gets ``model.parameters()``. With it, every parameter is
    a group of its own, in the order of the model, with ``lr`` and ``weight_decay`` times these:

    * ``custom_keys``: by parts of names, such as ``{"backbone": dict(lr_mult=0.1, decay_mult=0)}``.
      Of several that are in a name, the longest counts, of equally long ones the first in the
      alphabet. What follows does not apply to such a parameter;
    * ``bias_lr_mult``, ``bias_decay_mult``: of biases, but not of normalization layers' and not of
      those that make the offsets of deformable convolutions;
    * ``norm_decay_mult``: of weights and biases of normalization layers;
    * ``dwconv_decay_mult``: of depth-wise convolutions;
    * ``dcn_offset_lr_mult``: of the layers that make the offsets of MMCV's deformable convolutions.

    ``bypass_duplicate=True`` leaves out parameters that the model uses in several places after the
    first of them.

    Args:
        optimizer_cfg: ``type``, a name in ``OPTIMIZERS`` or a class, and the optimizer's arguments.
        paramwise_cfg: the above, or None.

    Raises:
        TypeError: a config that is no dict, an unknown key (unless a subclass makes the groups), or
            a multiplier, learning rate or decay that is no number. When it is called: no model.
        ValueError: a multiplier that is negative or not finite; one of a learning rate or decay
            that the optimizer has not. When it is called: a custom key that is in no parameter's
            name, or parameters that come twice.

    Different from MMCV: an optimizer's own default counts where the config gives no learning rate
    or decay (MMCV raises), and a custom key that is in no name is an error (MMCV ignores it).
    """

    #: What to do about a custom key that is in no parameter's name: "raise" or "warn".
    unmatched_keys: ClassVar[str] = "raise"

    def __init__(
        self,
        optimizer_cfg: Mapping[str, Any],
        paramwise_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(optimizer_cfg, Mapping):
            raise TypeError(f"optimizer_cfg is a dict, not {type(optimizer_cfg).__name__}")
        _check_optimizer_config(optimizer_cfg)
        self.optimizer_cfg = optimizer_cfg
        self.paramwise_cfg: Mapping[str, Any] = {} if paramwise_cfg is None else paramwise_cfg
        self.base_lr = self._base("lr")
        self.base_wd = self._base("weight_decay")
        self._check()

    def __call__(self, model: nn.Module) -> Any:
        """Build the optimizer of a model, which may be wrapped, as by DDP."""
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model is an nn.Module, not {type(model).__name__}")
        model = _unwrapped(model)
        params: list[Any] = []
        if self.paramwise_cfg:
            self._check_custom_keys_match(model)
            self.add_params(params, model)
            self._check_duplicates(params)
        else:
            params = list(model.parameters())
        # Not a part of the config: errors show that.
        return OPTIMIZERS.build(self.optimizer_cfg, {"params": params})

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: bool = False,
    ) -> None:
        """Add a group for each parameter of a module and its children; a subclass may override it.

        Args:
            params: the list that is added to.
            module: the module.
            prefix: its name in the model.
            is_dcn_module: whether it is a child of one of MMCV's deformable convolutions.
        """
        for name, param in module.named_parameters(recurse=False):
            group: dict[str, Any] = {"params": [param]}
            if param.requires_grad:
                if self.paramwise_cfg.get("bypass_duplicate") and _is_in(param, params):
                    warnings.warn(
                        f"the parameter {prefix}.{name} is in the optimizer already, under another "
                        "name, whose learning rate and decay count (bypass_duplicate=True)",
                        stacklevel=2,
                    )
                    continue
                group.update(self._options(module, name, prefix, is_dcn_module))
            params.append(group)
        makes_offsets = isinstance(module, _deformable_convolutions())
        for name, child in module.named_children():
            child_prefix = f"{prefix}.{name}" if prefix else name
            self.add_params(params, child, child_prefix, makes_offsets)

    def _options(
        self, module: nn.Module, name: str, prefix: str, is_dcn_module: bool
    ) -> dict[str, float]:
        """The learning rate and decay of a parameter, where they are its own."""
        lr_mult, decay_mult = self._multipliers(module, name, prefix, is_dcn_module)
        options = {}
        if lr_mult is not None and self.base_lr is not None:
            options["lr"] = self.base_lr * lr_mult
        if decay_mult is not None and self.base_wd is not None:
            options["weight_decay"] = self.base_wd * decay_mult
        return options

    def _multipliers(
        self, module: nn.Module, name: str, prefix: str, is_dcn_module: bool
    ) -> tuple[float | None, float | None]:
        """Of the learning rate and of the decay; None: that of the optimizer counts."""
        config = self.paramwise_cfg
        custom = self._custom(f"{prefix}.{name}")
        if custom is not None:
            return custom.get("lr_mult", 1.0), custom.get("decay_mult", 1.0)
        is_norm, is_bias = isinstance(module, _NORMS), name == "bias"
        lr_mult = decay_mult = None
        if is_bias and not is_norm and not is_dcn_module:
            lr_mult = config.get("bias_lr_mult", 1.0)
        if is_dcn_module and "conv_offset" in prefix and isinstance(module, nn.Conv2d):
            lr_mult = config.get("dcn_offset_lr_mult", 1.0)
        if is_norm:
            decay_mult = config.get("norm_decay_mult", 1.0)
        elif isinstance(module, nn.Conv2d) and module.in_channels == module.groups:
            decay_mult = config.get("dwconv_decay_mult", 1.0)
        elif is_bias and not is_dcn_module:
            decay_mult = config.get("bias_decay_mult", 1.0)
        return lr_mult, decay_mult

    def _custom(self, name: str) -> Mapping[str, Any] | None:
        """The custom key that counts for a parameter of this name, if one does."""
        keys: Mapping[str, Mapping[str, Any]] = self.paramwise_cfg.get("custom_keys", {})
        found = [key for key in keys if key in name]
        return keys[min(found, key=lambda key: (-len(key), key))] if found else None

    def _base(self, name: str) -> float | None:
        """A base value: the config's, else the optimizer's default; None where it has none."""
        if name in self.optimizer_cfg:
            given: float | None = self.optimizer_cfg[name]
            return given
        kind = self.optimizer_cfg.get("type")
        found = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        if not callable(found):  # building the optimizer will say so
            return None
        parameter = inspect.signature(found).parameters.get(name)
        default = None if parameter is None else parameter.default
        return float(default) if isinstance(default, Real) else None

    def _check(self) -> None:
        if not isinstance(self.paramwise_cfg, Mapping):
            raise TypeError(f"paramwise_cfg is a dict or None, not {self.paramwise_cfg!r}")
        if not overrides(self, DefaultOptimizerConstructor, ("add_params", "__call__")):
            _check_keys("paramwise_cfg", self.paramwise_cfg, _KEYS)  # else there may be more
        for name in _MULTIPLIERS:
            if name in self.paramwise_cfg:
                self._check_multiplier("paramwise_cfg", name, self.paramwise_cfg[name])
        bypass = self.paramwise_cfg.get("bypass_duplicate", False)
        if not isinstance(bypass, bool):
            raise TypeError(f"paramwise_cfg: bypass_duplicate must be a bool, not {bypass!r}")
        custom_keys = self.paramwise_cfg.get("custom_keys", {})
        if not isinstance(custom_keys, Mapping):
            raise TypeError(
                "paramwise_cfg: custom_keys is a dict of parts of names and dicts such as "
                f"dict(lr_mult=0.1), not {custom_keys!r}"
            )
        for key, custom in custom_keys.items():
            where = f"paramwise_cfg: custom_keys[{key!r}]"
            if not isinstance(key, str) or not isinstance(custom, Mapping):
                raise TypeError(f"{where} must be a dict such as dict(lr_mult=0.1), not {custom!r}")
            _check_keys(where, custom, _CUSTOM_KEYS)
            for name, value in custom.items():
                self._check_multiplier(where, name, value)

    def _check_multiplier(self, where: str, name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{where}: {name} must be a number, not {value!r}")
        if not 0 <= float(value) < math.inf:
            raise ValueError(f"{where}: {name} must be at least 0 and finite, not {value!r}")
        base, option = (self.base_wd, "weight_decay") if "decay" in name else (self.base_lr, "lr")
        if base is None:
            raise ValueError(
                f"{where}: {name} multiplies {option}, which neither the optimizer's config has "
                f"nor its defaults: give {option} in the config"
            )

    def _check_custom_keys_match(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        compared = [name if "." in name else f".{name}" for name in names]
        for key in self.paramwise_cfg.get("custom_keys", {}):
            if any(key in name for name in compared):
                continue
            parts = {part for name in names for part in name.split(".")}
            message = (
                f"paramwise_cfg: the custom key {key!r} is in the name of no parameter, so that it "
                f"changes nothing. {did_you_mean(key, parts)}"
            )
            if self.unmatched_keys == "raise":
                raise ValueError(message)
            warnings.warn(message, stacklevel=3)

    def _check_duplicates(self, params: list[dict[str, Any]]) -> None:
        listed = [id(param) for group in params for param in group["params"]]
        if len(set(listed)) < len(listed):
            raise ValueError(
                "the model uses a parameter in several places, and with paramwise_cfg each place "
                "is a group, so that the optimizer would step it more than once; "
                "paramwise_cfg=dict(bypass_duplicate=True) takes the first place only"
            )


def _check_optimizer_config(config: Mapping[str, Any]) -> None:
    """Refuse what torch would report unclearly, or take."""
    if "params" in config:
        raise TypeError("an optimizer config has no params: they are those of the model")
    for name in ("lr", "weight_decay"):
        value = config.get(name)
        if isinstance(value, str):
            raise TypeError(
                f"{name} must be a number, not the text {value!r}"
                " (in YAML, 1e-4 is text and 1.0e-4 is a number)"
            )
        if isinstance(value, Real) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, not {value!r}")


def _check_keys(where: str, config: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in config:
        if key not in known:
            raise TypeError(f"{where} has no key {key!r}. {did_you_mean(str(key), known)}")


def _is_in(param: Parameter, groups: list[dict[str, Any]]) -> bool:
    return any(param is each for each in _params_of(groups))


def _params_of(groups: list[dict[str, Any]]) -> Iterator[Parameter]:
    for group in groups:
        yield from group["params"]


def _deformable_convolutions() -> tuple[type, ...]:
    """MMCV's, if it is in use: only then can a model have one."""
    ops = sys.modules.get("mmcv.ops")
    names = ("DeformConv2d", "ModulatedDeformConv2d")
    return tuple(getattr(ops, name) for name in names if hasattr(ops, name))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module in a parallel wrapper, which has it, and nothing else, as ``module``."""
    children = dict(model.named_children())
    if list(children) == ["module"] and not list(model.named_parameters(recurse=False)):
        return children["module"]
    return model
