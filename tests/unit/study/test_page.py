"""The live page's server: what it answers, what it sends again, whom it answers, and what it makes of damaged studies."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from analysis.drawing.declaration import StudyFigure
from analysis.figures import plan_figures
from analysis.records.frames import load_study
from analysis.records.study_folder import StudyFolder, StudyFolderError
from analysis.report.content import build_page_table
from analysis.report.page import render_page
from analysis.results.formats import to_csv
from analysis.sections import section_place
from analysis.tables import build_tables
from study import serve
from study.command_line.live_page import live_page
from study.page import elsewhere, server, watched
from study.page.guard import COOKIE
from study.page.server import build_app
from study.page.watched import Watch, WatchedStudy, describe
from study.storage.study_lock import describe_driver
from tests.unit.analysis.figure_studies import HOSTILE, write_hostile_study, write_small_study
from trainable.config import FIELDS, TrialConfig
from trainable.records.trial_state import TrialState, write_state

CURVES = "/api/studies/small/charts/training_curves"


class Texts(HTMLParser):
    """The texts of the cells of every table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag in ("td", "th"):
            self._inside = True
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1] += data


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watched, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(watched, "SHARE", 0)  # looks as often as it is asked to
    return tmp_path


@pytest.fixture
def small(root: Path) -> StudyFolder:
    return write_small_study(root / "small").folder


@pytest.fixture
def watch(root: Path, small: StudyFolder) -> Watch:
    watch = Watch([root])
    watch.look()
    return watch


@pytest.fixture
def client(watch: Watch) -> TestClient:
    return TestClient(build_app(watch, ["testserver"]))


def take_apart(folder: StudyFolder, *, epochs: int) -> str:
    """Turn the last trial into one that runs: gathered are the others, its own folder has so many of its epochs."""
    trials = folder.read_records("trials")
    row = trials.to_pylist()[-1]
    name = str(row["trial_id"])
    config = TrialConfig(**{field: row[f"config.{field}"] for field in FIELDS})
    state = TrialState(
        config=config, data_fingerprint=row["data_fingerprint"], status="running", epochs_completed=epochs,
        attempts=2, failures=("its node went away",), hostname="node7",
    )  # fmt: skip
    assert state.trial_id == name
    folder.trial(name).mkdir(parents=True)
    for kind in ("epochs", "steps"):
        table = folder.read_records(kind)
        own = pc.equal(table["trial_id"], name)
        pq.write_table(table.filter(own), folder.trial(name) / f"{kind}.parquet")
        folder.write_records(kind, table.filter(pc.invert(own)))
    folder.write_records("trials", trials.slice(0, len(trials) - 1))
    write_state(folder.trial(name), state)
    return name


def set_epochs(folder: StudyFolder, name: str, epochs: int, **changes: object) -> None:
    path = folder.trial(name) / "trial.json"
    content = {**json.loads(path.read_text()), "epochs_completed": epochs, **changes}
    path.write_text(json.dumps(content))
    os.utime(path, (time.time() + epochs, time.time() + epochs))


def test_numbers_are_those_of_the_report(client: TestClient, small: StudyFolder) -> None:
    study = load_study(small)
    for name, table in build_tables(study).items():
        if name == "trials" or table.frame.empty:
            continue  # a part of its own; nothing to show
        shown = Texts(client.get(f"/studies/small/blocks/table-{name}").text).rows
        assert shown == Texts(build_page_table(table).html).rows, name
        assert client.get(f"/api/studies/small/tables/{name}.csv").text == to_csv(table)
    assert "final test accuracy" in client.get("/studies/small/blocks/verdict").text


def test_a_finished_page_says_what_the_report_says_in_the_same_order(client: TestClient, small: StudyFolder) -> None:
    study = load_study(small)
    named = [(kind, subject, kind.name + subject.suffix) for kind, subject in plan_figures(study)]
    figures = [
        (StudyFigure(name, kind.section, kind.title_of(about), "", "", None, "not drawn here"), None)
        for kind, about, name in named
    ]
    report = render_page(study, build_tables(study), figures)
    page = client.get("/studies/small").text
    page = re.sub(r'data-part="figure-([^"]*)">|data-chart="([^"]*)">', r'><figure id="figure-\1\2">', page)
    page = re.sub(r'data-part="([^"]*)">', lambda m: ">" + client.get(f"/studies/small/blocks/{m[1]}").text, page)
    page = re.sub(r'(?s)<table class="map">.*?</table>', "", page)  # a picture in the report, of more than two cells
    page, report = (
        re.sub(r'(?s)<section id="trials".*?</section>', "", text) for text in (page, report)
    )  # it has links
    page = page.replace("Verdict so far", "Verdict")
    for what in (r"<h2>([^<]*)</h2>", r'<figure id="([^"]*)">', r'<p class="lead">(.*)', r'id="block-([^"]*)"'):
        assert re.findall(what, page) == re.findall(what, report), what
    assert Texts(page).rows == Texts(report).rows


def test_page_has_the_parts_of_the_report_in_its_order(client: TestClient, small: StudyFolder) -> None:
    shows = client.get("/api/studies/small").json()["shows"]
    places = [section_place(slot["section"]) for slot in shows]
    assert places == sorted(places)
    assert {slot["name"] for slot in shows if slot["kind"] == "chart"} >= {
        "training_curves", "dynamics_by_group", "noise_scale", "learning_rate"
    }  # fmt: skip
    page = client.get("/studies/small").text
    assert "the means over seeds." in page
    assert "single trials" not in page, "which the picture of the report shows, not the chart"
    assert len(ids := re.findall(r'<section id="([^"]*)"', page)) == len(set(ids))
    for slot in shows:
        assert f'data-{"chart" if slot["kind"] == "chart" else "part"}="' in page
        if slot["kind"] == "figure":
            assert client.get(f"/studies/small/blocks/figure-{slot['name']}").status_code == 200


def test_a_chart_holds_the_means_over_seeds_and_is_sent_once(client: TestClient, small: StudyFolder) -> None:
    whole = client.get(CURVES).json()
    assert whole["whole"]
    rows = whole["rows"]
    epochs = load_study(small).epochs
    trials = load_study(small).trials.set_index("trial_id")["cell_id"]
    first = next(iter(load_study(small).cells))
    own = epochs[(epochs["trial_id"].map(trials) == first) & (epochs["epoch"] == 2)]["test_accuracy"]
    found = [
        (mean, sd, num)
        for panel, cell, epoch, mean, sd, num in zip(
            *(rows[name] for name in ("panel", "cell", "epoch", "mean", "sd", "num")), strict=True
        )
        if (panel, cell, epoch) == ("test_accuracy", 0, 2)
    ]
    assert found == [(pytest.approx(own.mean(), rel=1e-5), pytest.approx(own.std(), rel=1e-5), len(own))]
    again = client.get(f"{CURVES}?since={whole['version']}").json()
    assert not again["whole"]
    assert again["rows"]["mean"] == []


def test_a_running_trial_is_followed_epoch_by_epoch(root: Path, small: StudyFolder) -> None:
    name = take_apart(small, epochs=1)
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    before = client.get(CURVES).json()
    assert client.get("/api/studies/small").json()["trials"] == {"completed": 5, "running": 1}
    set_epochs(small, name, 2)
    watch.look()
    news = client.get(f"{CURVES}?since={before['version']}").json()
    assert not news["whole"]
    assert news["rows"]["mean"] == []  # the cell is shown by its completed trials
    detail = client.get(f"/studies/small/blocks/trial-{name}").text
    assert "its node went away" in detail
    assert "its node went away" in client.get("/studies/small/blocks/trials").text
    assert "node7" in detail
    assert "epoch 2/4" in detail
    assert "epoch 3/4" not in detail
    set_epochs(small, name, 4, status="completed")
    watch.look()
    assert client.get("/api/studies").json()[0]["problem"] == ""
    news = client.get(f"{CURVES}?since={before['version']}").json()
    assert set(news["rows"]["cell"]) == {1}, "only the cell that has changed is sent again"
    assert set(news["rows"]["num"]) == {3}
    assert "not final" not in client.get("/studies/small/blocks/verdict").text


def test_a_study_that_has_just_started_has_every_part_and_says_what_is_left_out(root: Path, small: StudyFolder) -> None:
    for path in small.path.glob("*.parquet"):
        path.unlink()
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    shows = client.get("/api/studies/small").json()["shows"]
    charts = [slot["name"] for slot in shows if slot["kind"] == "chart"]
    assert "training_curves" in charts
    for name in charts:
        answer = client.get(f"/api/studies/small/charts/{name}")
        assert (answer.status_code, bool(answer.json()["left_out"])) == (200, True), name
    parts = [f"{slot['kind']}-{slot['name']}" for slot in shows if slot["kind"] != "chart"]
    for part in ("verdict", "map", "trials", *(f"text-{slot['section']}" for slot in shows), *parts):
        assert client.get(f"/studies/small/blocks/{part}").status_code == 200, part


def test_files_in_the_middle_of_being_replaced_leave_what_was_read(watch: Watch, small: StudyFolder) -> None:
    client = TestClient(build_app(watch, ["testserver"]))
    good, version = small.records("epochs").read_bytes(), client.get("/api/studies").json()[0]["version"]
    small.records("epochs").write_bytes(good[:100])
    watch.look()
    told = client.get("/api/studies").json()[0]
    assert "epochs.parquet" in told["problem"]
    assert told["version"] == version
    assert client.get(CURVES).json()["rows"]["mean"]
    small.records("epochs").write_bytes(good)
    watch.look()
    assert client.get("/api/studies").json()[0]["problem"] == ""


def test_what_cannot_be_shown_says_why_and_the_rest_is_shown(watch: Watch, small: StudyFolder) -> None:
    small.records("layers").write_bytes(small.records("layers").read_bytes()[:100])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    answer = client.get("/api/studies/small/charts/dynamics_by_group")
    assert answer.status_code == 503
    assert "layers.parquet" in answer.text
    for part in ("verdict", "map", "trials"):
        assert client.get(f"/studies/small/blocks/{part}").status_code == 200, part
    for build, error in (
        (lambda study: study.epochs["nowhere"], "KeyError"),
        (lambda study: study.nothing, "AttributeError"),
    ):
        with pytest.raises(StudyFolderError, match=f"cannot be shown: {error}"):
            watch.studies()["small"].ask("what trips over the records", build)


def test_damaged_newer_and_foreign_studies_say_what_is_wrong(root: Path, small: StudyFolder) -> None:
    for name, content in (("damaged", b"{"), ("newer", None), ("foreign", b'{"a": 1}')):
        (root / name).mkdir()
        study = json.loads(small.study_json.read_text())
        (root / name / "study.json").write_bytes(content or json.dumps({**study, "schema_version": 99}).encode())
    trial = take_apart(small, epochs=1)
    (small.trial(trial) / "trial.json").write_text('{"config"')
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    told = {study["name"]: study for study in client.get("/api/studies").json()}
    assert set(told) == {"small", "damaged", "newer", "foreign"}
    assert "schema version 99" in told["newer"]["problem"]
    assert told["damaged"]["state"] == "cannot be read"
    answer = client.get("/studies/damaged")
    assert answer.status_code == 503
    assert "study.json" in answer.text
    assert "trial.json" in told["small"]["problem"]
    assert told["small"]["trials"] == {"completed": 5}, "the rest of the study is shown"
    assert client.get(CURVES).status_code == 200


@pytest.mark.parametrize(
    "progress",
    ["[" * 200_000, '{"state": "running", "left_s": NaN}', '{"state": "running", "last_failure": "\\ud800"}'],
)
def test_a_hostile_progress_file_hides_no_study(watch: Watch, small: StudyFolder, progress: str) -> None:
    (small.path / "progress.json").write_text(progress)
    watch.look()
    answer = TestClient(build_app(watch, ["testserver"])).get("/api/studies")
    assert [study["name"] for study in answer.json()] == ["small"]


def test_names_that_are_no_text_are_shown_and_asked_for(root: Path, small: StudyFolder) -> None:
    for name in (b"caf\xe9", b"caf\xe8"):
        shutil.copytree(small.path, os.fsdecode(os.fsencode(root) + b"/" + name))
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    names = [study["name"] for study in client.get("/api/studies").json()]
    assert names == ["small", "caf\ufffd", "caf\ufffd-2"] or names == ["caf\ufffd", "caf\ufffd-2", "small"]
    for name in set(names) - {"small"}:
        answer = client.get(f"/studies/{quote(name)}")
        assert (answer.status_code, "can't encode" in answer.text) == (503, True), "no Parquet file has such a name"


def test_folders_that_cannot_be_read_hide_no_other(
    root: Path, small: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the file system are raised here: the user who runs the tests may be allowed everything."""
    for name in ("other", "piped"):
        shutil.copytree(small.path, root / name)
    (root / "theirs").mkdir()
    (root / "piped" / "steps.parquet").unlink()
    os.mkfifo(root / "piped" / "steps.parquet")
    denied = {root / "theirs" / "study.json", root / "other" / "trials"}

    def deny(of_path: Any) -> Any:
        def ask(path: Path, *arguments: Any, **options: Any) -> Any:
            if path in denied:
                raise PermissionError(13, "Permission denied", str(path))
            return of_path(path, *arguments, **options)

        return ask

    for name in ("is_file", "iterdir", "stat"):
        monkeypatch.setattr(Path, name, deny(getattr(Path, name)))
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    told = {study["name"]: study["problem"] for study in client.get("/api/studies").json()}
    assert set(told) == {"small", "other", "piped"}
    assert told["small"] == ""
    assert "trials: cannot be listed" in told["other"]
    assert "steps.parquet: is no regular file" in told["piped"]
    assert client.get("/studies/other").status_code == 200, "what was gathered is shown"
    denied |= {root, root / "small" / "study.json"}
    watch._next_search = 0.0
    watch.look()
    assert {study["name"] for study in client.get("/api/studies").json()} == set(told), "they count as they were"
    denied.clear()
    watch.look()
    assert client.get("/api/studies").json()[0]["problem"] == ""


def test_looking_goes_on_after_an_error_of_any_kind(
    watch: Watch, small: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(watched, "_fingerprint", lambda folder: 1 / 0)
        watch.look()
        assert "ZeroDivisionError" in watch.studies()["small"].problem
    watch.look()
    assert watch.studies()["small"].problem == ""
    calls: list[int] = []

    def look() -> None:
        calls.append(1)
        raise RuntimeError("a hiccup")

    async def look_for_a_while() -> None:
        task = asyncio.create_task(server._repeat(look))
        while len(calls) < 3:
            await asyncio.sleep(0)
        task.cancel()

    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.0)
    asyncio.run(asyncio.wait_for(look_for_a_while(), 60))


def test_states_follow_from_the_folder(small: StudyFolder) -> None:
    def state() -> str:
        study = WatchedStudy(small)
        study.look()
        return str(describe(study)["state"])

    assert state() == "done"
    take_apart(small, epochs=1)
    assert state() == "unfinished", "an earlier version told of no end"
    progress = small.path / "progress.json"
    progress.write_text(json.dumps({"state": "running", "num_trials": 6, "num_done": 5, "left_s": 60.0}))
    assert state() == "running"
    os.utime(progress, (time.time() - 300, time.time() - 300))
    assert state() == "lost", "a driver that has written nothing for minutes does not live"
    progress.write_text(json.dumps({"state": "ended with an error", "reason": "disk full"}))
    assert state() == "ended with an error"


def test_texts_of_a_hostile_study_stay_text(root: Path) -> None:
    study = write_hostile_study(root / "hostile")
    watch = Watch([root])
    watch.look()
    client = TestClient(build_app(watch, ["testserver"]))
    parts = ["verdict", "map", "trials", "table-comparison", "table-claims", "figure-samples", "text-confounds"]
    parts.append(f"trial-{study.trials['trial_id'].iloc[0]}")
    pages = ["/", "/studies/hostile", *(f"/studies/hostile/blocks/{part}" for part in parts)]
    for page in pages:
        answer = client.get(page)
        assert answer.status_code == 200, page
        assert "<script>window" not in answer.text, page
        assert "<img src=x" not in answer.text, page
        assert "\u202e" not in answer.text, page
    told = client.get("/studies/hostile/blocks/trials").text
    assert "&lt;script&gt;" in told
    answer = client.get("/api/studies/hostile/tables/trials")
    assert answer.headers["content-type"] == "application/json"
    assert HOSTILE in {row["reason"] for row in answer.json()["rows"]}


def test_answers_are_guarded(watch: Watch, root: Path) -> None:
    client = TestClient(build_app(watch, ["testserver"]))
    for path in ("/", "/studies/small", "/api/studies", "/assets/page.js", "/nowhere"):
        headers = client.get(path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/studies", headers={"host": "evil.example"}).status_code == 400
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/api/studies/small").status_code == 405
    for path in ("/studies/..%2f..%2fetc", "/studies/nowhere", "/assets/..%2fserver.py", "/assets/secret",
                 "/studies/small/blocks/figure-nothing", "/studies/small/blocks/nothing",
                 "/api/studies/small/charts/samples", "/api/studies/small/tables/nothing",
                 "/studies/small/blocks/trial-..%2f..%2fx"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    (root / "outside").mkdir()
    (root / "link").symlink_to(root / "small")
    watch.look()
    watch._next_search = 0.0
    watch.look()
    assert [study["name"] for study in client.get("/api/studies").json()] == ["small"]


def test_token_is_asked_for_and_taken_once(watch: Watch) -> None:
    app = build_app(watch, ["testserver"], token="secret")
    client = TestClient(app, follow_redirects=False)
    for path in ("/", "/api/studies", "/assets/page.js", "/?token=wrong"):
        assert client.get(path).status_code == 403
    assert client.get("/api/studies", headers={"authorization": "Bearer secret"}).status_code == 200
    answer = client.get("/studies/small?x=step&token=secret")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies/small?x=step")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=lax" in answer.headers["set-cookie"], "as of a link on another site"
    for cookie, status in ((f"{COOKIE}=secret", 200), (f"{COOKIE}=s%e9cret", 403), ("=;;\x01", 403)):
        assert TestClient(app).get("/", headers={"cookie": cookie}).status_code == status
    stale = {"cookie": f"{COOKIE}=stale", "authorization": "Bearer secret"}
    assert TestClient(app).get("/api/studies", headers=stale).status_code == 200
    port = {"host": "testserver:8791"}
    assert client.get("/?token=secret", headers=port).headers["set-cookie"].startswith(f"{COOKIE}_8791=")
    for cookie, status in ((f"{COOKIE}_8790=other; {COOKIE}_8791=secret", 200), (f"{COOKIE}_8790=secret", 403)):
        assert TestClient(app).get("/", headers={**port, "cookie": cookie}).status_code == status


def test_what_has_not_changed_is_not_sent_again(client: TestClient, watch: Watch, small: StudyFolder) -> None:
    first = client.get("/studies/small/blocks/table-comparison")
    again = client.get("/studies/small/blocks/table-comparison", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    shutil.rmtree(small.path)
    watch._next_search = 0.0
    watch.look()
    assert client.get("/api/studies").json() == []


def test_map_shows_any_metric(client: TestClient) -> None:
    accuracy = client.get("/studies/small/blocks/map").text
    loss = client.get("/studies/small/blocks/map?metric=final_test_loss").text
    assert '<option value="final_test_accuracy" selected>' in accuracy
    assert '<option value="final_test_loss" selected>' in loss
    assert accuracy != loss
    assert "n = 3" in accuracy


def test_what_is_kept_is_bounded(client: TestClient, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    small = watch.studies()["small"]
    assert client.get("/studies/small/blocks/verdict").status_code == 200
    client.get("/studies/small/blocks/map?metric=final_test_loss")
    client.get("/studies/small/blocks/trials?status=failed&page=0")
    kept = len(small._built)
    for asked in (
        "verdict?metric=x",
        "verdict?page=1",
        "map?metric=final_test_loss&page=1",
        "trials?metric=x&page=0&status=failed",
    ):
        assert client.get(f"/studies/small/blocks/{asked}").status_code == 200
    for query in ("status=x", f"page={'9' * 5000}", "page=x", "metric=x"):
        assert client.get(f"/studies/small/blocks/trials?{query}").status_code == 200
    assert len(small._built) <= kept + 1, "the trials without a choice"
    for part in ("verdict-x", "map-x", "environment-x", "text-x"):
        assert client.get(f"/studies/small/blocks/{part}").status_code == 404
    monkeypatch.setattr(watched, "_MOST_BUILT", 3)
    for number in range(9):
        client.get(f"/studies/small/blocks/trials?page={number}")
    assert len(small._built) == 3


def test_an_open_stream_follows_the_study_of_its_name(
    watch: Watch, small: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.01)
    app = build_app(watch, ["testserver"])
    told: list[Any] = []

    async def listen() -> None:
        request = Request({"type": "http", "app": app, "path_params": {"name": "small"}, "headers": []})
        stream = await server._Pages(watch, None, controls=False).events(request)
        assert isinstance(stream, StreamingResponse)
        async for part in stream.body_iterator:
            told.append(json.loads(str(part).partition("data: ")[2]))
            if len(told) == 1:  # removed and started anew
                (small.path / "progress.json").write_text('{"state": "running"}')
                watch._studies = {small.path: WatchedStudy(small)}
                watch.look()
            else:
                watch._studies = {}

    asyncio.run(asyncio.wait_for(listen(), 60))
    assert [one["state"] for one in told] == ["done", "running"]
    assert TestClient(app).get("/api/studies/small/events").status_code == 404


def test_pictures_are_drawn_one_at_a_time(root: Path, small: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two studies at once would set the style, which is of the whole process, back for each other."""
    drawing: list[int] = []

    def draw(*_: object) -> None:
        drawing.append(1)
        time.sleep(0.05)
        assert len(drawing) == 1
        drawing.pop()

    monkeypatch.setattr(watched, "draw_study_figure", draw)
    monkeypatch.setattr(watched, "render_figure", draw)
    monkeypatch.setattr(watched, "build_page_picture", lambda *_: "picture")
    studies = [WatchedStudy(small), WatchedStudy(small)]
    for study in studies:
        study.look()
    with ThreadPoolExecutor() as threads:
        assert list(threads.map(lambda study: study.picture("samples"), studies)) == ["picture"] * 2


def test_what_pages_load_is_compressed_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get("/assets/page.js")
    monkeypatch.setattr(gzip, "compress", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(gzip, "GzipFile", lambda *_: 1 / 0)
    again = client.get("/assets/page.js")
    assert (again.headers["content-encoding"], again.text) == ("gzip", first.text)
    plain = client.get("/assets/page.js", headers={"accept-encoding": "identity"})
    assert ("content-encoding" in plain.headers, plain.text) == (False, first.text)


def test_studies_of_a_cluster_are_listed_and_an_unreachable_one_says_so(watch: Watch) -> None:
    status = SimpleNamespace(value="RUNNING", is_terminal=lambda: False)
    job = SimpleNamespace(
        metadata={"study": "far", "results": "/mnt"}, status=status, driver_exit_code=None, start_time=0, submission_id="job-1",
        driver_node_id="node", message=None,
    )  # fmt: skip
    progress = '{"state": "running", "num_trials": 6, "num_done": 2}'
    cluster: Any = SimpleNamespace(
        address="http://head:8265", list_jobs=lambda: [job], read_log_end=lambda *_: progress
    )
    studies = elsewhere.ClusterStudies(cluster)
    client = TestClient(build_app(watch, ["testserver"], cluster=studies))
    studies.look()
    told = client.get("/api/studies").json()[1]
    assert (told["name"], told["state"], told["progress"]["num_done"], told["version"]) == ("far", "running", 2, None)
    cluster.list_jobs = lambda: 1 / 0
    studies._next_look = 0.0
    studies.look()
    told = client.get("/api/studies").json()[1]
    assert (told["name"], "division" in told["problem"]) == ("far", True)


def test_the_address_is_printed_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(serve, "_serve", lambda listener, *_: listener.close() or 0)
    assert serve.main([str(tmp_path), "--open", "--control"]) == 0
    assert opened == [capsys.readouterr().out.split()[1]]
    assert "/?token=" in opened[0]


def test_a_run_serves_its_page_as_long_as_it_runs(small: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with live_page(str(small.path.parent)):
        address = capsys.readouterr().out.split()[-1]
        with urlopen(f"{address}api/studies", timeout=60) as answer:
            assert [study["name"] for study in json.load(answer)] == ["small"]
    with pytest.raises(URLError):
        urlopen(address, timeout=60)


def test_only_the_owners_page_stops_a_study(watch: Watch, small: StudyFolder) -> None:
    plain = TestClient(build_app(watch, ["testserver"]))
    assert plain.post("/api/studies/small/stop").status_code == 404
    assert "data-action" not in plain.get("/studies/small").text
    client = TestClient(build_app(watch, ["testserver"], token="secret"), headers={"cookie": f"{COOKIE}=secret"})
    assert "data-action" in client.get("/studies/small").text
    own = {"origin": "http://testserver"}
    for headers in ({}, {"origin": "http://testserver:99"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert client.post("/api/studies/small/stop", headers=headers).status_code == 403
    answer = client.post("/api/studies/small/stop", headers=own)
    assert (answer.status_code, answer.text) == (409, "no driver works on this study\n")
    assert client.post("/api/studies/small/remove", headers=own).status_code == 404
    # Whoever runs the tests may ignore SIGINT.
    waits = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        driver.stdout.readline()
        start = Path(f"/proc/{driver.pid}/stat").read_text().rpartition(")")[2].split()[19]
        lock = {**describe_driver(), "pid": driver.pid, "process_start": start}
        (small.path / "driver.json").write_text(json.dumps({**lock, "machine": "another", "host": "node7"}))
        assert "node7" in client.post("/api/studies/small/stop", headers=own).text
        (small.path / "driver.json").write_text(json.dumps(lock))
        assert client.post("/api/studies/small/go-on", headers=own).status_code == 409
        assert client.post("/api/studies/small/stop", headers=own).status_code == 202
        assert driver.wait(timeout=60) == -signal.SIGINT
    answer = client.post("/api/studies/small/stop", headers=own)  # its lock stayed behind
    assert (answer.status_code, answer.text) == (409, "no driver works on this study\n")


def test_a_study_goes_on_by_its_own_command_only(watch: Watch, small: StudyFolder, tmp_path: Path) -> None:
    client = TestClient(build_app(watch, ["testserver"], token="secret"), headers={"cookie": f"{COOKIE}=secret"})
    content = json.loads(small.study_json.read_text())
    for attempt, said in (
        ({"command": ["sh", "-c", "touch hacked"], "folder": str(tmp_path)}, "does not say"),
        ({"command": ["python", "-m", "study.run", "--help"], "folder": "/nowhere"}, "not started here"),
    ):
        small.study_json.write_text(json.dumps({**content, "attempts": [attempt]}))
        answer = client.post("/api/studies/small/go-on", headers={"origin": "http://testserver"})
        assert answer.status_code == 409
        assert said in answer.text
    (tmp_path / "evil" / "study").mkdir(parents=True)
    (tmp_path / "evil" / "study" / "__init__.py").touch()
    (tmp_path / "evil" / "study" / "run.py").write_text("print('hacked')")
    evil = {"command": ["python", "-m", "study.run", "--grid", "nowhere.toml"], "folder": str(tmp_path / "evil")}
    log = small.path / "driver.log"
    log.symlink_to(tmp_path / "victim")
    for place, said in (
        (evil["folder"], "driver.log: cannot be written"),
        (".", "not started here"),
        (str(small.path), "part of a study"),
    ):
        small.study_json.write_text(json.dumps({**content, "attempts": [{**evil, "folder": place}]}))
        answer = client.post("/api/studies/small/go-on", headers={"origin": "http://testserver"})
        assert (answer.status_code, said in answer.text) == (409, True), place
    assert not (tmp_path / "victim").exists()
    log.unlink()
    small.study_json.write_text(json.dumps({**content, "attempts": [evil]}))
    watch.look()
    told = client.get("/api/studies/small").json()["goes_on_by"]
    assert told == f"python -m study.run --grid nowhere.toml\nin {evil['folder']}"
    assert client.post("/api/studies/small/go-on", headers={"origin": "http://testserver"}).status_code == 202
    deadline = time.monotonic() + 300
    while "nowhere.toml" not in (small.path / "driver.log").read_text():  # what the command said
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "hacked" not in log.read_text()


def test_a_study_at_a_url_is_fetched_and_followed(
    root: Path, small: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
    monkeypatch.setattr(elsewhere, "FETCH_EVERY_S", 0.0)
    monkeypatch.setattr(elsewhere, "SHARE", 0)
    fetched = elsewhere.FetchedStudy(f"file://{small.path}")
    fetched.look()
    watch = Watch([], [fetched])
    client = TestClient(build_app(watch, ["testserver"], token="secret"), headers={"authorization": "Bearer secret"})
    assert "data-action" not in client.get("/studies/small").text, "its driver is elsewhere"
    assert client.post("/api/studies/small/stop", headers={"origin": "http://testserver"}).status_code == 409
    told = client.get("/api/studies").json()[0]
    assert (told["name"], told["state"]) == ("small", "done")
    progress = small.path / "progress.json"
    for content, age_s, state in (
        ("running", 0, "running"),
        ("running", 300, "lost"),
        ("interrupted", 300, "interrupted"),
    ):
        progress.write_text(json.dumps({"state": content, "updated_at": str(age_s)}))
        os.utime(progress, (time.time() - age_s, time.time() - age_s))
        fetched.look()
        assert client.get("/api/studies").json()[0]["state"] == state
    assert client.get("/api/studies").json()[0]["version"] == told["version"], "no record has changed"
    before = client.get(CURVES).json()
    epochs = small.read_records("epochs")
    place = epochs.schema.get_field_index("test_accuracy")
    small.write_records(
        "epochs", epochs.set_column(place, epochs.schema.field(place), pc.multiply(epochs["test_accuracy"], 0.5))
    )
    fetched.look()
    news = client.get(f"{CURVES}?since={before['version']}").json()
    assert set(news["rows"]["panel"]) == {"test_accuracy"}
    shutil.rmtree(small.path)
    fetched.look()
    told = client.get("/api/studies").json()[0]
    assert "small" in told["problem"]
    assert client.get(CURVES).json()["rows"]["mean"], "what was fetched still stands"
    shutil.copytree(fetched.folder.path, small.path)
    fetched.look()
    assert client.get("/api/studies").json()[0]["problem"] == ""
