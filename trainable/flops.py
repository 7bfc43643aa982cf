"""FLOPs of one image per layer, under three conventions that are not interchangeable.

`worksheet` is the published count: 1 per multiply-accumulate (MAC), 2 per batch-norm element, 1 per linear bias, 2 per
output of the average pool. `fvcore` is fvcore's own. `two_per_mac` is torch's FlopCounterMode: convolutions and linear
layers only, forward, and forward and backward without the gradient of the image. Counted once per model, on a copy of
its own; this module must not know about training.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from typing import Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainable.model import NUM_CLASSES, layer_group, module_kind
from trainable.models.resnet import ResNet18
from trainable.records import SCHEMAS, build_table

Convention = Literal["worksheet", "fvcore", "two_per_mac", "two_per_mac_training"]
BYTES_PER_PARAMETER = 4  # fp32
_BYTES_PER_MB = 2**20  # the worksheet's 42.6 MB are MiB


@dataclass(frozen=True)
class LayerFlops:
    """One layer in order of execution; names and units as in the model records."""

    layer: str
    group: str
    kind: str
    input_shape: str
    output_shape: str
    num_parameters: int
    macs: int
    flops_worksheet: int
    flops_fvcore: int
    flops_two_per_mac: int
    flops_two_per_mac_training: int


@dataclass(frozen=True)
class ModelFlops:
    """All layers of the model of one width, and what each convention does not count.

    That is {kind of layer: how often}, and for fvcore also the operators that it reports itself (`aten::...`).
    """

    width: int
    layers: tuple[LayerFlops, ...]
    unsupported_operators: Mapping[str, Mapping[str, int]]

    def total(self, convention: Convention) -> int:
        """FLOPs of one image: the sum over the layers."""
        return sum(getattr(layer, f"flops_{convention}") for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(layer.macs for layer in self.layers)

    @property
    def num_parameters(self) -> int:
        """Trainable elements."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def memory_mb(self) -> float:
        """Parameters in fp32, in MB of 2**20 bytes as the worksheet has them."""
        return self.num_parameters * BYTES_PER_PARAMETER / _BYTES_PER_MB

    @property
    def flops_per_parameter(self) -> float:
        """Published convention, forward pass of one image."""
        return self.total("worksheet") / self.num_parameters


@dataclass(frozen=True)
class _Call:
    """One layer as it was called for one image; shapes with the batch of one."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def count_flops(width: int, num_classes: int = NUM_CLASSES) -> ModelFlops:
    """FLOPs of ResNet18 of this width for one 32x32 image; moves no random stream."""
    with torch.device("meta"):
        model = ResNet18(width, num_classes)
    model.to_empty(device="cpu").eval()  # fvcore traces real tensors; their values do not matter
    image = torch.zeros(1, 3, 32, 32)
    calls = _trace_calls(model, image)
    fvcore_by_layer, fvcore_unsupported = _count_fvcore(model, image)
    model.to("meta")  # the rest follows from shapes
    layers = tuple(_count_layer(call, fvcore_by_layer[call.name], is_first=call is calls[0]) for call in calls)
    unsupported = {name: _uncounted(layers, name) for name in ("worksheet", "fvcore", "two_per_mac")}
    unsupported["fvcore"] |= fvcore_unsupported
    return ModelFlops(width, layers, unsupported)


def model_table(width: int, num_classes: int = NUM_CLASSES) -> pa.Table:
    """The layers as model records; the schema's metadata holds `unsupported_operators` by convention, as JSON."""
    counted = count_flops(width, num_classes)
    rows = [{"width": width, "position": at, **asdict(layer)} for at, layer in enumerate(counted.layers)]
    metadata = {**SCHEMAS["model"].metadata, b"unsupported_operators": json.dumps(counted.unsupported_operators)}
    return build_table("model", rows).replace_schema_metadata(metadata)


def _trace_calls(model: nn.Module, image: Tensor) -> list[_Call]:
    """Every layer in order of execution."""
    calls: list[_Call] = []

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(name, module, tuple(inputs[0].shape), tuple(output.shape)))

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in model.named_modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return calls


def _count_layer(call: _Call, flops_fvcore: int, is_first: bool) -> LayerFlops:
    macs = _count_macs(call)
    return LayerFlops(
        layer=call.name,
        group=layer_group(call.name),
        kind=module_kind(call.module),
        input_shape="x".join(map(str, call.input_shape[1:])),
        output_shape="x".join(map(str, call.output_shape[1:])),
        num_parameters=sum(parameter.numel() for parameter in call.module.parameters()),
        macs=macs,
        flops_worksheet=macs + _count_worksheet_extra(call),
        flops_fvcore=flops_fvcore,
        flops_two_per_mac=_count_torch(call, backward=False),
        flops_two_per_mac_training=_count_torch(call, backward=True, input_gradient=not is_first),
    )


def _count_macs(call: _Call) -> int:
    """One weight times one input each: every element of an output uses all weights that lead to its channel."""
    if isinstance(call.module, nn.Conv2d | nn.Linear):
        return prod(call.output_shape) * prod(call.module.weight.shape[1:])
    return 0


def _count_worksheet_extra(call: _Call) -> int:
    """What the worksheet counts besides multiply-accumulates; ReLU and residual sums are not."""
    kind = module_kind(call.module)
    per_output = {"bn": 2, "pool": 2, "linear": 1}
    return per_output.get(kind, 0) * prod(call.output_shape)


def _count_torch(call: _Call, backward: bool, input_gradient: bool = False) -> int:
    """One layer alone: torch credits parts of a backward pass through a whole model to neighbouring modules."""
    if not isinstance(call.module, nn.Conv2d | nn.Linear):
        return 0
    features = torch.zeros(call.input_shape, device="meta", requires_grad=input_gradient)
    with FlopCounterMode(display=False) as counter:
        output = call.module(features)
        if backward:
            output.sum().backward()
    return int(counter.get_total_flops())


def _count_fvcore(model: nn.Module, image: Tensor) -> tuple[Counter[str], Counter[str]]:
    """FLOPs by module and unsupported operators, both as fvcore gives them."""
    with warnings.catch_warnings():  # fvcore uses tracing and scripting that torch calls deprecated
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis  # here, where its warnings are caught

        analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return analysis.by_module(), analysis.unsupported_ops()


def _uncounted(layers: tuple[LayerFlops, ...], convention: str) -> dict[str, int]:
    """Kinds of layers that a convention passes over, with their number: fvcore, for one, skips ReLU without a word."""
    return dict(Counter(layer.kind for layer in layers if not getattr(layer, f"flops_{convention}")))
