"""The files that pages load: scripts and styles, compressed once, and sent only to a browser that has not got them."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

from analysis.report.page import read_asset, read_styles


def answer_asset(request: Request) -> Response:
    """The file that a request names. Errors: LookupError."""
    name = request.path_params["name"]
    content, kind = _read(name)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return with_etag(request, Response(compress_asset(name), media_type=kind, headers=headers))
    return with_etag(request, Response(content, media_type=kind))


def with_etag(request: Request, response: Response) -> Response:
    """`response`, or only the word that it is the one that the browser has."""
    etag = f'"{hashlib.sha256(response.body).hexdigest()[:20]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match", "").removeprefix("W/") == etag:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


@cache
def _read(name: str) -> tuple[bytes, str]:
    """One of the files that pages load, and its type."""
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs  # a second to import

        return get_plotlyjs().encode(), "text/javascript"
    if name == "report.css":
        return read_styles().encode(), "text/css"
    if name == "report.js":
        return read_asset(name).encode(), "text/javascript"
    if name not in ("events.js", "overview.js", "page.js", "page.css"):
        raise LookupError(f"no file {name!r}")
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return resources.files("study.page.templates").joinpath(name).read_bytes(), kind


@cache
def compress_asset(name: str) -> bytes:
    """The file of this name, compressed. Errors: LookupError."""
    return gzip.compress(_read(name)[0], mtime=0)  # the same bytes from every server: browsers keep them
