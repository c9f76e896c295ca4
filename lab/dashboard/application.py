"""The control room's server: pages, one stream of changes, and the few requests that do something.

A page gets the board whole and then numbered changes as server-sent events (WHATWG HTML, section 9.2); a browser that
reconnects names the last number it has seen.  Whoever reads slowly holds up nobody: each stream sends what changed since its own
last message, when the one before has gone out.

What answers to a page of somebody else's is refused: the ``Host`` must be one that we serve (DNS rebinding), a request that does
something must come from our own origin, and nothing but our own scripts and styles runs (Content-Security-Policy).
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.calibration.steps import Step
from lab.dashboard.actions import ActionError, act, stop_all
from lab.dashboard.board import Board
from lab.dashboard.calibrated import OWN, calibration_page, finding_shown, newest_finding
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import RELAY
from orchestrator.wire.control_socket import ControlError, ControlRefusedError

STATIC = Path(__file__).parent / "static"
PAGES = ("", "ring", "pairs", "queue", "instruments", "calibration", "training", "runs", "attacks", "log")
"""What ``/NAME`` shows; each is drawn by ``static/pages/NAME.js``, the first by ``wall.js``."""
UPDATE_S = 0.1
"""Least time between two messages of a stream."""
BEAT_S = 1.0
"""A stream says at least so often that it is alive."""
LARGEST_BYTES = 16 << 10
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
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
"""Of pages that calibrations wrote: styles and figures are inside, nothing of them runs or reaches us."""


class Changes:
    """Wakes every stream when the board changed; :meth:`ring` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None

    def ring(self) -> None:
        """Something changed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self, timeout_s: float) -> None:
        """Until something changed, or for ``timeout_s``."""
        self._loop = asyncio.get_running_loop()
        if self._event is None:
            self._event = asyncio.Event()
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return


class Application:
    """Everything that the server answers with."""

    def __init__(
        self, board: Board, machine: Machine, token: str, ending: Callable[[], bool], *, alone: bool
    ) -> None:
        """``ending`` ends every stream, so that the server can; ``alone``: nobody but this machine can ask."""
        self._alone = alone
        self.board, self.machine, self._token, self._ending = board, machine, token, ending
        self.changes = Changes()
        board.changed = self.changes.ring

    def asgi(self, hosts: list[str]) -> Starlette:
        """To be served under one of these host names."""
        pages = [Route(f"/{name}", self._page) for name in PAGES]
        return Starlette(
            routes=[
                *pages,
                Route("/events", self._events),
                Route("/api/board", self._board),
                Route("/api/finding/{owner}/{step}", self._finding),
                Route("/pages/calibration", self._calibration),
                Route("/api/stop", self._stop, methods=["POST"]),
                Route("/api/act/{name}", self._act, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_Headers)],
        )

    async def _page(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _board(self, _: Request) -> Response:
        return Response(self.board.since(0)[1], media_type="application/json")

    async def _finding(self, request: Request) -> Response:
        """The latest finding of a step and owner, with its curves."""
        owner, step = request.path_params["owner"], request.path_params["step"]
        known = [RELAY, *self.machine.testbed.user_names()]
        if step not in list(Step) or owner not in known:
            return _problem(404, f"steps are {', '.join(Step)}; owners are {', '.join(known)}")
        if not self._alone and owner != RELAY:
            return _problem(403, f"this is {OWN}")
        try:
            found = await asyncio.to_thread(newest_finding, self.machine.path, Step(step), owner)
        except OSError as error:
            return _problem(403, f"cannot be read here: {error}")
        if found is None:
            return _problem(404, f"nothing was found by {step} of {owner} yet")
        return JSONResponse(finding_shown(found))

    async def _calibration(self, _: Request) -> Response:
        """The page that calibrations wrote."""
        if not self._alone:
            return PlainTextResponse(f"It has {OWN}.\n", 403)
        if (path := calibration_page(self.machine.path)) is None:
            return PlainTextResponse("No calibration has written a page yet.\n", 404)
        return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    async def _events(self, request: Request) -> Response:
        seen = request.headers.get("last-event-id") or request.query_params.get("from", "")
        instance, _, number = seen.rpartition(":")
        if seen and not (number.isdecimal() and len(seen) < 64):
            return PlainTextResponse("from is INSTANCE:NUMBER of the last message seen\n", 400)
        stream = self._stream(int(number or 0), instance)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _stream(self, number: int, instance: str) -> AsyncIterator[bytes]:
        while not self._ending():
            number, told = self.board.since(number, instance)
            instance = self.board.instance
            yield f"id: {instance}:{number}\ndata: {told}\n\n".encode()
            await asyncio.sleep(UPDATE_S)
            if self.board.number == number:
                await self.changes.wait(BEAT_S - UPDATE_S)

    async def _stop(self, request: Request) -> Response:
        if refused := _foreign(request):
            return refused
        told = await asyncio.to_thread(stop_all, self.machine, "")
        return JSONResponse({"ok": all(each["ok"] for each in told), "roles": told})

    async def _act(self, request: Request) -> Response:
        if refused := _foreign(request):
            return refused
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _problem(403, "wrong token: it stands in dashboard/token in the state folder")
        try:
            asked = json.loads(await _body(request) or b"{}")
            if not isinstance(asked, dict):
                raise ActionError("the request must be a JSON object")
            answer = await asyncio.to_thread(partial(act, self.machine, request.path_params["name"], asked))
        except (ValueError, RecursionError, ControlRefusedError) as error:
            return _problem(400, str(error))
        except (ControlError, OSError) as error:
            return _problem(503, str(error))
        return JSONResponse({"ok": True, "answer": answer})


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BYTES:
            raise ActionError(f"the request is longer than {LARGEST_BYTES} bytes")
    return body


def _foreign(request: Request) -> Response | None:
    """A refusal for what a page of another origin sends; browsers tell (Fetch Metadata, and Origin of RFC 6454)."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    if site not in (None, "same-origin") or origin not in (None, own):
        return _problem(403, "asked by a page of another origin")
    return None


def _problem(status: int, text: str) -> Response:
    return JSONResponse({"ok": False, "error": text}, status)


_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class _Headers:
    """Adds :data:`HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given: list[Any] = list(message.get("headers", []))
                own = {name for name, _ in given}
                given += [each for each in _HEADERS if each[0] not in own]
                message["headers"] = given
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)
