"""The file of a search: Optuna's journal in the study folder, opened only if it is whole and of this very search.

Knows no Ray.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.search.objectives import list_objectives
from study.search.suggestions import build_sampler
from study.spec.study_spec import StudySpec
from trainable.config import FIELDS
from trainable.errors import first_line

_log = logging.getLogger(__name__)


def open_search(folder: StudyFolder, spec: StudySpec, data_fingerprint: str) -> tuple[optuna.Study, BaseStorage]:
    """The Optuna study in the folder's journal, made if there is none, and its storage. Errors: StudyFolderError."""
    assert spec.search is not None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder.search_journal
    folder.path.mkdir(parents=True, exist_ok=True)
    _cut_torn_line(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        names = optuna.get_all_study_names(storage)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise StudyFolderError(f"{path}: not a journal of Optuna ({first_line(error)}); remove it: the search then begins again and takes over what its trials' folders hold") from error  # fmt: skip
    if other := [name for name in names if name != spec.name]:
        raise StudyFolderError(
            f"{path}: holds the search of another study, {other[0]!r}, not of {spec.name!r}; remove it or use another --name"
        )
    directions = [list_objectives()[name].direction for name in spec.search.objectives]
    study = optuna.create_study(
        storage=storage, study_name=spec.name, directions=directions, load_if_exists=True,
        sampler=build_sampler(spec.search, 0), pruner=optuna.pruners.NopPruner(),
    )  # fmt: skip
    _check_definition(study, _definition(spec, data_fingerprint))
    return study, storage


def _definition(spec: StudySpec, data_fingerprint: str) -> dict[str, Any]:
    """What must stay the same for trials to be of one search."""
    assert spec.search is not None
    free = ("trials", "gpu_hours", "wall_time_h", "top_k", "confirmation_seeds", "enqueued")
    table = {name: value for name, value in spec.search.to_dict().items() if name not in free}
    return json.loads(json.dumps({**table, **spec.search_base, "data": data_fingerprint}))  # type: ignore[no-any-return]


def _check_definition(study: optuna.Study, asked: dict[str, Any]) -> None:
    """Refuse to go on with a search that is another one. Errors: StudyFolderError."""
    known = study.user_attrs.get("definition")
    if known is None:
        study.set_user_attr("definition", asked)
        known = asked
    for name in asked:  # a field of the configuration that is later than the journal was at its default
        default = FIELDS[name].default if name in FIELDS else None
        before = known.get(name, default) if isinstance(known, dict) else known
        if before != asked[name]:
            raise StudyFolderError(
                f"the search of {study.study_name!r} was begun with another {name} ({_short(before)}, now "
                f"{_short(asked[name])}); use another --name"
            )


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a killed driver did not finish: what is appended to it would be lost too."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
        _log.warning("%s: its last line was not finished and is removed", path)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
