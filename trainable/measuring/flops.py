"""FLOPs of one image per layer, under three conventions that are not interchangeable.

`worksheet` is the published count: 1 per multiply-accumulate (MAC), 2 per batch-norm element, 1 per linear bias, 2 per
output of the average pool; it is not defined for a network that has other layers. `fvcore` is fvcore's own, where that can
trace the network. `two_per_mac` is torch's FlopCounterMode: products of matrices, forward, and forward and backward without the
gradient of the image. Counted once per model, on a copy of its own; this module must not know about training.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainable.config import TrialConfig, model_name
from trainable.measuring.parts import layer_groups, module_kind
from trainable.model import INPUT_SHAPE, NUM_CLASSES, build_network
from trainable.models import InputShape
from trainable.records.tables import SCHEMAS, build_table

Convention = Literal["worksheet", "fvcore", "two_per_mac", "two_per_mac_training"]
_WORKSHEET_KINDS = ("conv", "bn", "relu", "add", "pool", "linear")


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
    flops_worksheet: int | None
    flops_fvcore: int | None
    flops_two_per_mac: int
    flops_two_per_mac_training: int


@dataclass(frozen=True)
class ModelFlops:
    """All layers of one model, and what each convention does not count.

    That is {kind of layer: how often}, and for fvcore also the operators that it reports itself (`aten::...`).
    """

    layers: tuple[LayerFlops, ...]
    unsupported_operators: Mapping[str, Mapping[str, int]]

    def total(self, convention: Convention) -> int:
        """FLOPs of one image: the sum over the layers."""
        return sum(getattr(layer, f"flops_{convention}") or 0 for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(layer.macs for layer in self.layers)

    @property
    def num_parameters(self) -> int:
        """Trainable elements."""
        return sum(layer.num_parameters for layer in self.layers)


@dataclass(frozen=True)
class _Call:
    """One layer as it was called for one image; shapes with the batch of one.

    Of a module with others inside it is what they leave over: `flops` as torch and as fvcore count it, and parameters.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    num_parameters: int = 0
    flops_torch: int = 0
    flops_fvcore: int | None = None

    @property
    def is_counted_exactly(self) -> bool:
        """Whether it multiplies one weight with one input each, so that shapes say everything."""
        return isinstance(self.module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)


def count_model(model: nn.Module, input_shape: InputShape) -> ModelFlops:
    """FLOPs of a network for one image; the network is of no use afterwards."""
    calls, fvcore_unsupported = _trace_calls(model.eval(), torch.zeros(1, *input_shape))
    groups = layer_groups(model, [call.name for call in calls])
    in_worksheet = all(module_kind(call.module) in _WORKSHEET_KINDS for call in calls)
    model.to("meta")  # the rest follows from shapes
    layers = tuple(_count_layer(call, groups[call.name], call is calls[0], in_worksheet) for call in calls)
    unsupported: dict[str, Mapping[str, int]] = {
        name: _uncounted(layers, name) for name in ("worksheet", "fvcore", "two_per_mac")
    }
    unsupported["fvcore"] = {**unsupported["fvcore"], **fvcore_unsupported}
    return ModelFlops(layers, unsupported)


def model_table(config: TrialConfig, num_classes: int = NUM_CLASSES, input_shape: InputShape = INPUT_SHAPE) -> pa.Table:
    """The layers of a configuration's network as model records; moves no random stream.

    The schema's metadata holds `unsupported_operators` by convention, as JSON.
    """
    counted = count_model(build_network(config, num_classes, input_shape), input_shape)
    own = {"width": config.width, "model": model_name(config.to_dict())}
    rows = [{**own, "position": at, **asdict(layer)} for at, layer in enumerate(counted.layers)]
    metadata = {**SCHEMAS["model"].metadata, b"unsupported_operators": json.dumps(counted.unsupported_operators)}
    return build_table("model", rows).replace_schema_metadata(metadata)


def _trace_calls(model: nn.Module, image: Tensor) -> tuple[list[_Call], Counter[str]]:
    """Every layer in order of execution, as often as it is called, and the operators that fvcore does not support.

    Those are the modules without others inside, and what other modules compute or hold besides those inside them.
    """
    calls: list[_Call] = []

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(_Call(name, module, _shape(inputs), _shape(output)))

    handles = [module.register_forward_hook(partial(note, name)) for name, module in model.named_modules()]
    with torch.no_grad(), _countable_attention(), FlopCounterMode(display=False) as counter:
        model(image)
    for handle in handles:
        handle.remove()
    root = f"{type(model).__name__}."
    by_torch = {str(name).removeprefix(root): sum(found.values()) for name, found in counter.get_flop_counts().items()}
    by_torch[""] = counter.get_total_flops()
    by_fvcore, unsupported = _count_fvcore(model, image)
    return list(_own_parts(model, calls, by_torch, by_fvcore)), unsupported


def _own_parts(
    model: nn.Module, calls: list[_Call], by_torch: Mapping[str, int], by_fvcore: Mapping[str, int] | None
) -> Iterator[_Call]:
    """The calls with what is their own; those of modules that leave nothing to do for themselves are left out."""
    counted: set[Tensor] = set()
    seen: set[str] = set()
    for call in calls:
        own = [parameter for parameter in call.module.parameters() if parameter not in counted]
        counted.update(own)
        first = call.name not in seen
        seen.add(call.name)
        flops = _less_children(model, call.name, by_torch) if first else 0
        if any(call.module.children()) and not own and not flops:
            continue
        yield replace(
            call, num_parameters=sum(parameter.numel() for parameter in own), flops_torch=flops,
            name=call.name or type(model).__name__,
            flops_fvcore=None if by_fvcore is None else _less_children(model, call.name, by_fvcore) if first else 0,
        )  # fmt: skip


def _less_children(model: nn.Module, name: str, counts: Mapping[str, int]) -> int:
    """A module's count without those of the modules inside it."""
    return max(0, counts.get(name, 0) - _count_children(model, name, counts))


def _count_children(model: nn.Module, name: str, counts: Mapping[str, int]) -> int:
    """What the modules right inside one count; those of a list of modules, which is never called itself, for the list."""
    inside = [f"{name}.{child}".removeprefix(".") for child, _ in model.get_submodule(name).named_children()]
    return sum(counts.get(child) or _count_children(model, child, counts) for child in inside)


def _shape(values: Any) -> tuple[int, ...]:
    """The shape of the first tensor of a module's arguments or results."""
    first = next(iter(values), None) if isinstance(values, (tuple, list)) else values
    return tuple(first.shape) if isinstance(first, Tensor) else ()


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Within it attention is made of products that torch counts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _count_layer(call: _Call, group: str, is_first: bool, in_worksheet: bool) -> LayerFlops:
    macs = _count_macs(call)
    exact = call.is_counted_exactly
    return LayerFlops(
        layer=call.name,
        group=group,
        kind=module_kind(call.module),
        input_shape="x".join(map(str, call.input_shape[1:])),
        output_shape="x".join(map(str, call.output_shape[1:])),
        num_parameters=call.num_parameters,
        macs=macs,
        flops_worksheet=macs + _count_worksheet_extra(call) if in_worksheet else None,
        flops_fvcore=call.flops_fvcore,
        flops_two_per_mac=_count_torch(call, backward=False) if exact else call.flops_torch,
        flops_two_per_mac_training=_count_torch(call, backward=True, input_gradient=not is_first)
        if exact
        else 3 * call.flops_torch,  # each of the two factors of a product has a gradient
    )


def _count_macs(call: _Call) -> int:
    """One weight times one input each: every element of an output uses all weights that lead to its channel."""
    if isinstance(call.module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        return prod(call.output_shape) * prod(call.module.weight.shape[1:])
    return call.flops_torch // 2


def _count_worksheet_extra(call: _Call) -> int:
    """What the worksheet counts besides multiply-accumulates; ReLU and residual sums are not."""
    kind = module_kind(call.module)
    per_output = {"bn": 2, "pool": 2, "linear": 1}
    return per_output.get(kind, 0) * prod(call.output_shape)


def _count_torch(call: _Call, backward: bool, input_gradient: bool = False) -> int:
    """One layer alone: torch credits parts of a backward pass through a whole model to neighbouring modules."""
    features = torch.zeros(call.input_shape, device="meta", requires_grad=input_gradient)
    with FlopCounterMode(display=False) as counter:
        output = call.module(features)
        if backward:
            output.sum().backward()
    return int(counter.get_total_flops())


def _count_fvcore(model: nn.Module, image: Tensor) -> tuple[Mapping[str, int] | None, Counter[str]]:
    """FLOPs by module and unsupported operators, both as fvcore gives them; None where it cannot trace the model."""
    with warnings.catch_warnings():  # fvcore uses tracing and scripting that torch calls deprecated
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis  # here, where its warnings are caught

        analysis = FlopCountAnalysis(model, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        try:
            return analysis.by_module(), analysis.unsupported_ops()
        except Exception:  # noqa: BLE001 - a user's network may do anything, and tracing it raise anything
            return None, Counter({"not traceable": 1})


def _uncounted(layers: tuple[LayerFlops, ...], convention: str) -> dict[str, int]:
    """Kinds of layers that a convention passes over, with their number: fvcore, for one, skips ReLU without a word."""
    return dict(Counter(layer.kind for layer in layers if not getattr(layer, f"flops_{convention}")))
