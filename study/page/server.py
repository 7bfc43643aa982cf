"""The page's server: what a browser, a notebook or curl may ask for, and who may ask.

    /                                    every study
    /studies/NAME                        one study; /studies/NAME/blocks/PART is a part of it as HTML
    /api/studies                         every study as JSON
    /api/studies/NAME                    one study: state, cells, seeds, figures and tables that there are
    /api/studies/NAME/charts/FIGURE      a chart's rows, with ?since=VERSION only those that are newer
    /api/studies/NAME/tables/TABLE       a table's raw numbers; TABLE.csv as CSV
    /api/studies/NAME/trials             every trial
    /api/events, /api/studies/NAME/events    server-sent events: the state, as often as it changes

It only reads, unless a token is set: then POST /api/studies/NAME/stop and .../go-on do what they say. Requests must name one of the allowed hosts, which keeps a foreign page from asking through the user's browser; where a
token is set they must bring it, in the address once, then as a cookie, or as `Authorization: Bearer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from analysis.figures import figure_kinds
from analysis.records.study_folder import StudyFolderError
from analysis.report.page import show_invisible
from analysis.results.formats import to_csv
from analysis.results.result_table import ResultTable
from analysis.tables import build_tables, table_kinds
from study.page.assets import answer_asset, compress_asset, with_etag
from study.page.blocks import list_trials, plan_sections, render_block, templates
from study.page.control import ControlError, describe_command, go_on, stop
from study.page.elsewhere import ClusterStudies
from study.page.guard import Guard
from study.page.live_study import LiveStudy
from study.page.watched import LOOK_EVERY_S, Watch, WatchedStudy, describe

_log = logging.getLogger(__name__)
_KEEP_ALIVE_S = 15.0
_TRIAL_COLUMNS = ("trial_id", "label", "seed", "status", "reason", "epochs_completed", "attempts", "failures", "hostname",
                  "hardware", "gpu_ids", "started_at", "ended_at", "wall_time_s")  # fmt: skip


def build_app(
    watch: Watch, hosts: list[str], token: str | None = None, cluster: ClusterStudies | None = None
) -> Starlette:
    """The server's application. `hosts` are the names under which it may be asked; `token` None asks for none."""
    pages = _Pages(watch, cluster, controls=token is not None)
    study = "/api/studies/{name}"
    routes = [
        Route("/", pages.overview),
        Route("/studies/{name}", pages.study),
        Route("/studies/{name}/blocks/{block}", pages.block),
        Route("/assets/{name}", answer_asset),
        Route("/api/studies", pages.list_studies),
        Route("/api/events", pages.all_events),
        Route(study, pages.describe_study),
        Route(f"{study}/events", pages.events),
        Route(f"{study}/charts/{{figure}}", pages.chart),
        Route(f"{study}/tables/{{table}}", pages.table),
        Route(f"{study}/trials", pages.trials),
        *([Route(f"{study}/{{action:str}}", pages.control, methods=["POST"])] if token is not None else []),
    ]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
        Middleware(Guard, token=token),
        Middleware(GZipMiddleware),
    ]
    errors: dict[Any, Any] = {
        StudyFolderError: _error(503), LookupError: _error(404), ControlError: _error(409), OSError: _error(503),
    }  # fmt: skip
    app = Starlette(routes=routes, middleware=middleware, lifespan=pages.looking, exception_handlers=errors)
    app.state.is_ending = lambda: False  # whoever runs the server tells it: streams would keep it from ending
    return app


class _Pages:
    """The answers; each study is looked at in the background."""

    def __init__(self, watch: Watch, cluster: ClusterStudies | None, *, controls: bool) -> None:
        self._watch, self._cluster, self._controls = watch, cluster, controls

    @contextlib.asynccontextmanager
    async def looking(self, app: Starlette) -> AsyncIterator[None]:
        """Look at the studies as long as the server runs."""
        looks = [self._watch.look, *(other.look for other in self._watch.others)]
        if self._cluster is not None:
            looks.append(self._cluster.look)
        tasks = [
            asyncio.create_task(_repeat(look)) for look in looks
        ]  # one that is slow keeps none of the others waiting
        await run_in_threadpool(self._watch.look)  # who asks at once finds the studies
        await run_in_threadpool(_warm_up)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    def _find(self, request: Request) -> WatchedStudy:
        name = request.path_params["name"]
        try:
            return self._watch.studies()[name]
        except KeyError:
            raise LookupError(f"no study {name!r}") from None

    def _describe(self, request: Request) -> dict[str, Any]:
        return {**describe(self._find(request)), "name": request.path_params["name"]}

    def _describe_all(self) -> list[dict[str, Any]]:
        here = [{**describe(watched), "name": name} for name, watched in self._watch.studies().items()]
        return [*here, *(self._cluster.describe() if self._cluster is not None else ())]

    def overview(self, request: Request) -> Response:
        return HTMLResponse(show_invisible(templates().get_template("overview.html").render()))

    def study(self, request: Request) -> Response:
        watched = self._find(request)
        sections = watched.ask("sections", plan_sections)
        info = watched.ask("info", lambda study: study.info)
        page = (
            templates()
            .get_template("study.html")
            .render(
                name=request.path_params["name"],
                info=info,
                sections=sections,
                controls=self._controls and not watched.is_copy,
            )
        )
        return with_etag(request, HTMLResponse(show_invisible(page)))

    def block(self, request: Request) -> Response:
        parameters = request.path_params
        text = render_block(
            self._find(request),
            parameters["name"],
            parameters["block"],
            request.query_params,
        )
        return with_etag(request, HTMLResponse(text))

    def list_studies(self, request: Request) -> Response:
        return _Json(self._describe_all())

    def describe_study(self, request: Request) -> Response:
        watched = self._find(request)
        sections = watched.ask("sections", plan_sections)
        info = watched.ask("info", lambda study: study.info)
        slots = [
            {"section": s.id, "kind": slot.kind, "name": slot.name, "title": slot.title}
            for s in sections
            for slot in s.slots
        ]
        cells = [{"cell_id": cell.cell_id, "label": cell.label, "config": cell.config} for cell in info.cells]
        goes_on_by = (
            show_invisible(describe_command(watched.folder, info)) if self._controls and not watched.is_copy else None
        )
        return _Json(
            {
                **self._describe(request),
                "goes_on_by": goes_on_by,
                "cells": cells,
                "seeds": list(info.seeds),
                "shows": slots,
            }
        )

    def chart(self, request: Request) -> Response:
        since = request.query_params.get("since", "0")[:18]
        return _Json(self._find(request).chart(request.path_params["figure"], int(since) if since.isdecimal() else 0))

    def table(self, request: Request) -> Response:
        watched, asked = self._find(request), request.path_params["table"]
        name = asked.removesuffix(".csv")

        def build(study: LiveStudy) -> ResultTable:
            if name not in table_kinds(search=study.info.search is not None):
                raise LookupError(f"no table {name!r}")
            return build_tables(study, [name])[name]

        table = watched.ask(f"raw {name}", build)
        if asked != name:
            return Response(
                to_csv(table), media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{asked}"'}
            )
        return _Json({"name": name, "title": table.title, "notes": table.notes, "rows": _rows(table.frame)})

    def trials(self, request: Request) -> Response:
        return _Json(self._find(request).ask("json trials", lambda s: _rows(list_trials(s)[list(_TRIAL_COLUMNS)])))

    def control(self, request: Request) -> Response:
        """Stop the study or let it go on. A page of another origin, as of another port of this machine, may not ask."""
        watched, action = self._find(request), request.path_params["action"]
        if urlsplit(request.headers.get("origin", "")).netloc != request.headers.get("host"):
            return PlainTextResponse("only the page itself may ask for this\n", 403)
        if watched.is_copy:
            raise ControlError("this is a copy of a study elsewhere")
        if action == "stop":
            stop(watched.folder)
        elif action == "go-on":
            go_on(watched.folder, watched.folder.read_study())
        else:
            raise LookupError(f"no action {action!r}")
        return PlainTextResponse("asked for\n", 202)

    async def events(self, request: Request) -> Response:
        self._find(request)
        return _stream(request, lambda: self._describe(request))

    async def all_events(self, request: Request) -> Response:
        return _stream(request, self._describe_all)


async def _repeat(look: Callable[[], None]) -> None:
    told = ""
    while True:
        try:
            await run_in_threadpool(look)
        except Exception as error:  # noqa: BLE001 - the next look may find all well
            if repr(error) != told:
                _log.exception("a look failed; the next one follows")
            told = repr(error)
        await asyncio.sleep(LOOK_EVERY_S)


def _stream(request: Request, describe_now: Callable[[], Any]) -> StreamingResponse:
    """Server-sent events: what is so now, then whenever it has changed; `alive` now and then shows that the server lives."""
    is_ending = request.app.state.is_ending

    async def events() -> AsyncIterator[str]:
        last, quiet = "", 0.0
        while not is_ending():
            try:
                text = _to_json(await run_in_threadpool(describe_now))
            except LookupError:  # the study is gone; who asks again is told
                return
            if text != last:
                yield f"data: {text}\n\n"
                last, quiet = text, 0.0
            elif quiet >= _KEEP_ALIVE_S:
                yield "event: alive\ndata: 1\n\n"
                quiet = 0.0
            await asyncio.sleep(LOOK_EVERY_S)
            quiet += LOOK_EVERY_S

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return _to_json(content).encode()


def _to_json(content: Any) -> str:
    """JSON in ASCII: texts of a study may hold characters that are none."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON takes them: what is not a number is null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15, default_handler=str))
    return rows


def _warm_up() -> None:
    """What takes seconds the first time, before anybody asks for it."""
    for name in ("plotly.js", "report.css"):
        compress_asset(name)
    figure_kinds()
    table_kinds()
    for name in ("study.html", "blocks.html", "map.html"):
        templates().get_template(name)


def _error(status: int) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse(show_invisible(str(error)) + "\n", status)

    return answer
