"""The control room's server: pages, one stream of changes, and the few requests that do something.

A page gets the board whole and then numbered changes as server-sent events (WHATWG HTML, section 9.2); a browser that
reconnects names the last number it has seen.  Whoever reads slowly holds up nobody: each stream sends what changed since its own
last message, when the one before has gone out.

Who may ask for what is :mod:`lab.dashboard.door`'s to say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lab.calibration.steps import Step
from lab.dashboard.actions import act
from lab.dashboard.board import Board
from lab.dashboard.calibrated import OWN, calibration_page, finding_shown, newest_finding
from lab.dashboard.door import Door, Tokens, foreign, problem
from lab.dashboard.presence import AUDIT_FILE, AUDIT_PAGE, FOLDER
from lab.dashboard.series import LONGEST_KEY, Series
from lab.dashboard.stopping import stop_all
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import RELAY
from orchestrator.wire.control_socket import ControlError, ControlRefusedError

STATIC = Path(__file__).parent / "static"
INDEX = STATIC / "index.html"
MISSING = (
    f"The pages of the dashboard are not in {STATIC}: this installation is not whole, install qunetlab again. The ring goes "
    "on; `qunetlab status` shows it and `qunetlab stop` stops it."
)
PAGES = {
    "": "Wall",
    "ring": "Ring",
    "pairs": "Pairs",
    "queue": "Queue",
    "instruments": "Instruments",
    "calibration": "Calibration",
    "training": "Training",
    "runs": "Runs",
    "attacks": "Attacks",
    "log": "Log",
}
"""What ``/NAME`` shows, by its title; each is drawn by ``static/pages/NAME.js``, the first by ``wall.js``.  Browsers are told
under the key ``pages``."""
SIMULATED_ALONE = ("attacks",)
"""Pages of simulated rings."""
UPDATE_S = 0.1
"""Least time between two messages of a stream."""
BEAT_S = 1.0
"""A stream says at least so often that it is alive."""
LARGEST_BYTES = 16 << 10
SPAN_DIGITS = 9
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
"""Of pages that calibrations and audits wrote: styles and figures are inside, nothing of them runs or reaches us."""


class Changes:
    """Wakes every stream when the board changed; :meth:`ring` may be called from any thread."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None

    def ring(self) -> None:
        """Something changed; costs next to nothing while no stream waits."""
        event, loop = self._event, self._loop
        if event is not None and loop is not None and not loop.is_closed():
            self._event = None
            loop.call_soon_threadsafe(event.set)

    async def wait(self, number: int, timeout_s: float) -> None:
        """Until the board is past ``number``, or for ``timeout_s``."""
        self._loop = asyncio.get_running_loop()
        event = self._event = self._event or asyncio.Event()
        if self._board.number != number:  # it changed before anybody could have been told
            return
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            return


class Application:
    """Everything that the server answers with."""

    def __init__(
        self,
        board: Board,
        machine: Machine,
        tokens: Tokens,
        ending: Callable[[], bool],
        *,
        alone: bool,
        series: Series | None = None,
    ) -> None:
        """``ending`` ends every stream, so that the server can; ``alone``: nobody but this machine can ask."""
        self._alone = alone
        self._series = series or Series()
        self.board, self.machine, self._tokens, self._ending = board, machine, tokens, ending
        self._stopping = ThreadPoolExecutor(2, "dashboard-stop")
        """Stopping waits for no other request."""
        self.changes = Changes(board)
        hidden = () if machine.testbed.simulation is not None else SIMULATED_ALONE
        self._pages = {name: title for name, title in PAGES.items() if name not in hidden}
        board.put("pages", [[name, title] for name, title in self._pages.items()])
        board.changed = self.changes.ring

    def asgi(self, names: Collection[str]) -> Starlette:
        """To be served under these host names."""
        pages = [Route(f"/{name}", self._page) for name in self._pages]
        return Starlette(
            routes=[
                *pages,
                Route("/events", self._events),
                Route("/api/who", self._who),
                Route("/api/board", self._board),
                Route("/api/series", self._trend),
                Route("/api/finding/{owner}/{step}", self._finding),
                Route("/pages/calibration", self._calibration),
                Route(AUDIT_PAGE, self._audit),
                Route("/api/stop", self._stop, methods=["POST"]),
                Route("/api/act/{name}", self._act, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            middleware=[Middleware(Door, names=names, addresses=not self._alone)],
            exception_handlers={404: _nothing_there},
        )

    async def _page(self, _: Request) -> Response:
        if not INDEX.is_file():
            return PlainTextResponse(f"{MISSING}\n", 500)
        return FileResponse(INDEX)

    async def _who(self, _: Request) -> Response:
        return JSONResponse({"testbed": self.machine.testbed.name})

    async def _board(self, _: Request) -> Response:
        return Response(self.board.since(0)[1], media_type="application/json")

    async def _trend(self, request: Request) -> Response:
        """The last ``span`` seconds of the series ``key``; without a key, which there are."""
        key = request.query_params.get("key", "")
        if not key:
            return JSONResponse({"keys": self._series.keys()})
        span = request.query_params.get("span", "600")
        if not (len(span) <= SPAN_DIGITS and span.isascii() and span.isdecimal()):
            return problem(400, "span is a whole number of seconds, such as span=600")
        trend = self._series.trend(key, float(span), self.board.now())
        if trend is None:
            return problem(404, f"there is no series {key[:LONGEST_KEY]!r}; GET /api/series lists them")
        return Response(msgspec.json.encode(trend), media_type="application/json")

    async def _finding(self, request: Request) -> Response:
        """The latest finding of a step and owner, with its curves."""
        owner, step = request.path_params["owner"], request.path_params["step"]
        known = [RELAY, *self.machine.testbed.user_names()]
        if step not in list(Step) or owner not in known:
            return problem(404, f"steps are {', '.join(Step)}; owners are {', '.join(known)}")
        if not self._alone and owner != RELAY:
            return problem(403, f"this is {OWN}")
        try:
            found = await asyncio.to_thread(newest_finding, self.machine.path, Step(step), owner)
        except OSError as error:
            return problem(403, f"cannot be read here: {error}")
        if found is None:
            return problem(404, f"nothing was found by {step} of {owner} yet")
        return JSONResponse(finding_shown(found))

    async def _calibration(self, _: Request) -> Response:
        """The page that calibrations wrote."""
        if not self._alone:
            return PlainTextResponse(f"It has {OWN}.\n", 403)
        if (path := calibration_page(self.machine.path)) is None:
            return PlainTextResponse("No calibration has written a page yet.\n", 404)
        return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    async def _audit(self, _: Request) -> Response:
        """The page of the latest audit that was asked for here."""
        path = self.machine.folder(FOLDER) / AUDIT_FILE
        if not path.is_file():
            return PlainTextResponse("No audit was asked for at a page yet.\n", 404)
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
            await self.changes.wait(number, BEAT_S - UPDATE_S)

    async def _stop(self, request: Request) -> Response:
        if refused := foreign(request):
            return refused
        told = await asyncio.get_running_loop().run_in_executor(self._stopping, stop_all, self.machine)
        return JSONResponse(told)

    async def _act(self, request: Request) -> Response:
        if refused := foreign(request) or self._tokens.refusal(request):
            return refused
        try:
            asked = _plain(await _body(request))
            answer = await asyncio.to_thread(act, self.machine, request.path_params["name"], asked)
        except TooLongError as error:
            return problem(413, str(error))
        except (ValueError, ControlRefusedError) as error:
            return problem(400, str(error))
        except (ControlError, OSError) as error:
            return problem(503, str(error))
        return JSONResponse({"ok": True, "answer": answer})


async def _nothing_there(_: Request, __: Exception) -> Response:
    pages = ", ".join(f"/{name}" for name in PAGES)
    return PlainTextResponse(f"Nothing is at this address.  Pages are {pages}.\n", 404)


class TooLongError(ValueError):
    """A request with more content than any of ours."""


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BYTES:
            raise TooLongError(f"the request is longer than {LARGEST_BYTES} bytes")
    return body


def _plain(body: bytes) -> object:
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is no JSON: {error}") from error
