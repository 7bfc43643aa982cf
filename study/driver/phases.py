"""The phases of a study that trains: its search, the trials that are missing and what --until-decided adds, their branches.

Knows no command line: how a study ends is told, and said by whoever has run it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.records.study_json import StudyInfo
from study.driver.invocation import Invocation
from study.driver.trial_phase import run_missing
from study.folder.ledger import Ledger, consolidate, list_states, open_ledger
from study.spec.study_spec import StudySpec
from trainable.config import TrialConfig, cell_id


@dataclass(frozen=True)
class Phases:
    """How far they came: the ledgers of the trials that are reported, none of a search that is not over."""

    ledgers: tuple[Ledger, ...] = ()
    interrupted: bool = False


def run_phases(invocation: Invocation, spec: StudySpec, study: StudyInfo) -> Phases:
    """Run what is missing of each phase; after an interruption no further one."""
    num_invocations = len(study.attempts)
    if spec.search is not None:
        from study.driver.search_phase import run_search  # Optuna takes a second to import

        outcome = run_search(invocation, spec, study)
        if not outcome.over:
            return Phases(interrupted=outcome.interrupted)
        study, spec = outcome.study, outcome.spec
    configs, folder = _plan_trials(invocation, spec), invocation.store.folder
    while True:
        ledger, finished = _run_trials(invocation, spec, study, configs, noted=len(study.attempts) > num_invocations)
        if not finished:
            return Phases((ledger,), interrupted=True)
        more = _next_trials(invocation, configs) if spec.stopping else ()
        if not more:
            break
        configs = [*configs, *more]
        study = folder.read_study()
        study = replace(study, seeds=tuple(sorted({*study.seeds, *(config.seed for config in more)})))
    if spec.branch is None:
        return Phases((ledger,))
    from study.driver.branch_phase import run_branches  # torch: seconds, and 400 MB

    branches, finished = run_branches(invocation, spec, study, configs)
    return Phases((ledger, branches), interrupted=not finished)


def _run_trials(
    invocation: Invocation, spec: StudySpec, study: StudyInfo, configs: Sequence[TrialConfig], *, noted: bool
) -> tuple[Ledger, bool]:
    """The trials of the study against what is on disk; those that are missing are run. False when the user interrupted."""
    ledger = open_ledger(
        invocation.store.folder, configs, invocation.data.fingerprint, retry_failed=invocation.settings.retry_failed,
        role="confirmation" if spec.search else "grid",
    )  # fmt: skip
    invocation.progress_file.change(
        num_trials=ledger.total, num_done=len(ledger.done), num_failed=len(ledger.left_failed)
    )
    if not ledger.to_run:
        print(f"nothing to run: {len(ledger.done)} of {ledger.total} trials are done")
        with invocation.artifacts():
            pass
        return ledger, True
    return ledger, run_missing(
        invocation, study, ledger, noted=noted, factors=study.factors,
        branch_epochs=spec.branch.epochs if spec.branch else (),
    )  # fmt: skip


def _plan_trials(invocation: Invocation, spec: StudySpec) -> list[TrialConfig]:
    """The trials that are asked for; where seeds are added until it is settled, also those that were added before."""
    planned = spec.trial_configs()
    if spec.stopping is None:
        return planned
    cells = {cell.cell_id for cell in spec.cells}
    before = [state.config for state in list_states(invocation.store.folder) if state.role != "search"]
    return list(dict.fromkeys([*planned, *(config for config in before if cell_id(config) in cells)]))


def _next_trials(invocation: Invocation, configs: Sequence[TrialConfig]) -> tuple[TrialConfig, ...]:
    """Look at the verdicts, say what they are, and return the trials that may settle what is open."""
    from analysis.records.frames import load_study
    from study.driver.until_decided import look

    consolidate(invocation.store.folder)
    tried: dict[str, set[int]] = defaultdict(set)
    for config in configs:
        tried[cell_id(config)].add(config.seed)
    found = look(load_study(invocation.store.folder), tried, invocation.resources.max_concurrent)
    print(found.said)
    return found.configs
