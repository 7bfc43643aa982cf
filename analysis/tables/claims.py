"""The table `claims`: every published claim, what was measured of it, and the verdict."""

from __future__ import annotations

import math

import pandas as pd

from analysis.claims.measures import claim_kinds
from analysis.claims.published import load_study_claims
from analysis.claims.verdicts import CheckedClaim, check_claims, count_verdicts
from analysis.records.frames import Study
from analysis.results.formats import format_value
from analysis.results.result_table import ColumnKind, TableColumn, TableContent, TableKind


def build_claims(study: Study) -> TableContent:
    """The table `claims`."""
    checked = check_claims(study)
    frame = pd.DataFrame(
        {
            "id": [c.claim.id for c in checked], "section": [c.claim.section for c in checked],
            "statement": [c.claim.statement for c in checked], "verdict": [c.verdict for c in checked],
            "published": [_expected_text(c) for c in checked],
            "measured": [_measured_text(c) for c in checked], "seeds": [c.num_seeds for c in checked],
            "as_measured": [c.as_measured if c.as_measured != c.verdict else None for c in checked],
            "reason": [_reason(c) for c in checked],
            "published_value": [c.claim.expect.value for c in checked],
            "region_low": [c.claim.expect.low for c in checked], "region_high": [c.claim.expect.high for c in checked],
            "value": [c.value for c in checked], "low": [c.low for c in checked], "high": [c.high for c in checked],
        }
    )  # fmt: skip
    frame["published_value"] = frame["published_value"].astype("float64")
    has_unmet = frame["as_measured"].notna().any()
    as_measured = [TableColumn("as_measured", "as measured")] if has_unmet else []
    columns = (
        TableColumn("id", "claim"), TableColumn("statement", "statement"), TableColumn("published", "published"),
        TableColumn("measured", "measured [95 %]"), TableColumn("seeds", "seeds", "count"), TableColumn("verdict", "verdict"),
        *as_measured, TableColumn("reason", "reason"), TableColumn("section", "section"),
    )  # fmt: skip
    counts = ", ".join(f"{number} {verdict}" for verdict, number in count_verdicts(checked).items())
    notes = [
        f"{load_study_claims(study).title}: {counts}.",
        "reproduced: the mean over seeds lies in the published region. not reproduced: it does not, but its 95 % interval "
        "reaches into it. contradicted: the whole interval lies outside. undetermined: the study cannot tell, see the reason.",
    ]
    if has_unmet:
        notes.append("as measured: what the verdict would be if the conditions that the reason names were met.")
    return TableContent(frame, columns, tuple(notes))


def _reason(checked: CheckedClaim) -> str:
    reading = f"{checked.claim.source}: {checked.claim.reading}" if checked.claim.source else ""
    return "; ".join(part for part in (checked.reason, reading) if part)


def _expected_text(checked: CheckedClaim) -> str:
    expect, kind = checked.claim.expect, checked.kind
    if expect.order:
        return "in this order"
    if expect.strict:
        return claim_kinds()[checked.claim.query.kind].directions[expect.low != 0]
    if expect.value is not None:
        tolerance = expect.high - expect.value
        return f"{format_value(expect.value, kind)} ± {format_value(tolerance, kind)}{_unit(kind)}"
    low, high = format_value(expect.low, kind), format_value(expect.high, kind)
    if math.isinf(expect.low):
        return f"at most {high}{_unit(kind)}"
    return f"at least {low}{_unit(kind)}" if math.isinf(expect.high) else f"{low} to {high}{_unit(kind)}"


def _measured_text(checked: CheckedClaim) -> str:
    if checked.order:
        return " > ".join(checked.order)
    if math.isnan(checked.value):
        return "-"
    width = (checked.high - checked.low) / 2
    text = format_value(checked.value, checked.kind, width) + _unit(checked.kind)
    if math.isnan(width) or width <= 1e-9 * abs(checked.value):
        return text
    ends = (format_value(end, checked.kind, width) for end in (checked.low, checked.high))
    return f"{text} [{', '.join(ends)}]"


def _unit(kind: ColumnKind) -> str:
    return {"accuracy": " %", "points": " points", "percent": " %", "seconds": " s"}.get(kind, "")


TABLE = TableKind(
    name="claims", section="claims", position=10, title="Published claims", build=build_claims,
    applies=lambda study: bool(load_study_claims(study).claims),
)  # fmt: skip
