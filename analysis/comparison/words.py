"""The answer of a study in sentences, and how one difference reads: "batch 32 is better than batch 128 by 24 points"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.comparison.best import rank_cells
from analysis.comparison.effects import measure_effects
from analysis.comparison.pairs import compare_primary, find_primary
from analysis.metrics import Metric
from analysis.records.frames import Study
from analysis.results.formats import format_value, with_points
from analysis.statistics import MOST_SEEDS
from analysis.words import join_words

_FEW_SEEDS = 5
_MOST_NAMED = 4
_UNITS = {"loss": " nats", "seconds": " s"}  # of a difference


@dataclass(frozen=True)
class Answer:
    """`verdict` is that of the first sentence (a word for its chip, empty where it has none); the primary metric by its title."""

    metric: str
    verdict: str
    sentences: tuple[str, ...]


def answer(study: Study) -> Answer:
    """What the study says about its primary metric: of two cells their difference, of more the best ones and each factor."""
    metric = find_primary(study)
    if len(study.cells) < 2:
        return Answer(metric.title, "", ("One cell: there is nothing to compare it with.",))
    if len(study.cells) == 2:
        row = compare_primary(study).to_dict("records")
        if not row:
            return Answer(metric.title, "", ("No trial has completed yet.",))
        return Answer(
            metric.title, str(row[0]["verdict"]), (describe_pair(row[0], metric), *_few_seeds([row[0]["seeds"]]))
        )
    ranked = study.derive(rank_cells)
    if not ranked["mean"].notna().any():
        return Answer(metric.title, "", ("No trial has completed yet.",))
    verdict, best = _describe_best(study, ranked, metric)
    return Answer(
        metric.title, verdict, (*best, *_describe_factors(study, metric), *_few_seeds(ranked["seeds"].tolist()))
    )


def describe_pair(row: Mapping[Any, Any], metric: Metric) -> str:
    """One row of `compare_cells`: who is better and by how much, or that it is open and what would settle it."""
    a, b, seeds = str(row["label_a"]), str(row["label_b"]), int(row["seeds"])
    counted = f"{seeds} seed{'' if seeds == 1 else 's'}"
    if row["verdict"] == "different":
        if row["difference"] < 0 < _direction(metric) or _direction(metric) < 0 < row["difference"]:
            a, b = b, a
        how = "better" if metric.better else "higher"
        return f"{a} is {how} than {b} by {_amount(row, metric, absolute=True)}; {counted}."
    if row["verdict"] == "equivalent":
        return f"{a} and {b} are equivalent: they differ by {_amount(row, metric)}, less than the margin of {_number(row['margin'], metric)}; {counted}."
    if pd.isna(row["difference"]):
        return f"{a} and {b} have no seed that both completed."
    more = "" if pd.isna(row["more_seeds"]) else f" {_more(int(row['more_seeds']))} would probably settle it."
    counted = ", ".join(part for part in (counted if seeds > 1 else "", row["reason"]) if part)
    return f"{a} and {b} cannot be told apart: {a} less {b} is {_amount(row, metric)}; {counted}.{more}"


def describe_effect(row: Mapping[Any, Any], metric: Metric) -> str:
    """One main effect: what a factor changes."""
    said = {"different": "", "equivalent": ", less than the margin", "undecided": ", which may be chance"}[
        str(row["verdict"])
    ]
    return f"{str(row['effect']).capitalize()} changes it by {_amount(row, metric, 'value')}{said}."


def _describe_best(study: Study, ranked: pd.DataFrame, metric: Metric) -> tuple[str, list[str]]:
    candidates = ranked[ranked["may_be_best"]]
    worse = ranked[~ranked["may_be_best"] & ranked["mean"].notna()]
    top = ranked.iloc[0]
    mean = _mean(top.to_dict(), metric)
    if len(candidates) == 1:
        following = worse.to_dict("records")[0]
        return "different", [
            f"{top['label']} is the best of {len(ranked)} cells, {mean}; the next is {following['label']}, {_mean(following, metric)}."
        ]
    others = _listed([str(label) for label in candidates["label"] if label != top["label"]])
    lead = f"{top['label']} has the best mean of {len(ranked)} cells, {mean}"
    if worse.empty:
        return "undecided", [f"{lead}, but no cell can be told from the best one yet."]
    verb = "is" if len(worse) == 1 else "are"
    return "undecided", [
        f"{lead}; {others} cannot be told from it. {len(worse)} cell{'' if len(worse) == 1 else 's'} {verb} worse than the best."
    ]


def _mean(cell: Mapping[Any, Any], metric: Metric) -> str:
    unit = " %" if metric.kind == "accuracy" else _UNITS.get(metric.kind, "")
    return format_value(float(cell["mean"]), metric.kind, float(cell["sd"])) + unit


def _describe_factors(study: Study, metric: Metric) -> list[str]:
    """The largest main effect of each factor, one sentence each."""
    effects = study.derive(measure_effects)
    main = effects[effects["primary"].astype(bool) & (effects["kind"] == "main effect") & effects["value"].notna()]
    largest = main.loc[main.groupby("factor", sort=False)["value"].apply(lambda values: values.abs().idxmax())]
    return [describe_effect(row, metric) for row in largest.to_dict("records")]


def _few_seeds(seeds: Sequence[int]) -> list[str]:
    fewest = int(min(seeds))
    if fewest >= _FEW_SEEDS:
        return []
    if not fewest:
        return ["No seed of one of the cells completed: nothing can be said about it."]
    words = {1: "One seed", 2: "Two seeds", 3: "Three seeds", 4: "Four seeds"}[fewest]
    if fewest < 2:
        return [f"{words} of a cell completed: nothing can be said about the luck of the seed."]
    return [f"{words} per cell are few: the spread itself is hardly known, which makes the intervals wide."]


def _amount(row: Mapping[Any, Any], metric: Metric, name: str = "difference", *, absolute: bool = False) -> str:
    """`24 points (95 % interval 8 to 40)`."""
    value, low, high = float(row[name]), float(row["low"]), float(row["high"])
    if absolute:
        value, low, high = abs(value), *sorted((abs(low), abs(high)))
    half = (high - low) / 2
    if not math.isfinite(half):
        return _number(value, metric)
    ends = [_number(end, metric, half, unit=False) for end in (low, high)]
    return f"{_number(value, metric, half)} (95 % interval {ends[0]} to {ends[1]})"


def _number(value: float, metric: Metric, spread: float = math.nan, *, unit: bool = True) -> str:
    scale = 100 if metric.in_percent else 1
    kind = "number" if metric.in_percent else metric.kind
    number = format_value(scale * value, kind, scale * spread)
    if not unit:
        return number
    return with_points(number) if metric.in_percent else number + _UNITS.get(metric.kind, "")


def _more(more: int) -> str:
    return (
        f"{MOST_SEEDS:,} more seeds or even more"
        if more >= MOST_SEEDS
        else f"About {more:,} more seed{'' if more == 1 else 's'}"
    )


def _direction(metric: Metric) -> int:
    return -1 if metric.better == "lower" else 1


def _listed(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_NAMED], *([f"{len(names) - _MOST_NAMED} more"] if len(names) > _MOST_NAMED else [])]
    return join_words(shown)
