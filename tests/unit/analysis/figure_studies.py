"""Small study folders for the tests of figures and report, and their records as plain rows for oracles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolder
from analysis.records.study_json import Cell
from tests.support.studies import build_cell, paper_cells, write_synthetic_study
from trainable.records.tables import SCHEMAS

HOSTILE = '<script>window.hacked = 1</script>"\'&amp;<img src=x onerror="window.hacked = 1"> $\\frac{1}{$ =1+1 \N{RIGHT-TO-LEFT OVERRIDE}'


def small_cells(epochs: int = 4) -> list[Cell]:
    """The two published experiments with few steps: 20 and 10 per epoch on 1,280 images, layers measured every 8."""
    return paper_cells(dataset="synthetic", epochs=epochs, instrument_every_steps=8, log_every_steps=4)


def write_small_study(path: Path, *, epochs: int = 4, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Study:
    """A study of `small_cells`, loaded."""
    options.setdefault("cells", small_cells(epochs))
    return load_study(write_synthetic_study(path, seeds=seeds, num_train=1_280, **options))


def write_hostile_study(path: Path, **options: Any) -> Study:
    """A study whose every text is an attack on a page, with a failed and a diverged trial."""
    config = {"dataset": "synthetic", "epochs": 2, "instrument_every_steps": 8, "log_every_steps": 4}
    cells = [
        build_cell(f"_{HOSTILE}", batch_size=64, **config),
        build_cell("</title></style></svg>" + HOSTILE, batch_size=128, **config),
    ]
    study = write_small_study(
        path, cells=cells, outcomes={(0, 1): "failed", (1, 2): "diverged"}, name=HOSTILE, title=HOSTILE,
        reductions=(HOSTILE,), environment={"versions": {HOSTILE: HOSTILE}, "hardware": HOSTILE},
        accepted_changes=({"what": HOSTILE},), attempts=({"command": HOSTILE},), hardware=HOSTILE, **options,
    )  # fmt: skip
    rewrite(study.folder, "trials", reason=pa.array([HOSTILE] * len(study.trials), pa.string()))
    images = np.zeros((2, 3, 32, 32, 3), dtype=np.uint8)
    np.savez(study.folder.samples, images=images, class_names=np.array([HOSTILE, "</script>"]))
    return load_study(path)


def rewrite(folder: StudyFolder, kind: str, **columns: pa.Array) -> None:
    """Replace columns of one kind of record."""
    table = folder.read_records(kind)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), SCHEMAS[kind].field(name), [values])
    folder.write_records(kind, table)


def rows_of(folder: StudyFolder, kind: str) -> list[dict[str, Any]]:
    """Records as plain rows."""
    rows: list[dict[str, Any]] = folder.read_records(kind).to_pylist()
    return rows


def trials_of(study: Study, cell: int) -> list[str]:
    """The ids of the completed trials of a cell, by seed."""
    own = study.info.cells[cell].cell_id
    rows = [r for r in rows_of(study.folder, "trials") if r["cell_id"] == own and r["status"] == "completed"]
    return [row["trial_id"] for row in sorted(rows, key=lambda row: int(row["seed"]))]
