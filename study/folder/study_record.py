"""study.json: built from what is asked, compared with what an existing study was, extended by later invocations.

Trials of one study must be comparable: the same data, code of `trainable`, torch and precision. A difference is
refused unless the user accepts it, and then recorded. Imports neither torch nor Ray.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from analysis.records.factors import find_factors
from analysis.records.study_json import StudyInfo
from study.plan.resources import Machine, TrialResources
from study.spec.study_spec import StudySpec
from trainable.config import FIELDS
from trainable.data.image_data import ImageData
from trainable.fingerprint import code_fingerprint, cpu_name, training_fingerprint
from trainable.records.clock import utc_now

PROVENANCE_FILE = "source.json"
_PACKAGES = ("torch", "torchvision", "ray", "wandb", "optuna", "fvcore", "numpy", "pyarrow", "pandas", "matplotlib")


class IncomparableError(Exception):
    """The study on disk and the one asked for would hold trials that cannot be compared; the message lists what differs."""


def build_study(spec: StudySpec, data: ImageData, machine: Machine, resources: TrialResources) -> StudyInfo:
    """What study.json says about a study that starts now."""
    return StudyInfo(
        name=spec.name,
        title=spec.title,
        created_at=utc_now(),
        cells=spec.cells,
        seeds=spec.seeds,
        factors=spec.factors,
        reductions=spec.reductions,
        equivalence_margin=spec.equivalence_margin,
        primary_metric=spec.primary_metric,
        claims=spec.claims,
        stopping=spec.stopping,
        data={
            "dataset": data.dataset,
            "fingerprint": data.fingerprint,
            "source": data.source,
            "num_train": len(data.train_labels),
            "num_test": len(data.test_labels),
            "class_names": list(data.class_names),
            "normalisation": asdict(data.normalisation),
        },
        code={"fingerprint": code_fingerprint(), **describe_source()},
        environment={
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu": cpu_name(),
            "num_cpus": machine.num_cpus,
            "num_gpus": machine.num_gpus,
            "packages": {name: _version(name) for name in _PACKAGES},
        },
        resources=resources.to_dict(),
        search=None if spec.search is None else spec.search.to_dict(),
        branch=None if spec.branch is None else spec.branch.to_dict(),
    )


def extend_study(existing: StudyInfo, asked: StudyInfo, *, accept_changes: bool) -> StudyInfo:
    """The existing study with the asked cells and seeds added. Errors: IncomparableError unless changes are accepted."""
    if asked.stopping is not None and asked.stopping != existing.stopping:
        planned = (
            "all at once" if existing.stopping is None else "for {first} to {most} seeds".format(**existing.stopping)
        )
        raise IncomparableError(
            f"study {existing.name!r} has planned its looks at the verdicts {planned}, which fixes its intervals: go on with that, or "
            "use another --name"
        )
    changes = find_changes(existing, asked)
    accepted = existing.accepted_changes
    if changes and not accept_changes:
        lines = "; ".join(f"{c['what']}: {c['before']} -> {c['now']}" for c in changes)
        raise IncomparableError(
            f"study {existing.name!r} was made under other conditions ({lines}); use another --name, or --accept-changes "
            "to mix them (recorded and shown in the report)"
        )
    if changes:
        accepted = (*accepted, {"at": utc_now(), "changes": changes})
    known = {cell.cell_id: cell for cell in existing.cells}
    known.update({cell.cell_id: cell for cell in asked.cells})
    cells = tuple(known.values())
    return replace(
        asked,
        created_at=existing.created_at,
        cells=cells,
        seeds=tuple(sorted({*existing.seeds, *asked.seeds})),
        factors=find_factors(cell.config for cell in cells),
        reductions=tuple(dict.fromkeys((*existing.reductions, *asked.reductions))),
        attempts=existing.attempts,
        search=asked.search or existing.search,
        branch=asked.branch or existing.branch,
        stopping=asked.stopping or existing.stopping,
        accepted_changes=accepted,
        unknown=existing.unknown,
        data=existing.data if not changes else asked.data,
        resources=existing.resources if not changes else asked.resources,
    )


def find_changes(existing: StudyInfo, asked: StudyInfo) -> list[dict[str, Any]]:
    """What makes trials of the two incomparable: data, code that trains differently, torch, precision, engine, another grid."""
    pairs = (
        ("data fingerprint", existing.data.get("fingerprint"), asked.data.get("fingerprint")),
        (
            "code of trainable",
            training_fingerprint(existing.code.get("fingerprint")),
            training_fingerprint(asked.code.get("fingerprint")),
        ),
        ("torch", _packages(existing).get("torch"), _packages(asked).get("torch")),
        ("precision", _values(existing, "precision"), _values(asked, "precision") | _values(existing, "precision")),
        ("engine", _values(existing, "engine"), _values(asked, "engine") | _values(existing, "engine")),
        *_code_differences(existing, asked),
        *_grid_differences(existing, asked),
    )
    return [
        {"what": what, "before": _short(before), "now": _short(now)} for what, before, now in pairs if before != now
    ]


def _code_differences(existing: StudyInfo, asked: StudyInfo) -> list[tuple[str, str, str]]:
    """Modules of the user's that both use, with another source."""
    known, now = ({c.config["model"]: c.config["model_source"] for c in study.cells} for study in (existing, asked))
    return [
        (f"code of {name}", known[name], source) for name, source in now.items() if known.get(name, source) != source
    ]


def _grid_differences(existing: StudyInfo, asked: StudyInfo) -> list[tuple[str, set[str], set[str]]]:
    """The fields that this study holds constant and that every asked cell, none of which it has, may have otherwise.

    A grid that shares a cell with the study, or has other values of what it varies, extends it. A search adds what it finds.
    """
    shared = {cell.cell_id for cell in existing.cells} & {cell.cell_id for cell in asked.cells}
    if shared or asked.search is not None or not (existing.cells and asked.cells):
        return []
    varied = {"seed", "precision", "engine", "model_source", *find_factors(cell.config for cell in existing.cells)}
    found = [(name, _values(existing, name), _values(asked, name)) for name in FIELDS if name not in varied]
    return [values for values in found if values[1] != values[2]]


def with_invocation(study: StudyInfo, invocation: dict[str, Any]) -> StudyInfo:
    """The study with one more invocation of the driver noted, under the key `attempts`."""
    return replace(study, attempts=(*study.attempts, invocation))


def describe_invocation(arguments: list[str], num_to_run: int) -> dict[str, Any]:
    """One invocation: when, where, with which command line."""
    return {
        "started_at": utc_now(),
        "host": platform.node(),
        "command": ["python", "-m", "study.run", *arguments],
        "folder": _working_folder(),
        "trials_to_run": num_to_run,
        "python": sys.version.split()[0],
    }


def _working_folder() -> str:
    """Empty if it is gone, which a driver on a cluster outlives."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def _packages(study: StudyInfo) -> dict[str, Any]:
    packages = study.environment.get("packages")
    return packages if isinstance(packages, dict) else {}


def _values(study: StudyInfo, field: str) -> set[str]:
    return {str(cell.config.get(field, FIELDS[field].default)) for cell in study.cells}


def _short(value: Any) -> str:
    text = ", ".join(sorted(value)) if isinstance(value, set) else str(value)
    return text[:12] if len(text) == 64 else text


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_source() -> dict[str, Any]:
    """The commit of the source and a hash of what differs from it; nulls outside a repository.

    A copy that was sent to a cluster has it in a file, written where it was sent from.
    """
    folder = Path(__file__).parents[1]
    if (folder / PROVENANCE_FILE).is_file():
        content = json.loads((folder / PROVENANCE_FILE).read_bytes())
        return {name: content.get(name) for name in ("commit", "diff_sha256")}
    commit = _git(folder, "rev-parse", "HEAD")
    diff = _git(folder, "diff", "HEAD") if commit else None
    return {
        "commit": commit.strip() if commit else None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
