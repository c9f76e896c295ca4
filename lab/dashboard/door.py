"""Who may ask the control room for what.

A page of somebody else's that a browser of ours has open must neither read nor do anything here: the ``Host`` must be a name
that we serve under, or an address (DNS rebinding needs a name), a request that does something must come from our own origin
(``Origin`` of RFC 6454, Fetch Metadata), and nothing but our own scripts and styles runs (Content-Security-Policy).  Whoever
asks for an action shows the token; it is compared in constant time, and wrong ones are answered ever fewer.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of every answer, unless it has its own."""
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
WRONG_KEPT = 5
"""Wrong tokens in :data:`WRONG_S` after which no further is looked at."""
WRONG_S = 60.0
ADDRESSES_KEPT = 256


class Door:
    """Around the application: strange hosts are turned away, :data:`HEADERS` go with every answer.

    ``names``: the host names that we serve under; ``addresses``: any address is good as well.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], *, addresses: bool) -> None:
        self._app, self._names, self._addresses = app, {each.lower() for each in names}, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[Any] = list(message.get("headers", []))
                own = {name for name, _ in given}
                message["headers"] = [*given, *(each for each in _HEADERS if each[0] not in own)]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._serves(Request(scope).headers.get("host", "")):
            refusal = PlainTextResponse("this dashboard does not serve under that host name\n", 421)
            await refusal(scope, receive, sending)
        else:
            await self._app(scope, receive, sending)

    def _serves(self, host: str) -> bool:
        name = host_name(host)
        return name in self._names or (self._addresses and is_address(name))


def host_name(host: str) -> str:
    """The name of a ``Host`` header, without port and brackets (RFC 9110, section 7.2)."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def foreign(request: Request) -> Response | None:
    """A refusal for what a page of another origin sends."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site not in (None, "same-origin", "none") or origin not in (None, own):
        return problem(403, "asked by a page of another origin")
    return None


def problem(status: int, text: str) -> Response:
    """An answer that says what is wrong."""
    return JSONResponse({"ok": False, "error": text}, status)


class Tokens:
    """Checks tokens; ``why_none`` says why there is none to check against."""

    def __init__(self, token: str, why_none: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._why_none, self._clock = token.encode(), why_none, clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def refusal(self, request: Request) -> Response | None:
        """Why the request is not allowed; None for one that shows the token."""
        if self._why_none or not self._token:
            return problem(503, f"no action but stopping is possible: {self._why_none}")
        address = request.client.host if request.client else ""
        wrong = self._wrong.get(address, deque())
        while wrong and wrong[0] < self._clock() - WRONG_S:
            wrong.popleft()
        if len(wrong) >= WRONG_KEPT:
            return problem(
                429,
                f"{WRONG_KEPT} wrong tokens came from there: wait for {WRONG_S:.0f} s, and look at the file",
            )
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._token):
            self._wrong.pop(address, None)
            return None
        wrong.append(self._clock())
        self._wrong[address] = wrong
        self._wrong.move_to_end(address)
        while len(self._wrong) > ADDRESSES_KEPT:
            self._wrong.popitem(last=False)
        return problem(403, "wrong token: it stands in dashboard/token in the state folder")
