"""The [branch] table of a grid file: from which epochs branches begin, and what they train with (arXiv 2505.23971).

    [branch]
    epochs = [2, 6]                    of every cell: its state after them is where branches begin
    batch_sizes = [32, 64, 128, 256]   of the branches; the cell's own is the base that they are compared with
    scaling = ["linear", "sqrt"]       of the learning rate, with the ratio of batch sizes; or one of them, or "none"
    length = 1                         epochs that each branch trains
    images = 4096                      of each of these epochs, so that all see the same ones; without it as many as all batch
                                       sizes divide
    tolerance = 0.02                   nats: a branch whose loss is worse than the base's by more has departed

Every error is a ValueError of one line. Imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from analysis.records.study_json import BRANCH_TOLERANCE
from trainable.config import BranchScaling, TrialConfig

_KEYS = ("epochs", "batch_sizes", "scaling", "length", "images", "tolerance")


@dataclass(frozen=True)
class BranchSpec:
    """What a study branches: see above."""

    epochs: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    scaling: tuple[BranchScaling, ...] = ("linear",)
    length: int = 1
    images: int | None = None
    tolerance: float = BRANCH_TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """As study.json holds it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def parse_branch(content: Any) -> BranchSpec:
    """The [branch] table of a grid file. Errors: ValueError."""
    if not isinstance(content, dict):
        raise ValueError("branch is not a table: write [branch]")
    if unknown := [key for key in content if key not in _KEYS]:
        raise ValueError(f"[branch] unknown key {unknown[0]!r}; keys are {', '.join(_KEYS)}")
    scaling = content.get("scaling", ["linear"])
    scaling = [scaling] if isinstance(scaling, str) else scaling
    if not isinstance(scaling, list) or not scaling or any(rule not in get_args(BranchScaling) for rule in scaling):
        raise ValueError(f"[branch] scaling={scaling!r} is not one or several of {', '.join(get_args(BranchScaling))}")
    tolerance = content.get("tolerance", BRANCH_TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < 100:
        raise ValueError(f"[branch] tolerance={tolerance!r} is not a loss above 0, in nats")
    return BranchSpec(
        epochs=_numbers(content, "epochs"),
        batch_sizes=_numbers(content, "batch_sizes"),
        scaling=tuple(dict.fromkeys(scaling)),
        length=_numbers({"length": [content.get("length", 1)]}, "length")[0],
        images=None if "images" not in content else _numbers({"images": [content["images"]]}, "images")[0],
        tolerance=float(tolerance),
    )


def with_images(spec: BranchSpec, parents: Sequence[TrialConfig], known_images: int | None) -> BranchSpec:
    """The spec with the number of images that every branch of these trials sees of an epoch, checked with all of them.

    `known_images`: of the whole training set. Errors: ValueError.
    """
    sizes = {*spec.batch_sizes, *(parent.batch_size for parent in parents)}
    if spec.images is None:
        unit = math.lcm(*sizes)
        limits = [parent.train_limit or known_images for parent in parents]
        if None in limits:
            raise ValueError("[branch] images is missing: nobody knows how many training images the data set has")
        counts = [min(limit or 0, known_images or math.inf) for limit in limits]
        available = int(min(count - parent.validation_size for count, parent in zip(counts, parents, strict=True)))
        if available < unit:
            raise ValueError(
                f"[branch] no number of images up to {available:,} is a multiple of all batch sizes "
                f"({', '.join(map(str, sorted(sizes)))}): take sizes that divide one another, as powers of 2 do"
            )
        spec = replace(spec, images=available // unit * unit)
    for parent in parents:
        branch_configs(spec, [parent])
    return spec


def branch_configs(spec: BranchSpec, parents: Iterable[TrialConfig]) -> list[TrialConfig]:
    """The branches of these trials, from each epoch the base first. Errors: ValueError where one cannot be."""
    found = []
    for parent in parents:
        for epoch in spec.epochs:
            shared: dict[str, Any] = {"branch_epoch": epoch, "branch_epochs": spec.length, "branch_images": spec.images}
            found.append(replace(parent, **shared, branch_batch_size=parent.batch_size))
            others = [size for size in spec.batch_sizes if size != parent.batch_size]
            found += [
                replace(parent, **shared, branch_batch_size=size, branch_scaling=rule)
                for rule in spec.scaling
                for size in others
            ]
    return found


def _numbers(content: dict[str, Any], key: str) -> tuple[int, ...]:
    values = content.get(key)
    if not isinstance(values, list) or not values:
        raise ValueError(f"[branch] {key} is missing: give a list of whole numbers")
    if wrong := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
        raise ValueError(f"[branch] {key}: {wrong[0]!r} is not a whole number from 1 on")
    return tuple(sorted(set(values)))
