"""A multilayer perceptron on the pixels."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from torch import nn

from trainable.models import InputShape, ModelKind

_NORMS = {"none": None, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
_UNITS = 8  # of a hidden layer, in units of width: 512 for 64


def build_mlp(
    num_classes: int, input_shape: InputShape, *, width: int = 64, depth: int = 2, norm: str = "none"
) -> nn.Module:
    """`depth` hidden layers of 8 times `width` units with ReLU, behind `norm`: none, batch or layer. Errors: ValueError."""
    if norm not in _NORMS:
        raise ValueError(f"norm={norm!r} is not one of {', '.join(_NORMS)}")
    if depth < 0:
        raise ValueError(f"depth={depth} is not a number of hidden layers")
    model: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = prod(input_shape)
    for number in range(1, depth + 1):
        layer: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(features, _UNITS * width))
        features = _UNITS * width
        if (kind := _NORMS[norm]) is not None:
            layer["norm"] = kind(features)
        layer["relu"] = nn.ReLU(inplace=True)
        model[f"layer{number}"] = nn.Sequential(layer)
    model["fc"] = nn.Linear(features, num_classes)
    return nn.Sequential(model)


MLP = ModelKind(name="mlp", meaning="hidden layers of 8 times width units on the pixels", build=build_mlp)
