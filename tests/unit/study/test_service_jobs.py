"""A cluster's jobs as studies, and what is said when a cluster cannot be used; against a small HTTP server on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from ray.job_submission import JobDetails

from study import logs, pull, run, status, stop, submit
from study.command_line.options import build_parser
from study.command_line.waiting import WaitingLine
from study.folder.progress_file import PROGRESS_FILE, ProgressFile, StudyProgress, StudyState
from study.service import connection, remote
from study.service.command_line import guarded
from study.service.connection import ClusterError, connect, read_token
from study.service.study_jobs import (
    exit_status,
    find_state,
    find_study,
    list_studies,
    parse_job,
    progress_log,
    read_progress,
    read_reason,
)
from tests.support.stored_studies import STUDIES

OURS = metadata.version("ray")


@pytest.fixture(autouse=True)
def no_token_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)


def job(study: str | None, number: int, state: str = "RUNNING", code: int | None = None) -> dict[str, Any]:
    return {
        "type": "SUBMISSION", "entrypoint": "python", "submission_id": f"job-{number}", "status": state, "driver_exit_code": code, "start_time": 1000 * number,
        "metadata": {"study": study, "results": "/mnt/studies"} if study else {}, "driver_node_id": "node", "message": None,
    }  # fmt: skip


@contextmanager
def server(answers: Mapping[str, tuple[int, Any]], delay_s: float = 0.0) -> Iterator[str]:
    """Answers each path with a status and JSON or text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay_s)
            path, _, query = self.path.partition("?")
            asked = parse_qs(query)
            code, content = answers.get(asked.get("filename", [path])[0], (500, "not found"))
            if lines := asked.get("lines"):
                content = "".join(content.splitlines(keepends=True)[-int(lines[0]) :])
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def dashboard(
    jobs: list[dict[str, Any]], log: str = "", version: str = OURS, progress: StudyProgress | None = None
) -> dict[str, tuple[int, Any]]:
    """The same log and progress file for every job."""
    names = [job["submission_id"] for job in jobs]
    files = {progress_log(name): (200, json.dumps(asdict(progress), indent=1)) for name in names if progress}
    logs = {f"job-driver-{name}.log": (200, log) for name in names}
    return {"/api/version": (200, {"ray_version": version}), "/api/jobs/": (200, jobs), **logs, **files}


@pytest.mark.parametrize(
    ("state", "code", "expected", "status_code"),
    [
        ("PENDING", None, "waiting", 1), ("RUNNING", None, "running", 1), ("SUCCEEDED", 0, "done", 0),
        ("FAILED", 2, "ended with an error", 2), ("FAILED", 3, "some failed", 3), ("FAILED", 1, "failed", 1), ("FAILED", None, "failed", 1),
        ("FAILED", 130, "interrupted", 130), ("STOPPED", None, "interrupted", 130),
    ],
)  # fmt: skip
def test_the_state_of_a_study_follows_from_its_job(
    state: str, code: int | None, expected: str, status_code: int
) -> None:
    found = parse_job(JobDetails(**job("paper", 1, state, code)))
    assert (found.state, exit_status(found)) == (expected, status_code)
    assert found.active == (state in ("PENDING", "RUNNING"))


def test_each_study_is_listed_once_with_its_newest_job() -> None:
    jobs = [job("a", 3, "STOPPED"), job("b", 2), job(None, 9), job("a", 4), {**job("x", 1), "submission_id": None}]
    with server(dashboard(jobs)) as url:
        found = list_studies(connect(url, None))
    assert [(study.study, study.job, study.state) for study in found] == [
        ("b", "job-2", "running"),
        ("a", "job-4", "running"),
    ]


def test_an_unknown_study_is_answered_with_those_that_are_there() -> None:
    with (
        server(dashboard([job("a", 1), job("b", 2)])) as url,
        pytest.raises(ClusterError, match=r"'c' .*submitted: a, b"),
    ):
        find_study(connect(url, None), "c")


FAR = StudyProgress(state=StudyState.RUNNING, num_trials=6, num_done=2, num_running=2, left_s=3723.0)


def test_the_status_shows_progress_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([job("a", 1), {**job("b", 2, "PENDING"), "driver_node_id": None}], progress=FAR)) as url:
        assert status.main(["--cluster", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:6] == ["a", "running", "2", "of", "6", "1:02:03"]
    assert lines[2].split()[:2] == ["b", "waiting"]


def test_a_study_without_a_progress_file_is_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([job("a", 1)])) as url:
        cluster = connect(url, None)
        assert read_progress(cluster, find_study(cluster, "a")) is None
        assert status.main(["--cluster", url]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["a", "running"]


@pytest.mark.parametrize(
    ("job_state", "code", "written", "expected", "status_code"),
    [
        ("RUNNING", None, StudyState.CHECKING, "checking", 0),
        ("RUNNING", None, StudyState.WAITING_FOR_NODE, "waiting for a node", 0),
        ("RUNNING", None, StudyState.DONE, "running", 0),
        ("RUNNING", None, None, "running", 0),
        ("SUCCEEDED", 0, StudyState.DONE, "done", 0),
        ("STOPPED", None, StudyState.INTERRUPTED, "interrupted", 0),
        ("FAILED", 3, StudyState.SOME_FAILED, "some failed", 3),
        ("FAILED", 2, StudyState.ERROR, "ended with an error", 1),
        ("FAILED", 1, StudyState.ERROR, "ended with an error", 1),
        ("FAILED", -9, StudyState.RUNNING, "lost", 1),
        ("FAILED", None, StudyState.RUNNING, "lost", 1),
        ("FAILED", None, None, "failed", 1),
    ],
)  # fmt: skip
def test_the_exit_status_tells_how_a_study_is(
    job_state: str, code: int | None, written: StudyState | None, expected: str, status_code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    there = job("a", 1, job_state, code)
    progress = replace(FAR, state=written) if written else None
    assert find_state(parse_job(JobDetails(**there)), progress) == expected
    with server(dashboard([there], log="Traceback\n", progress=progress)) as url:
        assert status.main(["a", "--cluster", url]) == status_code
        said = capsys.readouterr().out
        assert status.main(["--cluster", url]) == 0, "of all studies it is the command's own"
    assert said.splitlines()[1].startswith(f"a      {expected}  ")
    goes_on = expected in ("interrupted", "some failed", "ended with an error", "lost", "failed")
    assert ("go on    the same python -m study.submit" in said) == goes_on


def test_the_status_of_a_folder_is_what_its_driver_wrote_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ProgressFile(tmp_path / PROGRESS_FILE)
    file.change(num_trials=4, num_done=2, num_failed=2)
    file.note_failure("net.py:3 (x / 0): ZeroDivisionError: division by zero", retried=False)
    file.end(StudyState.SOME_FAILED)
    assert status.main([str(tmp_path)]) == 3
    told = capsys.readouterr().out
    assert "some failed  2 of 4, 2 failed" in told
    assert "last: net.py:3 (x / 0): ZeroDivisionError: division by zero" in told
    assert status.main([str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["progress"]["num_done"] == 2
    (tmp_path / PROGRESS_FILE).write_text("no JSON")
    assert status.main([str(tmp_path)]) == 2


def test_a_folder_is_never_asked_a_cluster_for(capsys: pytest.CaptureFixture[str]) -> None:
    stored = str(STUDIES / "2de36d5" / "grid")
    example = str(Path(__file__).parents[3] / "examples" / "branch-width4")  # records alone
    assert status.main([stored]) == status.main([example]) == status.main([example, "--json"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("grid  trials: 1 completed, 1 pending; ")
    assert "\nbranch-width4  trials: 45 completed; " in told
    assert json.loads(told[told.index("{") :])["trials"] == {"completed": 45}
    for arguments, reason in (
        (["results/mistyped"], "results/mistyped: no such study folder"),
        ([str(STUDIES)], "study.json: missing; not a study folder"),
        ([stored, "--watch"], "--watch is for studies of a cluster"),
    ):
        assert status.main([*arguments, "--cluster", "http://127.0.0.1:9"]) == 2
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1


def test_folders_that_are_not_on_the_cluster_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for given, named in (("", "--results '':"), ("results/mine", "--results results/mine:")):
        assert submit.main(["--grid", "demo", "--results", given]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {named} is a folder on the cluster")
        assert said.count("\n") == 1


def test_the_status_of_a_study_names_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    progress = replace(
        FAR, state=StudyState.ERROR, num_failed=1, num_failures=3, num_retries=2, last_failure="MemoryError: 3 GB",
        num_lost_nodes=1, last_lost_node="node 10.0.0.7 (abcd) was lost", reason="s3://b/s/trials/0: no answer for an hour",
    )  # fmt: skip
    with server(dashboard([job("a", 1, "FAILED", 2)], progress=progress)) as url:
        assert status.main(["a", "--cluster", url]) == 1
        said = capsys.readouterr().out
        assert status.main(["a", "--json", "--cluster", url]) == 1
        told = json.loads(capsys.readouterr().out)
        assert status.main(["--json", "--cluster", url]) == 0
        assert json.loads(capsys.readouterr().out) == [told]
    assert re.search(r"^a +ended with an error +2 of 6, 1 failed +1970", said, re.MULTILINE)
    assert "trials   3 attempts failed, 2 tried again; last: MemoryError: 3 GB\n" in said
    assert "nodes    1 node lost or unfit; last: node 10.0.0.7 (abcd) was lost\n" in said
    assert "reason   s3://b/s/trials/0: no answer for an hour\n" in said
    assert (told["study"], told["state"], told["active"]) == ("a", "ended with an error", False)
    assert told["reason"] == progress.reason
    assert told["progress"] == asdict(progress)


def test_a_watched_study_is_shown_as_it_changes_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = iter([
        dashboard([job("a", 1)], progress=FAR),
        dashboard([job("a", 1)], progress=replace(FAR, updated_at="later")),  # nothing that is shown
        {"/api/jobs/": (500, "its head starts again")},
        dashboard([job("a", 1)], progress=replace(FAR, num_done=3)),
        dashboard([job("a", 1, "FAILED", 3)], progress=replace(FAR, state=StudyState.SOME_FAILED, num_done=5, num_failed=1)),
    ])  # fmt: skip
    answers = dashboard([])
    answers.update(next(steps))
    pause = SimpleNamespace(sleep=lambda seconds: answers.update(next(steps)))
    monkeypatch.setattr(status, "time", pause)
    with server(answers) as url:
        assert status.main(["a", "--watch", "--cluster", url]) == 3
        shown, troubles = capsys.readouterr()
        assert status.main(["--watch", "--cluster", url]) == 0, "nothing runs: nothing to watch"
    assert re.findall(r"^a .* (\d of 6)", shown, re.MULTILINE) == ["2 of 6", "3 of 6", "5 of 6"]
    assert troubles.startswith("no news: ")
    assert (troubles.count("\n"), "its head starts again" in troubles) == (1, True)


def test_a_driver_that_wrote_no_reason_has_its_last_line_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([job("a", 1, "FAILED", 2)], log="error: no module named study\n")) as url:
        assert status.main(["a", "--cluster", url]) == 1
    assert "reason   error: no module named study" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "code", "said"),
    [
        (["PENDING", "RUNNING", "RUNNING:checking", "RUNNING:running"], 0, "state    running"),
        (["RUNNING:waiting for a node"], 0, "state    waiting for a node"),
        (["SUCCEEDED:done"], 0, "state    done"),
        (["RUNNING:checking", "FAILED:ended with an error"], 2, "has not begun: --data /nowhere: no such folder"),
        (
            ["RUNNING:ended with an error", "FAILED:ended with an error"],
            2,
            "has not begun: --data /nowhere: no such folder",
        ),
        (["RUNNING:checking"] * 1000, 0, "state    not checked yet"),
    ],
)
def test_submit_waits_for_the_checks_of_the_study(
    states: list[str], code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.01)
    monkeypatch.setattr(submit, "CHECKED_WITHIN_S", 0.5 if len(states) > 100 else 60.0)
    answers = dashboard([job("a", 1)])
    with server(answers) as url:
        cluster = connect(url, None)

        def read_job(name: str) -> JobDetails:
            state, _, written = states.pop(0).partition(":")
            reason = "--data /nowhere: no such folder" if "error" in written else None
            if written:
                progress = replace(FAR, state=StudyState(written), reason=reason)
                answers[progress_log(name)] = (200, json.dumps(asdict(progress)))
            return JobDetails(**job("a", 1, state, {"SUCCEEDED": 0, "FAILED": 2}.get(state)))

        monkeypatch.setattr(cluster, "read_job", read_job)
        assert guarded(lambda: submit._await_checks(cluster, "job-1", WaitingLine("the study starts"))) == code
    assert bool(states) == (len(states) > 10), "it has waited for the last one"
    told = capsys.readouterr()
    assert said in (told.err if code else told.out)


def test_a_job_keeps_its_progress_beside_its_log(tmp_path: Path) -> None:
    """As Ray starts it: what it prints goes into its log."""
    log = tmp_path / "job-driver-study-1.log"
    program = "from study.service.remote import find_progress_copy as f; print(f(), flush=True)"
    with log.open("w") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True)
    assert log.read_text() == f"{tmp_path / progress_log('study-1')}\n"
    piped = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert piped.stdout == "None\n"


def test_a_study_that_is_refused_says_why_beside_its_log_and_writes_no_folder(tmp_path: Path) -> None:
    copy = tmp_path / "progress.json"
    results = tmp_path / "results"
    assert run.main(["--grid", "paper", "--data", "/nowhere", "--results", str(results)], progress_copy=copy) == 2
    progress = json.loads(copy.read_text())
    assert progress["state"] == "ended with an error"
    assert "/nowhere" in progress["reason"]
    assert not results.exists()


COMMANDS: tuple[tuple[Any, list[str]], ...] = (
    (status.main, []), (logs.main, ["a"]), (stop.main, ["a"]), (pull.main, ["a"]), (submit.main, ["--grid", "demo"]),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, "not the dashboard of a Ray cluster"),
        ({"/api/version": (200, "<html>")}, "not the dashboard of a Ray cluster"),
        ({"/api/version": (200, [1])}, "not the dashboard of a Ray cluster"),
        ({"/api/version": (200, {"ray": OURS})}, "not the dashboard of a Ray cluster"),
        ({"/api/version": (401, "no")}, "asks for a token"),
        ({"/api/version": (403, "no")}, "asks for a token"),
        ({"/api/version": (200, {"ray_version": OURS}), "/api/jobs/": (500, "broken")}, "broken"),
        ({"/api/version": (200, {"ray_version": OURS}), "/api/jobs/": (200, "<html>")}, "Expecting value"),
        ({"/api/version": (200, {"ray_version": OURS}), "/api/jobs/": (200, [{"status": "NEW"}])}, "JobDetails"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_one_line_and_status_2(
    command: Any, answers: dict[str, tuple[int, Any]], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main, arguments = command
    with server(answers) as url:
        assert main([*arguments, "--cluster", url]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert reason in said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "ray://127.0.0.1:10001", "http://", "nowhere.invalid:8265"])
def test_no_cluster_is_one_line_and_status_2(command: Any, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments = command
    assert main([*arguments, "--cluster", address]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wrong_token_is_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong")
    with server({"/api/version": (403, "no")}) as url, pytest.raises(ClusterError, match="refuses this token"):
        connect(url, tmp_path / "token")


def test_the_address_is_that_of_the_command_line_whatever_ray_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(dashboard([job("a", 1)])) as url:
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        assert [found.study for found in list_studies(connect(url, None))] == ["a"]


def test_a_cluster_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANSWER_TIMEOUT_S", 0.2)
    with server(dashboard([]), delay_s=1.0) as url, pytest.raises(ClusterError, match="no cluster answers"):
        connect(url, None)


def test_another_version_of_ray_is_refused_at_submission_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([], version="2.9.0")) as url:
        assert submit.main(["--grid", "demo", "--cluster", url]) == 2
        assert f"runs Ray 2.9.0, this program Ray {OURS}" in capsys.readouterr().err
        assert status.main(["--cluster", url]) == 0


def test_a_study_that_does_not_run_cannot_be_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([job("a", 1, "SUCCEEDED", 0)])) as url:
        assert stop.main(["a", "--cluster", url]) == 2
    assert "does not run (done" in capsys.readouterr().err


def test_who_stops_a_study_hears_how_many_trials_have_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stop, "POLL_S", 0.0)
    answers = dashboard([job("a", 1)], progress=replace(FAR, num_running=4))
    num_saved = iter([0, 2, 2, 4, 4])
    with server(answers) as url:
        cluster = connect(url, None)

        def read_job(name: str) -> JobDetails:
            if (saved := next(num_saved, None)) is None:
                return JobDetails(**job("a", 1, "STOPPED"))
            answers[progress_log(name)] = (200, json.dumps(asdict(replace(FAR, num_running=4 - saved))))
            return JobDetails(**job("a", 1))

        monkeypatch.setattr(cluster, "read_job", read_job)
        monkeypatch.setattr(cluster, "stop", lambda name: None)
        assert stop._stop(cluster, "a") == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "trials are saving: 0 of 4", "trials are saving: 2 of 4", "all 4 trials have saved; their records are gathered",
    ]  # fmt: skip
    assert said.out.startswith("stopped: 2 of 6 trials done")


def test_a_study_that_runs_is_not_submitted_again(capsys: pytest.CaptureFixture[str]) -> None:
    with server(dashboard([job("demo", 1)])) as url:
        assert submit.main(["--grid", "demo", "--cluster", url]) == 2
    assert "runs on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--data", "data"], "--data data: is a folder on the cluster"),
        (["--results", "out"], "--results out: is a folder on the cluster"),
        (["--results", "s3://key:secret@bucket/x"], "give a plain URL"),
        (["--plan"], "--plan needs no cluster"),
        (["--calibrate"], "--calibrate needs no cluster"),
        (["--address", "auto"], "--cluster names it"),
        (["--set", "epoch=3"], "did you mean epochs"),
        (["--max-failures", "-1"], "--max-failures"),
        (["--wandb", "offline", "--results", "s3://bucket/x"], "not put to s3://bucket/x"),
    ],
)
def test_a_wrong_study_is_refused_before_the_cluster_is_asked(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main(["--grid", "demo", *arguments, "--cluster", "http://127.0.0.1:9"]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [["--data", "~/cifar"], ["--data=$DISK/cifar"], ["--dat", "/away", "--data", "~/cifar"]]
)
def test_data_and_results_are_named_with_the_home_and_variables_of_the_head(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def note(arguments: list[str], progress_copy: Path | None) -> int:
        ran.append(arguments)
        return 0

    monkeypatch.setattr(run, "main", note)
    monkeypatch.setenv("HOME", "/home/head")
    monkeypatch.setenv("DISK", "/home/head")
    remote.main(["run", "~/out", "--grid", "demo", *given])
    options = build_parser().parse_args(ran[0])
    assert (str(options.data), options.results, options.address) == ("/home/head/cifar", "/home/head/out", "auto")
    remote.main(["run", "s3://bucket/$DISK/", "--grid", "demo"])
    options = build_parser().parse_args(ran[1])
    assert (options.data, options.results) == (None, "s3://bucket//home/head")


def test_the_token_is_looked_for_where_ray_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_token(None) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-the-home\n")
    assert read_token(None) == "of-the-home"
    (tmp_path / "named").write_text("named")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert read_token(None) == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-variable")
    assert read_token(None) == "of-the-variable"
    (tmp_path / "given").write_text("given")
    assert read_token(tmp_path / "given") == "given"
    with pytest.raises(ClusterError, match="cannot be read"):
        read_token(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(ClusterError, match="is empty"):
        read_token(tmp_path / "empty")


@pytest.mark.parametrize(
    ("folder_mode", "mode", "warned"),
    [(0o755, 0o644, True), (0o755, 0o640, True), (0o755, 0o600, False), (0o700, 0o644, False)],
)
def test_a_token_that_others_can_read_is_warned_of(
    folder_mode: int, mode: int, warned: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.write_text("secret")
        token.chmod(mode)
        Path(folder).chmod(folder_mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        assert read_token(None) == "secret"
        said = capsys.readouterr().err
        warning = f"warning: other users of this machine can read the cluster's token; chmod 600 {token}\n"
    assert said == (warning if warned else "")


def test_a_cluster_that_goes_away_is_one_line() -> None:
    with server(dashboard([])) as url:
        cluster = connect(url, None)
        assert cluster.list_jobs() == []
    with pytest.raises(ClusterError, match=r"no cluster answers there \(.*Connection refused\); is its head up"):
        cluster.list_jobs()


@pytest.mark.parametrize(
    ("code", "message", "said"),
    [
        (
            137,
            "Job entrypoint command failed with exit code 137, last available logs (...):\nepoch 3\nKilled",
            "was killed (SIGKILL",
        ),
        (
            1,
            "Job entrypoint command failed with exit code 1, last available logs (...):\nepoch 3",
            "failed with exit code 1",
        ),
        (None, "The job supervisor was lost", "The job supervisor was lost"),
    ],
)
def test_how_a_driver_ended_without_a_word_is_one_line(code: int | None, message: str, said: str) -> None:
    lost = {**job("paper", 1, "FAILED", code), "message": message}
    with server(dashboard([lost], log="epoch 3\nKilled\n")) as url:
        cluster = connect(url, None)
        found = find_study(cluster, "paper")
        assert find_state(found, FAR) == StudyState.LOST
        reason = read_reason(cluster, found, FAR)
    assert said in reason
    assert "\n" not in reason
    assert "last available" not in reason
