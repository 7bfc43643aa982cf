"""Published claims held against a study: a verdict for each, with what was measured and why.

The verdict of a claim that the study can test rests on the 95 % t interval over seeds and the claimed region (published
value and tolerance, or range):

    reproduced       the mean lies in the region, and the interval is no wider than it; of an open region, all of it inside
    not reproduced   the mean lies outside it, but the interval reaches into it
    contradicted     the whole interval lies outside
    undetermined     the interval is too wide to say; or the study cannot test the claim: cells or seeds are missing, it is
                     reduced, its data are another copy

Where conditions of the claim are not met, `as_measured` is the verdict that what was measured would get if they were.

Two groups stand in an order if the 95 % interval of their difference, paired by seed, has it so. A claimed order is
reproduced if all pairs stand in it, contradicted if half of them or more stand the other way round, not reproduced if some
do; undetermined if none does, but some cannot be told apart. A claimed direction is reproduced only if the whole interval
agrees, contradicted if the whole interval disagrees, and not reproduced if the interval shows no difference larger than the
study's margin. A bound on an extreme ("every layer", "all weights") is refuted by a single counterexample. A law
about many cells is judged by the cell that is farthest from it. One seed, where the claim allows it, and quantities without
spread are judged by their value alone: contradicted is then farther from the region than half its width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.claims.claim import Claim, Expectation
from analysis.claims.measures import Measurement, Measurements, claim_kinds, unmet_config
from analysis.claims.published import load_study_claims
from analysis.records.frames import Study
from analysis.records.study_json import Cell
from analysis.results.formats import with_points
from analysis.results.result_table import ColumnKind
from analysis.statistics import mean_interval

Verdict = Literal["reproduced", "not reproduced", "contradicted", "undetermined"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "contradicted", "undetermined")
FAILED: tuple[Verdict, ...] = ("not reproduced", "contradicted")
LOSS = "cross-entropy"  # of every trial


@dataclass(frozen=True)
class CheckedClaim:
    """A claim with its verdict; `value`, `low` and `high` are in the claim's own unit, NaN where there is none."""

    claim: Claim
    verdict: Verdict
    reason: str
    value: float
    low: float
    high: float
    num_seeds: int
    as_measured: Verdict
    order: tuple[str, ...] = ()

    @property
    def kind(self) -> ColumnKind:
        """How the value is written."""
        return claim_kinds()[self.claim.query.kind].unit(self.claim.query)


def check_claims(study: Study) -> list[CheckedClaim]:
    """Every claim of the study's claims file, checked, in the order of the file. Errors: ClaimsError."""
    claims = load_study_claims(study).claims
    measurements = Measurements(study, claims)
    return [_check(study, claim, measurements.measure(claim)) for claim in claims]


def count_verdicts(checked: Iterable[CheckedClaim]) -> dict[Verdict, int]:
    """How many claims have each verdict."""
    verdicts = [claim.verdict for claim in checked]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def _check(study: Study, claim: Claim, found: Measurement) -> CheckedClaim:
    value, low, high = _estimate(found, claim)
    shown = [10**x if found.is_log else x for x in (value, low, high)]
    as_measured, reason = _judge(claim, found, (value, low, high), study.info.equivalence_margin)
    verdict = as_measured
    if obstacles := _obstacles(study, claim, found):
        verdict, reason = "undetermined", "; ".join(obstacles)
    reason = "; ".join(part for part in (reason, found.note) if part)
    return CheckedClaim(claim, verdict, reason, shown[0], shown[1], shown[2], found.num_seeds, as_measured, found.order)


def _estimate(found: Measurement, claim: Claim) -> tuple[float, float, float]:
    if len(found.values) == 0:
        return math.nan, math.nan, math.nan
    if found.is_extreme:
        worst = np.min if claim.query["statistic"] == "min" else np.max
        return float(worst(found.values)), math.nan, math.nan
    if found.is_exact or found.order:
        return float(found.values[0]), math.nan, math.nan
    if found.interval is not None:
        return float(np.mean(found.values)), *found.interval
    return mean_interval(found.values)


def _obstacles(study: Study, claim: Claim, found: Measurement) -> list[str]:
    """Why the study cannot test the claim; empty if it can."""
    reasons, count = [found.obstacle] if found.obstacle else [], found.num_seeds
    if found.is_exact or not found.cells:
        return reasons
    reasons = [*_unmet_needs(study, claim, found), *reasons]
    if count == 0:
        completed = study.trials["trial_id"].isin(study.completed_ids)
        of_cells = study.trials["cell_id"].isin([cell.cell_id for cell in found.cells])
        reasons.append("not measured in this study" if (completed & of_cells).any() else "no completed trial")
    elif count < claim.min_seeds:
        reasons.append(f"too few seeds: {count} completed, the claim needs {claim.min_seeds}")
    return reasons


def _unmet_needs(study: Study, claim: Claim, found: Measurement) -> list[str]:
    needs, data = claim.needs, study.info.data
    selectors = claim.query.selectors or [{}] * len(found.cells)
    problems = [unmet_config(cell, needs, selector) for cell, selector in zip(found.cells, selectors, strict=True)]
    config = list(dict.fromkeys(problem for of_cell in problems for problem in of_cell))
    reasons = [f"reduced or other run: {', '.join(config)}"] if config else []
    if needs.get("loss", LOSS) != LOSS:
        reasons.append(f"other loss: {LOSS}, the claim is about {needs['loss']}")
    if data.get("dataset") != needs.get("dataset", data.get("dataset")):
        return reasons
    return [*reasons, *_unmet_data(data, needs, found.cells), *_unmet_hardware(study, needs, found.cells)]


def _unmet_data(data: Mapping[str, Any], needs: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    reasons = []
    if not str(data.get("source", "")).startswith(needs.get("data_source", "")):
        reasons.append(f"other data copy: {data.get('source')}, the claim needs {needs['data_source']}")
    if needs.get("data_fingerprint") not in (None, data.get("fingerprint")):
        reasons.append("other data copy: its fingerprint is not the one the claim needs")
    limits = [cell.config.get(limit) for cell in cells for limit in ("train_limit", "test_limit")]
    if needs.get("complete_data") and any(limit is not None for limit in limits):
        reasons.append("reduced run: a part of the images")
    return reasons


def _unmet_hardware(study: Study, needs: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    wanted = needs.get("hardware")
    trials = study.trials[study.trials["cell_id"].isin([cell.cell_id for cell in cells])]
    names = sorted(set(trials["hardware"].dropna()))
    if wanted is None or (names and all(wanted in name for name in names)):
        return []
    return [f"other hardware: {', '.join(names) or 'unknown'}, the claim is about {wanted}"]


def _judge(
    claim: Claim, found: Measurement, estimate: tuple[float, float, float], margin: float
) -> tuple[Verdict, str]:
    """The verdict on what was measured, and what there is to say about it."""
    value, low, high = estimate
    if math.isnan(value):
        return "undetermined", "not measured in this study"
    if found.order:
        return _judge_order(found.pairs, value)
    expect = claim.expect
    start, end = _region(expect, found.is_log)
    if expect.strict:
        return _judge_direction(
            low, high, start, end, margin if claim_kinds()[claim.query.kind].unit(claim.query) == "points" else 0.0
        )
    if math.isnan(low):
        return _judge_value(value, start, end, is_certain=found.is_exact or found.is_extreme)
    return _judge_interval(value, low, high, start, end)


def _judge_value(value: float, start: float, end: float, *, is_certain: bool) -> tuple[Verdict, str]:
    """Without an interval: an exact quantity or an extreme decides; one seed contradicts from half the region's width away."""
    reason = "" if is_certain else "one seed: no interval"
    if start <= value <= end:
        return "reproduced", reason
    far = max(start - value, value - end) > (end - start) / 2
    return ("contradicted" if is_certain or far else "not reproduced"), reason


def _judge_interval(value: float, low: float, high: float, start: float, end: float) -> tuple[Verdict, str]:
    """By the interval `low` to `high` of the mean `value` and the claimed region `start` to `end`."""
    if high < start or low > end:
        return "contradicted", ""
    half = (end - start) / 2
    if (high - low) / 2 > (half if math.isfinite(half) else 0.0) and not (start <= low and high <= end):
        return "undetermined", "the interval is wider than the claimed region: more seeds"
    return ("reproduced" if start <= value <= end else "not reproduced"), ""


def _judge_order(intervals: np.ndarray, share: float) -> tuple[Verdict, str]:
    """From the intervals of the differences of all pairs of groups, each in the claimed order."""
    right, wrong = int((intervals[:, 0] > 0).sum()), int((intervals[:, 1] < 0).sum())
    unclear = len(intervals) - right - wrong
    reason = f"{share:.0%} of the pairs of groups stand in the claimed order"
    if unclear:
        reason += f"; the seeds do not tell {unclear} of {len(intervals)} apart: more seeds"
    if wrong:
        return ("contradicted" if 2 * wrong >= len(intervals) else "not reproduced"), reason
    return ("undetermined" if unclear else "reproduced"), reason


def _judge_direction(low: float, high: float, start: float, end: float, margin: float) -> tuple[Verdict, str]:
    if math.isnan(low):
        return "undetermined", "one seed: no interval, so no direction"
    if low > start and high < end:
        return "reproduced", ""
    if high < start or low > end:
        return "contradicted", ""
    if margin and -margin < low and high < margin:
        return "not reproduced", f"no difference larger than {with_points(f'{100 * margin:g}')}"
    return "undetermined", "the interval includes no difference: more seeds"


def _region(expect: Expectation, is_log: bool) -> tuple[float, float]:
    """The claimed region on the scale of the measurement; a direction of a ratio is about 1, of a difference about 0."""
    if not is_log or expect.strict:
        return expect.low, expect.high
    return tuple(math.log10(x) if x > 0 else -math.inf for x in (expect.low, expect.high))  # type: ignore[return-value]
