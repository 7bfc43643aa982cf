"""The ResNet18 of the worksheet as plain arithmetic: its modules, their shapes and FLOPs, and its 62 parameter tensors.

Independent of the real model and of torch, so that tests of the analysis have a second source for the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Module:
    """One module in order of execution; shapes are channels x height x width."""

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    num_parameters: int
    macs: int = 0
    is_first: bool = False  # needs no gradient with respect to its input

    @property
    def group(self) -> str:
        first = self.name.split(".")[0]
        if first in ("fc", "avgpool"):
            return "fc"
        return first if first.startswith("layer") else "stem"

    def row(self, width: int, position: int) -> dict[str, object]:
        """A row of model.parquet."""
        elements = math.prod(self.output_shape)
        extra = {"bn": 2 * elements, "pool": 2 * elements, "linear": elements}.get(self.kind, 0)
        fvcore = {"bn": 2 * elements, "pool": math.prod(self.input_shape)}.get(self.kind, 0)
        return {
            "width": width,
            "position": position,
            "layer": self.name,
            "group": self.group,
            "kind": self.kind,
            "input_shape": "x".join(map(str, self.input_shape)),
            "output_shape": "x".join(map(str, self.output_shape)),
            "num_parameters": self.num_parameters,
            "macs": self.macs,
            "flops_worksheet": self.macs + extra,
            "flops_fvcore": self.macs + fvcore,
            "flops_two_per_mac": 2 * self.macs,
            "flops_two_per_mac_training": (4 if self.is_first else 6) * self.macs,
        }


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor as the layer records name it."""

    name: str
    group: str
    kind: str
    num_elements: int


def modules(width: int = 64) -> list[Module]:
    """Every module of the ResNet18 for 32x32 images, in order of execution."""
    stem: Shape = (width, 32, 32)
    found = [
        _conv("conv1", (3, 32, 32), stem, 3, is_first=True),
        _bn("bn1", stem),
        Module("relu", "relu", stem, stem, 0),
    ]
    shape = stem
    for stage in range(1, 5):
        for block in range(2):
            size = shape[1] // 2 if stage > 1 and block == 0 else shape[1]
            out: Shape = (width * 2 ** (stage - 1), size, size)
            found.extend(_block(f"layer{stage}.{block}", shape, out))
            shape = out
    pooled: Shape = (shape[0], 1, 1)
    found.append(Module("avgpool", "pool", shape, pooled, 0))
    found.append(Module("fc", "linear", pooled, (10, 1, 1), 10 * shape[0] + 10, 10 * shape[0]))
    return found


def parameters(width: int = 64) -> list[Parameter]:
    """The 62 parameter tensors."""
    found: list[Parameter] = []
    for module in modules(width):
        if module.kind == "conv":
            sizes = {"weight": module.num_parameters}
        elif module.kind == "bn":
            sizes = {"weight": module.num_parameters // 2, "bias": module.num_parameters // 2}
        elif module.kind == "linear":
            sizes = {"weight": module.num_parameters - 10, "bias": 10}
        else:
            continue
        found.extend(Parameter(f"{module.name}.{n}", module.group, module.kind, size) for n, size in sizes.items())
    return found


def _block(name: str, shape: Shape, out: Shape) -> Iterator[Module]:
    yield _conv(f"{name}.conv1", shape, out, 3)
    yield _bn(f"{name}.bn1", out)
    yield Module(f"{name}.relu1", "relu", out, out, 0)
    yield _conv(f"{name}.conv2", out, out, 3)
    yield _bn(f"{name}.bn2", out)
    if shape != out:
        yield _conv(f"{name}.downsample.0", shape, out, 1)
        yield _bn(f"{name}.downsample.1", out)
    yield Module(f"{name}.add", "add", out, out, 0)
    yield Module(f"{name}.relu2", "relu", out, out, 0)


def _conv(name: str, shape: Shape, out: Shape, kernel: int, is_first: bool = False) -> Module:
    size = shape[0] * out[0] * kernel * kernel
    return Module(name, "conv", shape, out, size, size * out[1] * out[2], is_first)


def _bn(name: str, shape: Shape) -> Module:
    return Module(name, "bn", shape, shape, 2 * shape[0])
