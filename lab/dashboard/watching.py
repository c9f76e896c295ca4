"""What the hub tells an observer, onto the board: one thread that never gives up.

Keys: ``link`` (what stands between us and the hub, empty while all is well), ``heard`` (age of the last word is that of this
key), ``testbed``, and ``item/ROLE/KIND/...`` for each item of status with the names that it is about; ``lamp``, what the
wall shows, and ``lasts/FIRST/SECOND``, seconds that a pair's stock lasts at its use (null while nothing is used);
``measured/FIRST/SECOND``, ``[secret bits per second of light, QBER]`` of its newest :data:`MEASURED_KEPT` stored blocks.  A log of sentences goes under ``log/NUMBER``, the newest :data:`LOG_KEPT`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from lab.dashboard.board import Board
from lab.dashboard.lamp import Plan, lamp
from lab.dashboard.pairs_now import PairsNow
from lab.dashboard.sentences import sentence
from lab.dashboard.series import Series
from lab.runs.following.observer import Heard, Observer, ObserverError
from lab.runs.following.verdict import Facts
from lab.testbed import Testbed, TestbedError
from orchestrator.events.status import RELAY, BlockReport, Learning, Pair

logger = logging.getLogger(__name__)
POLL_S = 0.1
CONNECT_S = 1.0
AGAIN_S = 0.5
LOG_KEPT = 300
MEASURED_KEPT = 50
LAMP_S = 0.5


class Watch:
    """Follows the hub of a testbed until :meth:`close`.

    ``connect`` makes an observer or raises ObserverError; ``reread`` gives the testbed as its file has it by then: a hub that
    comes later may be written there later.  ``series`` gets every number that has a trend.
    """

    def __init__(
        self,
        board: Board,
        testbed: Testbed,
        secrets: Path,
        connect: Callable[..., Observer] = Observer.connect,
        reread: Callable[[], Testbed] | None = None,
        series: Series | None = None,
    ) -> None:
        self._series = series or Series()
        self._board, self._testbed, self._secrets, self._connect = board, testbed, secrets, connect
        self._reread = reread or (lambda: testbed)
        self._ending = threading.Event()
        self._log: deque[str] = deque()
        self._logged = 0
        self._learning = ""
        self._pairs = PairsNow(self._plan_of)
        self._lit_s = -LAMP_S
        board.put("testbed", described(testbed))
        self._thread = threading.Thread(target=self._follow, name="dashboard-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, and wait for it."""
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ending.is_set():
            try:
                self._testbed = self._reread()
                self._board.put("testbed", described(self._testbed))
                with self._connect(self._testbed, self._secrets, CONNECT_S) as observer:
                    self._listen(observer)
            except (ObserverError, TestbedError, ValueError, OSError) as error:
                self._board.put("link", str(error))
                self._light(Facts((), link=str(error)), time.monotonic())
                self._ending.wait(AGAIN_S)
            except Exception as error:
                # Nobody would notice a thread that ended: the page says what happened, and it goes on.
                logger.exception("watching the hub failed")
                self._board.put("link", f"the dashboard itself failed: {error}")
                self._ending.wait(AGAIN_S)

    def _listen(self, observer: Observer) -> None:
        self._pairs.forget()
        while not self._ending.is_set():
            news = observer.poll(POLL_S)
            for heard in news:
                self.note(heard)
            if observer.synced:
                present = {key_of(heard) for heard in observer.heard.values()}
                for key in set(self._board.keys("item/")) - present:
                    self._board.drop(key)
            facts = observer.facts()
            if news:
                self._board.put("heard", True, at_s=time.monotonic() - facts.heard_s)
            self._board.put("link", facts.link)
            self._light(facts, observer.clock())

    def note(self, heard: Heard) -> None:
        """One word that was heard."""
        key, value = key_of(heard), msgspec.to_builtins(heard.item)
        again = value == self._board.get(key)  # told anew because we subscribed anew
        self._board.put(key, value, at_s=heard.since_s)
        self._pairs.note(heard)
        if not again:
            self._series.note(key, heard.item, heard.since_s)
            self._measured(heard)
        if not again and (said := self._news(heard)):
            self.log(type(heard.item).__name__, heard.role, said, heard.since_s)

    def _measured(self, heard: Heard) -> None:
        item = heard.item
        if isinstance(item, BlockReport) and item.counts(heard.role) and item.stored and item.light_s:
            key = "/".join(("measured", *item.pair))
            points = [*(self._board.get(key) or []), [item.secret_bits / item.light_s, item.qber]]
            self._board.put(key, points[-MEASURED_KEPT:], at_s=heard.since_s)

    def _news(self, heard: Heard) -> str:
        """A sentence; none for a run whose clients wait in turns, which says the same again and again."""
        said = sentence(heard.role, heard.item)
        if isinstance(heard.item, Learning):
            said, self._learning = ("" if said == self._learning else said), said
        return said

    def _light(self, facts: Facts, now_s: float) -> None:
        """The wall's lamp, and how long stocks last."""
        if now_s - self._lit_s < LAMP_S:
            return
        self._lit_s = now_s
        pairs = self._pairs.now(now_s)
        for each in pairs:
            lasts_s = None if each.lasts_s is None else round(each.lasts_s)
            self._board.put("/".join(("lasts", *each.pair.pair)), lasts_s)
        interlocks = {key.split("/")[1]: self._board.get(key) for key in self._board.keys("interlock/")}
        disk = self._board.get("machine")
        free = disk["free_bytes"] / disk["total_bytes"] if disk else None
        said = lamp(facts, pairs, interlocks, free)
        value = msgspec.to_builtins(said)
        at_s = now_s - value.pop("for_s")
        before = self._board.get("lamp")
        if before != value:
            self._board.put("lamp", value, at_s=at_s)

    def _plan_of(self, pair: Pair) -> Plan | None:
        told = self._board.get("/".join(("plan", *pair)))
        return None if told is None else Plan(told["qber"], told["qber_limit"], told["rate_bps"])

    def log(self, kind: str, role: str, text: str, at_s: float) -> None:
        """One line more, of something that happened at ``at_s``: what we are told anew was before we came."""
        key = f"log/{self._logged:09d}"
        self._logged += 1
        clock = time.time() - (time.monotonic() - at_s)
        self._board.put(key, {"kind": kind, "role": role, "text": text, "clock": clock}, at_s=at_s)
        self._log.append(key)
        while len(self._log) > LOG_KEPT:
            self._board.drop(self._log.popleft())


def key_of(heard: Heard) -> str:
    """Where on the board an item stands."""
    return "/".join(("item", heard.role, *heard.item.subject))


def described(testbed: Testbed) -> dict[str, object]:
    """What the pages draw from: names, topology and limits; all of it stands in the public file."""
    return {
        "name": testbed.name,
        "description": testbed.description,
        "users": list(testbed.user_names()),
        "pairs": [list(pair) for pair in testbed.pairs()],
        "simulated": testbed.simulation is not None,
        "instruments": {
            owner: [[each.name, each.model] for each in testbed.instruments if each.owner == owner]
            for owner in (RELAY, *testbed.user_names())
        },
    }
