"""Published numbers that tables show beside measured ones, looked up in the study's claims file."""

from __future__ import annotations

import math

from analysis.claims.claim import ClaimSet
from analysis.claims.claims_file import WORKSHEET, load_claims, parse_claims
from analysis.records.frames import Study


def load_study_claims(study: Study) -> ClaimSet:
    """The published claims that the study is held against, read once. Errors: ClaimsError."""
    return study.derive(_read_claims)


def _read_claims(study: Study) -> ClaimSet:
    """Those of `--claims`, else those that the study names; one of before that was said is held against the worksheet if it
    has published numbers."""
    if study.claims_file is not None:
        return load_claims(study.claims_file)
    named = study.info.claims
    if named is None:
        named = WORKSHEET if any(cell.published for cell in study.info.cells) else ""
    if not named:
        return ClaimSet("No published claims", "", ())
    return load_claims() if named == WORKSHEET else parse_claims(named.encode(), f"{study.folder.study_json}: claims")


def list_epoch_values(study: Study, column: str) -> dict[tuple[str, int], float]:
    """The published values of a column of epochs, by cell and epoch, for cells with the published number of epochs.

    Those of the metrics that are a value of the first or of the last epoch are among them.
    """
    found = {}
    for claim in load_study_claims(study).claims:
        query, value = claim.query, claim.expect.value
        of_last = query.kind == "metric" and query["metric"] == f"final_{column}"
        of_first = query.kind == "metric" and query["metric"] == f"epoch1_{column}"
        of_epoch = query.kind == "epoch" and query["column"] == column
        if value is None or not (of_epoch or of_first or of_last):
            continue
        for cell in study.info.cells:
            wanted = {**claim.query["cell"], "epochs": claim.needs.get("epochs", cell.config["epochs"])}
            if all(cell.config.get(field) == setting for field, setting in wanted.items()):
                epoch = cell.config["epochs"] if of_last else 1 if of_first else query["epoch"]
                found[cell.cell_id, epoch] = value
    return found


def find_layer_range(study: Study, column: str, group: str, epochs: tuple[int, int] | None) -> tuple[float, float]:
    """The published range of a layer measurement for a group in a phase (None: whole training); NaN where there is none."""
    for claim in load_study_claims(study).claims:
        query = claim.query
        if query.kind == "layers" and query["column"] == column and query["statistic"] in ("median", "mean"):
            in_group = query["groups"] is None or group in query["groups"]
            if in_group and query["kinds"] is None and query["epochs"] == epochs and math.isfinite(claim.expect.high):
                return claim.expect.low, claim.expect.high
    return math.nan, math.nan


def find_order(study: Study, column: str) -> tuple[str, ...]:
    """The published order of groups by a layer measurement, largest first; empty where there is none."""
    for claim in load_study_claims(study).claims:
        if claim.query.kind == "layers_order" and claim.query["column"] == column:
            return tuple(claim.query["groups"])
    return ()


def find_model_value(study: Study, quantity: str, width: int, layer: str | None = None) -> float:
    """The published number of a model or of one of its layers; NaN where there is none."""
    for claim in load_study_claims(study).claims:
        query = claim.query
        if query.kind == "model" and (query["quantity"], query["width"], query["layer"]) == (quantity, width, layer):
            return math.nan if claim.expect.value is None else claim.expect.value
    return math.nan
