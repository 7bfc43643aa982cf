"""The phases of training and the groups of layers that published ranges are about. Knows no records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

GROUPS = ("stem", "layer1", "layer2", "layer3", "layer4", "fc")  # of residual networks; others have stages of their own
KINDS = ("conv", "bn", "ln", "gn", "linear", "attention", "embedding", "other")
PUBLISHED_NUM_EPOCHS = 25
PUBLISHED_EPOCHS = (1, 5, 10, 15, 20, 25)
PUBLISHED_PHASES: Mapping[str, tuple[int, int]] = {"early": (1, 5), "middle": (10, 20), "late": (20, 25)}


def order_groups(groups: Iterable[str]) -> list[str]:
    """The groups that occur, once each, from the input to the output: those of other networks as they come."""
    found = list(dict.fromkeys(groups))
    return sorted(found, key=GROUPS.index) if set(found) <= set(GROUPS) else found


def merge_orders(networks: Iterable[Iterable[str]]) -> list[str]:
    """The groups or layers of several networks, each given from input to output, in one order that is theirs as far as they agree.

    What only one of them has stands before what follows it there: `block3` of a deep network before `head`.
    """
    merged: list[str] = []
    for names in networks:
        end = len(merged)
        for name in reversed(list(dict.fromkeys(names))):
            if name not in merged:
                merged.insert(end, name)
            end = merged.index(name)
    return merged


def picture_epochs(num_epochs: int) -> list[int]:
    """The epochs that get pictures of their own, as in the published program: 1 and every multiple of 5."""
    return [1, *range(5, num_epochs + 1, 5)]


def shown_epochs(num_epochs: int) -> list[int]:
    """The epochs that are shown side by side: 1, 5, 10, 15, 20, 25 of 25, and as many parts of another number of epochs."""
    return sorted({_scaled(epoch, num_epochs) for epoch in PUBLISHED_EPOCHS})


def scale_phases(num_epochs: int) -> dict[str, tuple[int, int]]:
    """First and last epoch of each phase: as published for 25 epochs, in proportion for another number of them."""
    return {
        name: (_scaled(first, num_epochs), _scaled(last, num_epochs))
        for name, (first, last) in PUBLISHED_PHASES.items()
    }


def first_learning_rate(config: Mapping[str, Any]) -> float:
    """The rate of a configuration's first epoch: a part of its learning rate where it warms up."""
    return float(config["learning_rate"]) / (1 + int(config.get("warmup_epochs", 0)))


def _scaled(epoch: int, num_epochs: int) -> int:
    return max(1, round(epoch * num_epochs / PUBLISHED_NUM_EPOCHS))
