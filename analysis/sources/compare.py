"""Several studies as one: their cells side by side, where the same code trained on the same data.

Results of other data or other code are not comparable, and mixing them is refused with what differs. Works on study
folders alone; the merged study is a study folder like any other, so that every table and figure works on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.comparison.looks import merge_looks
from analysis.records.factors import find_factors
from analysis.records.study_folder import StudyFolder, StudyFolderError, check_schema
from analysis.records.study_json import Cell, StudyInfo
from trainable.errors import first_line
from trainable.fingerprint import training_fingerprint
from trainable.records.tables import SCHEMAS, conform, joined, widened


class StudiesDifferError(StudyFolderError):
    """Studies that cannot be compared; the message says what differs."""


def check_comparable(folders: Sequence[StudyFolder]) -> None:
    """Raise StudiesDifferError unless all studies and their completed trials share data and code."""
    first, *others = [(folder, folder.read_study()) for folder in folders]
    for folder, info in others:
        for what, ours, theirs in (("data", first[1].data, info.data), ("code", first[1].code, info.code)):
            fingerprints = {training_fingerprint(str(part.get("fingerprint"))) for part in (ours, theirs)}
            if len(fingerprints) > 1 or not ours.get("fingerprint"):
                raise StudiesDifferError(
                    f"not comparable: {first[0].path} and {folder.path} do not have the same {what}: "
                    f"{_described(ours)} against {_described(theirs)}"
                )
    for column in ("data_fingerprint", "code_fingerprint"):
        found: dict[str, Path] = {}
        for folder in folders:
            trials = folder.read_records("trials", ["status", column])
            completed = trials.filter(pc.equal(trials["status"], "completed"))
            values = completed[column].unique().to_pylist()
            found |= dict.fromkeys(map(training_fingerprint, values), folder.path)
        if len(found) > 1:
            listed = ", ".join(f"{value} in {path}" for value, path in found.items())
            raise StudiesDifferError(f"not comparable: completed trials do not share their {column}: {listed}")


def merge_studies(folders: Sequence[StudyFolder], to: Path) -> StudyFolder:
    """Write a study with the cells and trials of all `folders` to the empty or new folder `to` and return it.

    A trial that is in several of them is taken from the first that has it completed. Errors: StudiesDifferError,
    StudyFolderError; nothing is written then.
    """
    if len(folders) < 2:
        raise StudyFolderError("compare needs two studies or more")
    target = StudyFolder(to)
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise StudyFolderError(f"{target.path}: is not empty; choose another folder")
    check_comparable(folders)
    study = _merge_info([folder.read_study() for folder in folders])
    trials, owners = _merge_trials(folders)
    for folder in folders:  # everything can be read before anything is written
        for kind in ("epochs", "steps", "layers", "model"):
            if folder.records(kind).exists():
                check_schema(folder.records(kind), kind)
    target.path.mkdir(parents=True, exist_ok=True)
    target.write_records("trials", trials)
    for kind in ("epochs", "steps", "layers"):
        _merge_records(kind, folders, owners, target)
    _merge_models(folders, target)
    for folder in folders:
        if folder.samples.exists() and not target.samples.exists():
            target.samples.write_bytes(folder.samples.read_bytes())
    target.write_study(study)
    return target


def _merge_info(infos: Sequence[StudyInfo]) -> StudyInfo:
    first = infos[0]
    try:
        stopping = merge_looks(infos)
    except ValueError as error:
        raise StudiesDifferError(f"not comparable: {error}") from None
    cells: dict[str, Cell] = {}
    for info in infos:
        for cell in info.cells:
            cells.setdefault(cell.cell_id, cell)
    return StudyInfo(
        name="+".join(dict.fromkeys(info.name for info in infos))[:128],
        title=" and ".join(dict.fromkeys(info.title for info in infos)),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        cells=_tell_apart(list(cells.values()), infos),
        seeds=tuple(dict.fromkeys(seed for info in infos for seed in info.seeds)),
        factors=find_factors(cell.config for cell in cells.values()),
        reductions=tuple(dict.fromkeys(f"{info.name}: {words}" for info in infos for words in info.reductions)),
        equivalence_margin=min(info.equivalence_margin for info in infos),
        primary_metric=first.primary_metric,
        claims=first.claims,
        data=first.data,
        code=first.code,
        environment=first.environment,
        resources=first.resources,
        stopping=stopping,
    )


def _tell_apart(cells: Sequence[Cell], infos: Sequence[StudyInfo]) -> tuple[Cell, ...]:
    """The cells, those of the same label with the study that they are from behind it."""
    counts = Counter(cell.label for cell in cells)
    unique = len({info.name for info in infos}) == len(infos)
    suffixes = [info.name if unique else f"study {number}" for number, info in enumerate(infos, 1)]
    origin = {cell.cell_id: n for info, n in reversed([*zip(infos, suffixes, strict=True)]) for cell in info.cells}
    return tuple(
        replace(cell, label=f"{cell.label} ({origin[cell.cell_id]})") if counts[cell.label] > 1 else cell
        for cell in cells
    )


def _merge_trials(folders: Sequence[StudyFolder]) -> tuple[pa.Table, list[set[str]]]:
    """The rows of all trials, each once, and for each folder the ids of the trials that are taken from it."""
    tables = [_without_search(folder.read_records("trials")) for folder in folders]
    best: dict[str, int] = {}
    statuses = [dict(zip(t["trial_id"].to_pylist(), t["status"].to_pylist(), strict=True)) for t in tables]
    for number, status in enumerate(statuses):
        for trial_id, state in status.items():
            taken = best.get(trial_id)
            if taken is None or (state == "completed" != statuses[taken][trial_id]):
                best[trial_id] = number
    owners = [{trial_id for trial_id, owner in best.items() if owner == number} for number in range(len(folders))]
    parts = [
        table.filter(pc.is_in(table["trial_id"], pa.array(sorted(ids), pa.string())))
        for table, ids in zip(tables, owners, strict=True)
    ]
    return joined(parts), owners


def _without_search(trials: pa.Table) -> pa.Table:
    """The trials of cells: those of a search were never tested, branches are parts of others, and no cell is compared by them."""
    return trials.filter(pc.invert(pc.is_in(trials["role"], pa.array(["search", "branch"]))))


def _merge_records(kind: str, folders: Sequence[StudyFolder], owners: Sequence[set[str]], target: StudyFolder) -> None:
    """Batch by batch: the layer records of large studies do not fit into memory twice."""
    found = [check_schema(f.records(kind), kind) for f in folders if f.records(kind).exists()]
    schema = pa.unify_schemas([SCHEMAS[kind], *(widened(kind, columns) for columns in found)])
    with pq.ParquetWriter(target.records(kind), schema, compression="zstd") as writer:
        for folder, ids in zip(folders, owners, strict=True):
            if not folder.records(kind).exists() or not ids:
                continue
            wanted = pa.array(sorted(ids), pa.string())
            try:
                with pq.ParquetFile(folder.records(kind)) as file:
                    for batch in file.iter_batches():
                        kept = batch.filter(pc.is_in(batch["trial_id"].cast(pa.string()), wanted))
                        if kept.num_rows:
                            writer.write_table(conform(pa.Table.from_batches([kept]), schema))
            except (pa.ArrowException, OSError) as error:
                raise StudyFolderError(f"{folder.records(kind)}: cannot be read ({first_line(error)})") from error


def _merge_models(folders: Sequence[StudyFolder], target: StudyFolder) -> None:
    """The layers of every network once."""
    known: set[tuple[int, str | None]] = set()
    parts = [SCHEMAS["model"].empty_table()]
    for folder in folders:
        model = folder.read_records("model")
        keys = list(zip(model["width"].to_pylist(), model["model"].to_pylist(), strict=True))
        parts.append(model.filter(pa.array([key not in known for key in keys], pa.bool_())))
        known |= set(keys)
    target.write_records("model", joined(parts))


def _described(part: dict[str, Any]) -> str:
    fingerprint = str(part.get("fingerprint"))[:12]
    where = part.get("source") or part.get("commit")
    return f"{fingerprint} ({where})" if where else fingerprint
