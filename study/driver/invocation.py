"""One invocation of `study.run` on a study whose lock it holds: what its phases share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from analysis.records.study_folder import StudyFolderError
from analysis.records.study_json import StudyInfo
from study.cluster.node_probe import check_nodes
from study.cluster.session import LocalRay
from study.driver.device import check_gpus
from study.folder.ledger import list_states
from study.folder.model_and_samples import model_tables, write_samples
from study.folder.progress_file import ProgressFile
from study.folder.repair import write_study
from study.folder.study_record import describe_invocation, with_invocation
from study.plan.epoch_times import EpochTimes
from study.plan.resources import Machine, TrialResources
from study.spec.run_settings import RunSettings
from study.storage.study_lock import StudyLock
from study.storage.study_store import StudyStore
from study.tracking.mirror import Mirror
from trainable.data.image_data import ImageData


@dataclass(frozen=True, kw_only=True, slots=True)
class Invocation:
    """How the study is run, where it lives, and what its trials train on and with."""

    settings: RunSettings
    arguments: list[str]  # of the command line, for study.json
    command: str  # what to type to go on
    store: StudyStore
    lock: StudyLock
    data: ImageData
    machine: Machine
    resources: TrialResources
    ray: LocalRay
    times: EpochTimes
    mirror: Mirror
    progress_file: ProgressFile

    def note(self, study: StudyInfo, num_to_run: int) -> None:
        """Write study.json, with this invocation and the number of trials that it runs."""
        write_study(self.store.folder, with_invocation(study, describe_invocation(self.arguments, num_to_run)))

    def check_hardware(self) -> frozenset[str]:
        """Refuse nodes that cannot run trials, or a GPU of this machine that fails its check, before the first trial.

        Returns the kinds of GPUs whose place CPUs take, as someone has asked.
        """
        if self.machine.is_cluster:
            check_nodes(self.store.trial_storage, self.lock.token)
            return frozenset()
        return check_gpus(self.machine, self.resources, print)

    def check_kept(self) -> None:
        """Refuse to go on with a study that is another driver's, or gone. Errors: StudyFolderError."""
        if self.lock.lost or not self.store.folder.exists():
            raise StudyFolderError(
                f"{self.store.shown}: removed or taken over by another driver while its trials ran; the same command starts it again"
            )

    def repair(self) -> None:
        """Repair what can be, and say so."""
        for line in self.store.repair():
            print(f"repaired: {line}")

    @contextmanager
    def artifacts(self) -> Iterator[None]:
        """Leave what the report draws besides measurements, where it is not there yet: samples first, layer tables meanwhile.

        Layers of the models of all trials that the study has, also earlier and searched ones.
        """
        write_samples(self.store.folder, self.data, self.store.folder.read_study())
        configs = [state.config for state in list_states(self.store.folder)]
        with model_tables(self.store.folder, configs, self.data):
            yield
