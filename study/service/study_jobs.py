"""Which studies a cluster has: its jobs that run one, and in which state each study is. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from study.command_line.exit_status import BAD_INPUT, INTERRUPTED, OK, SOME_FAILED
from study.driver.progress import Summary, find_summary
from study.service.connection import Cluster, ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

_STUDY, _RESULTS = "study", "results"  # keys of a job's metadata
_BY_EXIT: dict[int | None, str] = {
    OK: "done", BAD_INPUT: "ended with an error", SOME_FAILED: "some failed", INTERRUPTED: "interrupted"
}  # fmt: skip
_SUMMARY_LINES = (60, 2_000, 100_000)  # a summary comes every 5 s at most, the lines between them are of any number


@dataclass(frozen=True)
class StudyJob:
    """The newest job of one study."""

    study: str
    job: str
    results: str  # as it was submitted: a folder on the cluster
    state: str  # waiting, running, done, some failed, ended with an error, interrupted or failed
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
    note, status = job.metadata or {}, job.status.value
    if not job.status.is_terminal():
        state = "running" if status == "RUNNING" else "waiting"
    elif status == "STOPPED":
        state = "interrupted"
    else:
        state = _BY_EXIT.get(job.driver_exit_code, "failed")
    started = datetime.fromtimestamp((job.start_time or 0) / 1000).isoformat(" ", "seconds")
    return StudyJob(
        study=note.get(_STUDY, ""), job=str(job.submission_id), results=note.get(_RESULTS, ""), state=state,
        active=not job.status.is_terminal(), started_at=started, exit_code=job.driver_exit_code, node=job.driver_node_id,
        message=(job.message or "").strip(),
    )  # fmt: skip


def exit_status(found: StudyJob) -> int:
    """What `study.run` would have ended with."""
    if found.state == "interrupted":
        return INTERRUPTED
    return 1 if found.exit_code is None else found.exit_code


def read_output(cluster: Cluster, found: StudyJob, num_lines: int) -> str:
    """The last lines that the study has printed; empty before it begins. Errors: ClusterError."""
    return cluster.read_log_end(f"job-driver-{found.job}.log", found.node, num_lines) if found.node else ""


def read_progress(cluster: Cluster, found: StudyJob) -> Summary | None:
    """How far the study is; None before its trials start. Errors: ClusterError."""
    for num_lines in _SUMMARY_LINES:
        output = read_output(cluster, found, num_lines)
        if (summary := find_summary(output)) or output.count("\n") < num_lines:
            return summary
    return None
