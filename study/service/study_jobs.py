"""Which studies a cluster has: its jobs that run one, and in which state each study is. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from study.command_line.exit_status import INTERRUPTED, STATES
from study.folder.progress_file import StudyProgress, StudyState, parse_progress
from study.service.connection import Cluster, ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_STUDY, _RESULTS = "study", "results"  # keys of a job's metadata
DRIVER_FAILED = (StudyState.ERROR, StudyState.FAILED, StudyState.LOST)
_KILLED = (137, -9)  # exit codes, as a shell and as Python tell of SIGKILL
_PROGRESS_LINES = 1000  # more than the file has


@dataclass(frozen=True)
class StudyJob:
    """The newest job of one study."""

    study: str
    job: str
    results: str  # as it was submitted: a folder on the cluster
    state: StudyState  # as the job tells it; FAILED where the driver ended without a status of study.run
    active: bool
    started_at: str
    exit_code: int | None
    node: str | None  # where it runs; None before it does
    message: str


def describe_study(study: str, results: str) -> dict[str, str]:
    """The metadata by which a job is known as the run of a study."""
    return {_STUDY: study, _RESULTS: results}


def list_studies(cluster: Cluster) -> list[StudyJob]:
    """Every study that was submitted to the cluster since its start, in the order of their newest jobs."""
    newest: dict[str, StudyJob] = {}
    for job in cluster.list_jobs():
        study = (job.metadata or {}).get(_STUDY)
        if study:
            newest.pop(study, None)
            newest[study] = parse_job(job)
    return list(newest.values())


def find_study(cluster: Cluster, study: str) -> StudyJob:
    """The study of this name. Errors: ClusterError naming those that there are."""
    studies = list_studies(cluster)
    for found in studies:
        if found.study == study:
            return found
    known = ", ".join(found.study for found in studies) or "none"
    raise ClusterError(f"no study {study!r} was submitted to {cluster.address}; submitted: {known}")


def parse_job(job: JobDetails) -> StudyJob:
    """A job of the cluster as the study that it runs."""
    note, status, code = job.metadata or {}, job.status.value, job.driver_exit_code
    if not job.status.is_terminal():
        state = StudyState.RUNNING if status == "RUNNING" else StudyState.WAITING
    elif status == "STOPPED":
        state = StudyState.INTERRUPTED
    else:
        state = StudyState.FAILED if code is None else STATES.get(code, StudyState.FAILED)
    started = datetime.fromtimestamp((job.start_time or 0) / 1000).isoformat(" ", "seconds")
    return StudyJob(
        study=note.get(_STUDY, ""), job=str(job.submission_id), results=note.get(_RESULTS, ""), state=state,
        active=not job.status.is_terminal(), started_at=started, exit_code=code, node=job.driver_node_id,
        message=(job.message or "").strip(),
    )  # fmt: skip


def exit_status(found: StudyJob) -> int:
    """What `study.run` would have ended with."""
    if found.state == StudyState.INTERRUPTED:
        return INTERRUPTED
    return 1 if found.exit_code is None else found.exit_code


def read_output(cluster: Cluster, found: StudyJob, num_lines: int) -> str:
    """The last lines that the study has printed; empty before it begins. Errors: ClusterError."""
    return cluster.read_log_end(f"job-driver-{found.job}.log", found.node, num_lines) if found.node else ""


def read_progress(cluster: Cluster, found: StudyJob) -> StudyProgress | None:
    """How far the study is; None before its driver runs, and where the node it ran on is gone."""
    if found.node is None:
        return None
    try:
        return parse_progress(cluster.read_log_end(progress_log(found.job), found.node, _PROGRESS_LINES))
    except ClusterError:  # the cluster has just told of the job: only the file is missing
        return None


def progress_log(job: str) -> str:
    """What the copy of progress.json is called that a job keeps among Ray's logs of its node."""
    return f"job-driver-{job}.progress.json"


def find_state(found: StudyJob, progress: StudyProgress | None) -> StudyState:
    """What its driver has written last, unless its job has ended since; LOST where it ended without a word."""
    if progress is None or found.state not in (StudyState.RUNNING, StudyState.FAILED):
        return found.state
    if found.active:
        return StudyState.RUNNING if progress.state.ended else progress.state
    return progress.state if progress.state.ended else StudyState.LOST


def read_reason(cluster: Cluster, found: StudyJob, progress: StudyProgress | None) -> str:
    """Why a study ended before its trials had: as its driver wrote, else the last line it printed, else what Ray says."""
    state = find_state(found, progress)
    if state not in DRIVER_FAILED:
        return ""
    if progress and progress.reason:
        return progress.reason
    lines = [line for line in read_output(cluster, found, 5).splitlines() if line.strip()]
    return lines[-1] if lines and state != StudyState.LOST else _say_end(found)


def _say_end(found: StudyJob) -> str:
    """How a driver ended that said nothing: killed, or as Ray puts it, without the log that Ray adds."""
    if found.exit_code in _KILLED:
        return "its driver was killed (SIGKILL, by hand or for want of memory)"
    return found.message.partition(", last available logs")[0]
