"""Which factors of a grid move together, so that no result of it can tell their effects apart, and what would.

A grid tells the quantities A and B apart if it has two cells with the same A and another B, and two cells with the same B and
another A, and if the two cells of a pair differ in nothing else. Example: the cells (batch size 64, learning rate 0.1), (128, 0.1)
and (64, 0.2) tell batch size and learning rate apart; the cells (64, 0.1) and (128, 0.2) alone do not. What A or B is computed
from may differ: a pair with the same ratio of learning rate and batch size differs in both of them. A batch size implies two more
quantities that could be the real cause of a difference: the learning rate per image of a batch (of AdamW, whose steps do not grow
with the gradient, per its square root: arXiv 2205.10287), and the number of updates. An optimizer is compared as a whole, each
with its own settings: the learning rates of two optimizers mean different things, so they may differ with it. Works on the
configurations alone, before anything has run; knows no study folder.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.records.factors import field_title
from analysis.records.study_json import Cell
from analysis.words import join_words
from trainable.config import FIELDS, TrialConfig, is_model_field

Config = Mapping[str, Any]
_SAME_UPDATES = 0.02  # whole epochs reach an equal number of updates only roughly
_MOST_CELLS = 40  # a larger grid gets no proposal
_MOST_CANDIDATES = 50
_OPTIMIZER_SETTINGS = ("learning_rate", "momentum", "nesterov", "beta2", "weight_decay")
_MOST_EXTRA = 3  # cells searched for exhaustively; more are added one by one


@dataclass(frozen=True)
class Quantity:
    """What may cause a difference: a factor of the grid, or something that follows from factors (`fields`)."""

    name: str
    title: str
    fields: tuple[str, ...]
    measure: Callable[[Config], Any]


@dataclass(frozen=True)
class Confounds:
    """What the grid cannot tell apart. `entangled` holds pairs (a, b) of names: no two cells agree in a and differ in b."""

    quantities: tuple[Quantity, ...]
    together: tuple[tuple[str, ...], ...]  # groups of names of which each decides all the others
    entangled: tuple[tuple[str, str], ...]
    extra_cells: tuple[dict[str, Any], ...]  # complete configurations, without seed
    sentences: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.entangled)


def find_confounds(cells: Sequence[Cell], factors: Sequence[str], num_train: int) -> Confounds:
    """Examine a grid: `factors` are the configuration fields that differ between cells, `num_train` the training images."""
    configs = [cell.config for cell in cells]
    quantities = _quantities(configs, factors, num_train)
    pairs = set(itertools.permutations([q.name for q in quantities], 2)) - _told_apart(configs, quantities)
    entangled = sorted(pair for pair in pairs if not _is_setting(pair))
    extra: list[dict[str, Any]] = []
    if entangled and len(cells) <= _MOST_CELLS:
        extra = _smallest_extension(configs, quantities, factors, num_train, entangled)
    settled = _told_apart([*configs, *extra], quantities) if extra else set()
    together = _groups([q.name for q in quantities], set(entangled))
    titles = {quantity.name: quantity.title for quantity in quantities}
    sentences = tuple(_describe(titles, together, entangled, settled, len(extra)))
    return Confounds(quantities, together, tuple(entangled), tuple(extra), sentences)


def _is_setting(pair: tuple[str, str]) -> bool:
    """Whether the one is a setting of the other, the optimizer."""
    return "optimizer" in pair and any(name in (*_OPTIMIZER_SETTINGS, "ratio") for name in pair)


def _is_part_of_optimizer(configs: Sequence[Config], field: str) -> bool:
    """Whether it is a setting that every optimizer of several has one value of."""
    values = {(config.get("optimizer"), config.get(field)) for config in configs}
    optimizers = {optimizer for optimizer, _ in values}
    return field in _OPTIMIZER_SETTINGS and 1 < len(optimizers) == len(values)


def _settings_of_networks(configs: Sequence[Config]) -> tuple[str, ...]:
    """The hash of a network's code, and the fields that only some of the networks have: they come and go with the network."""
    fields = dict.fromkeys(name for config in configs for name in config if is_model_field(name))
    return ("model_source", *(f for f in fields if any(config.get(f) is None for config in configs)))


def count_updates(config: Config, num_train: int) -> int:
    """Optimiser steps of a whole trial on `num_train` images, last partial batches dropped."""
    limit = config.get("train_limit")
    images: int = min(num_train, limit if limit is not None else num_train) - config.get("validation_size", 0)
    return int(config["epochs"]) * max(images // int(config["batch_size"]), 0)


def _quantities(configs: Sequence[Config], factors: Sequence[str], num_train: int) -> tuple[Quantity, ...]:
    """The quantities that vary over the grid."""
    settings = {"optimizer": _OPTIMIZER_SETTINGS, "model": _settings_of_networks(configs)}
    found = [
        Quantity(f, field_title(f), (f, *settings.get(f, ())), lambda c, f=f: c.get(f))  # type: ignore[misc]
        for f in factors
        if not _is_part_of_optimizer(configs, f) and not ("model" in factors and f in settings["model"])
    ]  # fmt: skip
    if "batch_size" in factors:
        rooted = [config.get("optimizer") == "adamw" for config in configs]
        per = (
            "square root of batch size"
            if all(rooted)
            else "batch size, of AdamW its root"
            if any(rooted)
            else "batch size"
        )
        found.append(Quantity("ratio", f"learning rate / {per}", ("batch_size", "learning_rate"), _scaled_rate))
        updates_from = ("batch_size", "epochs", "train_limit", "validation_size")
        found.append(Quantity("updates", "number of updates", updates_from, lambda c: count_updates(c, num_train)))
    varying = tuple(q for q in found if not agree(configs, q).all())
    return varying if len(varying) > 1 else ()


def _scaled_rate(config: Config) -> float:
    batch_size = config["batch_size"] ** (0.5 if config.get("optimizer") == "adamw" else 1)
    return float(config["learning_rate"] / batch_size)


def agree(configs: Sequence[Config], quantity: Quantity) -> npt.NDArray[np.bool_]:
    """Cells x cells: do they agree in the quantity?"""
    values = [quantity.measure(config) for config in configs]
    if any(isinstance(value, (str, bool)) or value is None for value in values):
        codes = {value: number for number, value in enumerate(dict.fromkeys(values))}
        values = [codes[value] for value in values]
    numbers = np.asarray(values, dtype=np.float64)
    tolerance = _SAME_UPDATES if quantity.name == "updates" else 1e-9
    largest = np.maximum(np.abs(numbers[:, None]), np.abs(numbers[None, :]))
    return np.asarray(np.abs(numbers[:, None] - numbers[None, :]) <= tolerance * largest)


def _clean_pairs(
    configs: Sequence[Config], quantities: Sequence[Quantity]
) -> Iterator[tuple[tuple[str, str], npt.NDArray[np.bool_]]]:
    """For each pair (a, b), cells x cells: do two cells have the same a and another b, and differ in nothing else?

    Fields that a or b is computed from may differ.
    """
    same = {quantity.name: agree(configs, quantity) for quantity in quantities}
    varying = [f for f in configs[0] if len({config[f] for config in configs}) > 1]
    same_field = {f: agree(configs, Quantity(f, f, (f,), lambda c, f=f: c[f])) for f in varying}  # type: ignore[misc]
    for a, b in itertools.permutations(quantities, 2):
        clean = same[a.name] & ~same[b.name]
        for field in varying:
            if field not in a.fields and field not in b.fields:
                clean &= same_field[field]
        yield (a.name, b.name), clean


def _told_apart(configs: Sequence[Config], quantities: Sequence[Quantity]) -> set[tuple[str, str]]:
    return {pair for pair, clean in _clean_pairs(configs, quantities) if clean.any()} if quantities else set()


def _groups(names: Sequence[str], entangled: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Names of which each decides the other, in both directions."""
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if all((name, other) in entangled and (other, name) in entangled for other in group):
                group.append(name)
                break
        else:
            groups.append([name])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _candidates(configs: Sequence[Config], factors: Sequence[str], num_train: int) -> list[dict[str, Any]]:
    """Configurations that may help: other combinations of the levels, equal ratios, and equal numbers of updates."""
    levels = {f: list(dict.fromkeys(config[f] for config in configs)) for f in factors}
    found: list[dict[str, Any]] = []
    for values in itertools.islice(itertools.product(*levels.values()), 10_000):
        found.append({**configs[0], **dict(zip(levels, values, strict=True))})
    for one, other in itertools.permutations(configs, 2):
        rate = float(f"{_scaled_rate(one) * other['learning_rate'] / _scaled_rate(other):.6g}")
        per_epoch = count_updates({**other, "epochs": 1}, num_train)
        epochs = round(count_updates(one, num_train) / per_epoch) if per_epoch else 0
        epochs = min(max(epochs, 1), FIELDS["epochs"].metadata["high"])
        for learning_rate in (rate, one["learning_rate"], other["learning_rate"]):
            found.append({**other, "learning_rate": min(learning_rate, FIELDS["learning_rate"].metadata["high"])})
            found.append({**found[-1], "epochs": epochs})
    known = [dict(config) for config in configs]
    unique: list[dict[str, Any]] = []
    for candidate in sorted(found, key=lambda config: count_updates(config, num_train)):
        if candidate not in known and candidate not in unique and _trains_as_it_says(candidate):
            unique.append(candidate)
        if len(unique) == _MOST_CANDIDATES:
            break
    return unique


def _trains_as_it_says(config: Mapping[str, Any]) -> bool:
    """Whether it is a configuration, none of whose fields is without effect."""
    try:
        return not TrialConfig.from_dict(config).without_effect
    except ValueError:
        return False


def _smallest_extension(
    configs: Sequence[Config],
    quantities: Sequence[Quantity],
    factors: Sequence[str],
    num_train: int,
    entangled: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """The fewest candidates that tell most pairs apart; of equally few, those with the fewest updates to train."""
    candidates = _candidates(configs, factors, num_train)
    cells = [*configs, *candidates]
    gain = np.zeros((len(cells), len(cells)), dtype=np.int64)  # bit k: these two cells tell entangled[k] apart
    for pair, clean in _clean_pairs(cells, quantities):
        if pair in entangled:
            gain |= clean.astype(np.int64) << entangled.index(pair)
    between = gain[len(configs) :, len(configs) :].tolist()
    alone = np.bitwise_or.reduce(gain[len(configs) :, : len(configs)], axis=1).tolist()
    cost = [count_updates(candidate, num_train) for candidate in candidates]

    def reached(chosen: Sequence[int]) -> int:
        pairs = (between[a][b] for a, b in itertools.combinations(chosen, 2))
        return functools.reduce(operator.or_, pairs, functools.reduce(operator.or_, (alone[c] for c in chosen), 0))

    def worth(chosen: Sequence[int]) -> tuple[int, int]:
        return reached(chosen).bit_count(), -sum(cost[c] for c in chosen)

    everything = range(len(candidates))
    best: tuple[int, ...] = ()
    for size in range(1, _MOST_EXTRA + 1):
        found = max(itertools.combinations(everything, size), key=worth, default=best)
        best = found if worth(found)[0] > worth(best)[0] else best
        if reached(best) == reached(everything):
            return [candidates[c] for c in best]
    while reached(best) != reached(everything):
        best = (*best, max((c for c in everything if c not in best), key=lambda c: worth((*best, c))))
    return [candidates[c] for c in best]


def _describe(
    titles: Mapping[str, str],
    together: Sequence[Sequence[str]],
    entangled: Sequence[tuple[str, str]],
    settled: set[tuple[str, str]],
    num_extra: int,
) -> Iterator[str]:
    for group in together:
        names = _listed([titles[name] for name in group])
        yield f"{names} move together: whatever differs between the cells may be the effect of any of them."
    grouped = {pair for group in together for pair in itertools.permutations(group, 2)}
    for held, changed in entangled:
        if (held, changed) not in grouped:
            yield f"No two cells have the same {titles[held]} and differ in {titles[changed]}."
    if num_extra:
        word = "cell" if num_extra == 1 else "cells"
        yield f"{num_extra} more {word} would tell {'them' if settled.issuperset(entangled) else 'most of them'} apart."
    elif entangled:
        yield "No few cells would tell them apart."


def _listed(names: Sequence[str]) -> str:
    text = join_words(names)
    return text[0].upper() + text[1:]
