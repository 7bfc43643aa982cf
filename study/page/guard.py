"""Who may ask the page's server: safety headers on every answer, and the token where there is one. Knows no study."""

from __future__ import annotations

import contextlib
import hmac
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "study_token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip


class Guard:
    """Puts the safety headers on every answer, and asks for the token where there is one."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        answer: ASGIApp = self._app
        if self._token is not None and not self._knows_token(request):
            query = dict(parse_qsl(request.url.query, keep_blank_values=True))
            if self._is_token(query.pop("token", "")):
                answer = RedirectResponse(
                    "/" + request.url.path.lstrip("/") + ("?" + urlencode(query) if query else ""), 303
                )
                # Lax: a link on another site brings it along. What changes anything asks for the page's own origin.
                answer.set_cookie(_cookie_name(request), self._token, httponly=True, samesite="lax")
            else:
                answer = PlainTextResponse(
                    "this page needs its token: open the address that `study serve` printed last\n", 403
                )
        await answer(scope, receive, send_safely)

    def _knows_token(self, request: Request) -> bool:
        cookies = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookies.load(request.headers.get("cookie", ""))
        cookie = cookies.get(_cookie_name(request))
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        return (cookie is not None and self._is_token(cookie.value)) or (
            scheme.lower() == "bearer" and self._is_token(bearer)
        )

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _cookie_name(request: Request) -> str:
    """A name for each port: browsers send a host's cookies to all of them."""
    port = request.headers.get("host", "").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() else COOKIE
