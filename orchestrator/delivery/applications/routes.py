"""Routes of relayed keys: the cheapest by the stocks of all hops."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping

from orchestrator import runtime
from orchestrator.delivery.applications.master_end import MasterEnd

FRESH_S = 2.0
ANSWERS_S = 1.5
AVOIDED_S = 60.0
"""How long other ways are tried first after one has failed."""
Links = Mapping[str, Mapping[str, int]]
"""Free bits for applications, by node and by the node they are shared with."""


def cheapest(links: Links, first: str, last: str, bits: int) -> tuple[str, ...] | None:
    """The nodes between ``first`` and ``last`` on the cheapest way for ``bits``; None where there is none.

    A hop costs the part of its stock that the key takes away, so that scarce pairs are spared; a hop that holds less
    than ``bits`` is none.  Of routes of the same cost the one with fewer hops, then the first by name.
    """
    reached: list[tuple[float, int, tuple[str, ...]]] = [(0.0, 0, (first,))]
    done: set[str] = set()
    while reached:
        cost, hops, way = heapq.heappop(reached)
        here = way[-1]
        if here == last:
            return way[1:-1]
        if here in done:
            continue
        done.add(here)
        for node, free in links.get(here, {}).items():
            if node not in done and free >= bits > 0:
                heapq.heappush(reached, (cost + bits / free, hops + 1, (*way, node)))
    return None


def bottleneck(links: Links, first: str, path: tuple[str, ...], last: str) -> int:
    """Free bits of the poorest hop of a way."""
    way = (first, *path, last)
    return min(links.get(here, {}).get(there, 0) for here, there in itertools.pairwise(way))


class Routes:
    """What this node knows of the stocks of others, as they told it last; thread-safe."""

    def __init__(
        self, own: str, master_ends: Mapping[str, MasterEnd], present: Callable[[str], bool]
    ) -> None:
        self._own = own
        self._master_ends = master_ends
        self._present = present
        self._lock = runtime.lock()
        self._known: dict[str, dict[str, int]] = {}
        self._asked_s = -FRESH_S
        self._asking = False
        self._failed_s: dict[str, float] = {}

    def path(self, links: Links, last: str, bits: int) -> tuple[str, ...] | None:
        """As :func:`cheapest` from here, without nodes that lost a key lately, if there is such a way.

        A node that claims more than it has would otherwise draw every key to itself.
        """
        with self._lock:
            now = runtime.now()
            avoided = {node for node, at in self._failed_s.items() if now - at < AVOIDED_S}
        others = {node: bits_to for node, bits_to in links.items() if node not in avoided}
        return cheapest(others, self._own, last, bits) or cheapest(links, self._own, last, bits)

    def failed(self, path: tuple[str, ...]) -> None:
        """A key did not get through by this way; nobody knows by whose fault."""
        with self._lock:
            self._failed_s |= dict.fromkeys(path, runtime.now())

    def ask(self) -> Links:
        """Ask every node that is there; takes at most :data:`ANSWERS_S`."""
        try:
            known = self._heard()
            with self._lock:
                self._known, self._asked_s = known, runtime.now()
        finally:
            with self._lock:
                self._asking = False
        return known

    def _heard(self) -> dict[str, dict[str, int]]:
        deadline = runtime.now() + ANSWERS_S
        asked = {
            peer: master_end.links() for peer, master_end in self._master_ends.items() if self._present(peer)
        }
        known = {self._own: {peer: self._master_ends[peer].free_bits() for peer in asked}}
        for peer, future in asked.items():
            try:
                known[peer] = future.result(max(0.0, deadline - runtime.now()))
            except (TimeoutError, runtime.CancelledError):
                known[peer] = {}
        return known

    def known(self) -> Links:
        """What was answered last; asks again behind the caller's back if that was a while ago."""
        with self._lock:
            old = runtime.now() - self._asked_s > FRESH_S and not self._asking
            self._asking = self._asking or old
            known = self._known
        if old:
            runtime.spawn(self.ask, name="key-routes")
        return known
