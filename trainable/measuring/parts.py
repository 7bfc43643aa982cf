"""The parts of a network as records name them: the groups of its stages, and the kind of each layer and parameter tensor.

A network may say its groups itself: `groups()` returns {group: [prefixes of names]}. Otherwise they are its first children; of a
network with fewer than three of them, those of its children. Knows no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn

from trainable.models._parts import ResidualSum

MOST_GROUPS = 12  # more would be told apart in no figure
_FEWEST_GROUPS = 3
_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.modules.conv._ConvNd,),
    "bn": (nn.modules.batchnorm._BatchNorm,),
    "ln": (nn.LayerNorm, nn.RMSNorm),
    "gn": (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm),
    "relu": (nn.ReLU,),
    "add": (ResidualSum,),
    "pool": (nn.AdaptiveAvgPool2d,),
    "linear": (nn.Linear,),
    "attention": (nn.MultiheadAttention,),
    "embedding": (nn.Embedding,),
}
NORMS = ("bn", "ln", "gn")
PARAMETER_KINDS = ("conv", "bn", "ln", "gn", "linear", "attention", "embedding", "other")


def parameter_kinds(model: nn.Module) -> dict[str, str]:
    """Each trainable parameter's name -> one of PARAMETER_KINDS, in the order of `model.named_parameters()`."""
    return {name: _parameter_kind(model, name) for name, p in model.named_parameters() if p.requires_grad}


def scale_invariant(model: nn.Module) -> set[str]:
    """Names of the weights of convolutions that a norm follows: what they compute does not depend on their length."""
    layers = [(name, module_kind(module)) for name, module in model.named_modules() if not any(module.children())]
    pairs = pairwise(layers)
    return {f"{name}.weight" for (name, kind), (_, after) in pairs if kind == "conv" and after in NORMS}


def module_kind(module: nn.Module) -> str:
    """conv, bn, ln, gn, relu, add, pool, linear, attention or embedding; of any other module the name of its class, in small letters."""
    for kind, types in _KINDS.items():
        if isinstance(module, types):
            return kind
    name = type(module).__name__.lower()[:40]
    return next((kind for kind in ("attention", "embedding") if kind in name), name)


def layer_groups(model: nn.Module, names: list[str]) -> dict[str, str]:
    """The group of each of these parameters or modules, in the order given."""
    prefixes = [(prefix, group) for group, found in _read_groups(model).items() for prefix in found]
    longest = sorted(prefixes, key=lambda pair: -len(pair[0]))
    return {
        name: next((g for prefix, g in longest if f"{name}.".startswith(f"{prefix}.")), name.partition(".")[0])
        for name in names
    }


def _read_groups(model: nn.Module) -> dict[str, list[str]]:
    """Group -> prefixes of names. Errors: ValueError where `groups()` returns something else."""
    declared = getattr(model, "groups", None)
    if not callable(declared):
        return _find_groups(model)
    groups: Any = declared()
    if not isinstance(groups, Mapping) or not all(isinstance(names, (list, tuple)) for names in groups.values()):
        raise ValueError(f"{type(model).__name__}.groups() is not a dict of lists of names of modules")
    return {str(group): [str(name) for name in names] for group, names in groups.items()}


def _find_groups(model: nn.Module) -> dict[str, list[str]]:
    """The children with parameters; a norm, or one without, belongs to that before it, a first one to the next."""
    names = [name for name, _ in model.named_children()]
    for _ in range(4):
        if sum(_has_parameters(model, name) for name in names) >= _FEWEST_GROUPS:
            break
        names = [inner for name in names for inner in _opened(model, name)]
    groups: dict[str, list[str]] = {}
    waiting: list[str] = []
    for name in names:
        is_norm = groups and module_kind(model.get_submodule(name)) in NORMS
        if _has_parameters(model, name) and not is_norm:
            groups[name] = [*waiting, name]
            waiting = []
        elif groups:
            groups[list(groups)[-1]].append(name)
        else:
            waiting.append(name)
    return _folded(groups)


def _folded(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """At most MOST_GROUPS: of more, neighbours are put together."""
    if len(groups) <= MOST_GROUPS:
        return groups
    names = list(groups)
    bounds = [round(part * len(names) / MOST_GROUPS) for part in range(MOST_GROUPS + 1)]
    parts = [names[first:last] for first, last in pairwise(bounds)]
    return {
        part[0] if len(part) == 1 else f"{part[0]} to {part[-1].rpartition('.')[2]}": [
            n for name in part for n in groups[name]
        ]
        for part in parts
    }


def _opened(model: nn.Module, name: str) -> list[str]:
    """The children of a module with parameters that has some, else itself."""
    inner = [child for child, _ in model.get_submodule(name).named_children()] if _has_parameters(model, name) else []
    return [f"{name}.{child}" for child in inner] or [name]


def _has_parameters(model: nn.Module, name: str) -> bool:
    return any(True for _ in model.get_submodule(name).parameters())


def _parameter_kind(model: nn.Module, name: str) -> str:
    owner, _, own_name = name.rpartition(".")
    path = owner.split(".") if owner else []
    if any(
        "Attention" in type(model.get_submodule(".".join(path[:depth]))).__name__ for depth in range(1, len(path) + 1)
    ):
        module = model.get_submodule(owner)
        return kind if (kind := module_kind(module)) in NORMS else "attention"
    kind = module_kind(model.get_submodule(owner))
    if kind in PARAMETER_KINDS:
        return kind
    return "embedding" if any(word in own_name.lower() for word in ("embed", "token", "position", "pos_")) else "other"
