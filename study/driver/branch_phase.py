"""Branches of a study's trials: the phase after these, of the same kind.

A branch begins from the state that its parent had after an epoch. The parents keep these states while they train; when all branches
that begin from one have ended it is given back. A state that is gone is made again by the branch that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.records.study_json import StudyInfo
from study.driver.invocation import Invocation
from study.driver.trial_phase import run_missing
from study.folder.ledger import Ledger, open_ledger
from study.spec.study_spec import StudySpec
from study.storage.trial_storage import TRIALS
from trainable.config import TrialConfig, trial_id
from trainable.records.trial_state import TrialState
from trainable.training.branching import branch_point_name

FACTORS = ("branch_epoch", "branch_batch_size", "branch_scaling")


def run_branches(
    invocation: Invocation, spec: StudySpec, study: StudyInfo, trained: Sequence[TrialConfig]
) -> tuple[Ledger, bool]:
    """Run the missing branches of these trials, as far as they have ended; False when the user interrupted.

    `study` is what study.json is to say, unless the trials have just been run and have said it.
    """
    folder = invocation.store.folder
    parents = open_ledger(folder, trained, invocation.data.fingerprint, retry_failed=False)
    # A trial that diverged before an epoch, or in it, has no state to go on from.
    reached = {state.config: state.epochs_completed - (state.status == "diverged") for state in parents.done}
    configs = [branch for branch in spec.branches_of(reached) if branch.branch_epoch <= reached[branch.parent]]
    if stateless := len(spec.branches_of(trained)) - len(configs):
        print(
            f"{stateless} branches are left out: their trials failed, or diverged before the epoch that they begin after"
        )
    written = folder.read_study()
    noted = len(written.attempts) > len(study.attempts)
    ledger = _open_branches(invocation, configs)
    varied = [name for name in spec.factors if name not in FACTORS]
    if ledger.to_run:
        print(f"branches: {ledger.total} of {len(parents.done)} trials, {len(ledger.to_run)} to run")
        invocation.progress_file.change(
            num_trials=ledger.total, num_done=len(ledger.done), num_failed=len(ledger.left_failed)
        )
        if not run_missing(invocation, written if noted else study, ledger, noted=noted, factors=(*varied, *FACTORS)):
            return ledger, False
        ledger = _open_branches(invocation, configs, retry_failed=False)
    _give_back(invocation, ledger)
    return ledger, True


def _open_branches(
    invocation: Invocation, configs: Sequence[TrialConfig], *, retry_failed: bool | None = None
) -> Ledger:
    """The branches against what is on disk."""
    retry = invocation.settings.retry_failed if retry_failed is None else retry_failed
    return open_ledger(invocation.store.folder, configs, invocation.data.fingerprint, retry_failed=retry, role="branch")


def _give_back(invocation: Invocation, ledger: Ledger) -> None:
    """Remove the states from which every branch has ended. Errors: OSError."""
    open_points = set(_points((*ledger.to_run, *ledger.left_failed)))
    for name in dict.fromkeys(_points(ledger.done)):
        if name not in open_points:
            invocation.store.trial_storage.delete(f"{TRIALS}/{name}")


def _points(states: Iterable[TrialState]) -> list[str]:
    return [
        branch_point_name(trial_id(state.config.parent, state.data_fingerprint), state.config.branch_epoch)
        for state in states
    ]
