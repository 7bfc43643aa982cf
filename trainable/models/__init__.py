"""Networks: a file per family declares its networks, and a user's function is one too. What may be set of it, its signature says.

A network is built by a function of (num_classes, input_shape, **fields), where `input_shape` is (channels, height, width) of an
image. One that has a parameter `width` gets the field of that name. The declaring files import torch: only a configuration with
another network than the published one needs them before it is trained.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from trainable.config import FIELDS, PUBLISHED_MODEL, TrialConfig
from trainable.discovery import discover
from trainable.user_code import check_fields, is_reference, provide, read_sources, resolve, source_hash

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

InputShape = tuple[int, int, int]  # channels, height, width
GIVEN = ("num_classes", "input_shape", "width")


@dataclass(frozen=True, kw_only=True)
class ModelKind:
    """A network that is shipped: `build` is a function as a user's would be."""

    name: str
    meaning: str
    build: Callable[..., nn.Module]


def list_models() -> dict[str, ModelKind]:
    """The shipped networks by name; imports torch."""
    return discover("trainable.models", ModelKind)


def find_builder(model: str) -> Callable[..., Any]:
    """The function that builds a network. Errors: ValueError naming the nearest shipped one, UserCodeError."""
    if is_reference(model):
        return resolve(model)
    known = list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"models are {', '.join(known)}, or package.module:function"
        raise ValueError(f"model={model!r} is not there: {hint}")
    return known[model].build


def complete_config(config: TrialConfig, folders: Sequence[Path] = ()) -> TrialConfig:
    """The configuration with every field of its network, and the hash of the network's source where that is the user's.

    So two that train the same are the same, and another source is another trial. The published network has neither. A module of
    the user's is read from the first of `folders` that has it. Errors: ValueError naming what the network has no field for,
    UserCodeError.
    """
    if config.model == PUBLISHED_MODEL and not config.model_fields:
        return replace(config, model_source="") if config.model_source else config
    if is_reference(config.model):
        provide(read_sources(config.model, folders))
    build = find_builder(config.model)
    fields = check_fields(build, config.model, "model_fields", dict(config.model_fields), GIVEN)
    if "width" not in signature(build).parameters and config.width != FIELDS["width"].default:
        raise ValueError(f"width={config.width}: {config.model} has no parameter width; leave it out")
    source = source_hash(config.model) if is_reference(config.model) else ""
    return replace(config, model_fields=tuple(fields.items()), model_source=source)
