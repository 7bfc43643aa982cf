"""How large a study's networks are, for estimates before anything runs: the published one by formula, any other by counting it.

Imports torch for networks other than the published one, which describing those needs anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from trainable.config import PUBLISHED_MODEL, TrialConfig

_WIDTH_64 = (
    11_173_962,
    3_328_997_376,
)  # parameters; FLOPs of an image, forward and backward, two per multiply-accumulate


@dataclass(frozen=True)
class NetworkSize:
    """Parameters, the tensors that they are in, and training FLOPs of one image, two per multiply-accumulate; about."""

    num_parameters: float
    num_tensors: int
    flops_per_image: float


def is_published(config: TrialConfig) -> bool:
    """Whether the network is the published one, which times and sizes are known of."""
    return config.model == PUBLISHED_MODEL


def network_size(config: TrialConfig) -> NetworkSize | None:
    """The size of a configuration's network for images as published; None where a user's takes no such images."""
    if is_published(config):
        parameters, flops = (number * (config.width / 64) ** 2 for number in _WIDTH_64)
        return NetworkSize(parameters, 62, flops)
    return _count(
        TrialConfig(
            model=config.model, model_source=config.model_source, model_fields=config.model_fields, width=config.width
        )
    )


@cache
def _count(config: TrialConfig) -> NetworkSize | None:
    from trainable.measuring.flops import count_model
    from trainable.model import INPUT_SHAPE, NUM_CLASSES, build_network

    try:
        model = build_network(replace(config, seed=0), NUM_CLASSES, INPUT_SHAPE)
        num_tensors = sum(parameter.requires_grad for parameter in model.parameters())
        counted = count_model(model, INPUT_SHAPE)
    except Exception:  # noqa: BLE001 - a user's function may raise anything; whether it fits the study's data is asked when that is read
        return None
    return NetworkSize(counted.num_parameters, num_tensors, counted.total("two_per_mac_training"))
