"""Every table of the report: a module for each, which declares it (TableKind). Each is built only when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.frames import Study, load_study
from analysis.records.study_folder import StudyFolder
from analysis.records.summary import study_notes
from analysis.results.result_table import ResultTable, TableKind
from analysis.sections import discover_in_order


def table_kinds(*, search: bool = False) -> dict[str, TableKind]:
    """Every table that is declared, in reading order; those of a search where asked for."""
    return discover_in_order("analysis.tables", TableKind, search=search)


def build_tables(folder: StudyFolder | Study, names: Sequence[str] | None = None) -> dict[str, ResultTable]:
    """The tables of a study by name, in reading order; only the records that the asked ones need are read.

    Those of a search are among all tables only where there was one. Errors: ValueError for an unknown name, StudyFolderError
    where the folder cannot be read.
    """
    kinds = table_kinds()
    if set(names or ()) - set(kinds):
        kinds = table_kinds(search=True)
    if unknown := set(names or ()) - set(kinds):
        raise ValueError(f"no table {sorted(unknown)[0]!r}; the tables are {', '.join(kinds)}")
    study = folder if isinstance(folder, Study) else load_study(folder)
    if names is None:
        kinds = table_kinds(search=study.info.search is not None)
    notes = study_notes(study)
    asked = [n for n, kind in kinds.items() if (kind.applies(study) if names is None else n in names)]
    return {name: kinds[name].fill(study, notes) for name in asked}
