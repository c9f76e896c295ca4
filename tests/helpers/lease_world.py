"""Leases of a ring with real instruments: drivers, twins, stations, light phases and lease parties of relay, alice and bob.

All are in this process; only the hub is replaced by queues.  Whoever has the world is the orchestrator, with its leases.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lab import needs
from lab.light_of import pair_light
from lab.runs.testbeds.folder import template_path
from lab.station import Station
from lab.testbed import Testbed, parse_testbed, resolve_addresses
from orchestrator.light.clicks import BlockClicks
from orchestrator.light.launching import PlannedLight, RelayInstruments
from orchestrator.light.messages import LOST
from orchestrator.light.own_station import OWN_DIRECTION, StationInstruments
from orchestrator.light.relay import RelayLight
from orchestrator.light.user import UserLight
from orchestrator.protocols.four_phase.symbols import FourPhases
from orchestrator.scheduling.fencing import Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty, LightChannels
from orchestrator.scheduling.leases import Outcome, RingLeases
from orchestrator.wire.channel import ChannelBrokenError, ChannelClosedError, ChannelTimeoutError
from orchestrator.wire.messages import KEY, LeaseAbort, LeaseDone, LightStatistics
from sim_backends.bench import Bench

PAIR = ("alice", "bob")
PARTIES = ("relay", *PAIR)
FRAMES, SLOTS = 8, 1 << 14
FAULT_FRAME = 2
MU, P_X = 0.01, 0.75


class Line:
    """One end of a channel that either side may close."""

    def __init__(self) -> None:
        self.incoming: queue.Queue[bytes | ChannelBrokenError | ChannelClosedError] = queue.Queue()
        self.other: Line | None = None

    def send(self, payload: bytes) -> None:
        if self.other is not None:
            self.other.incoming.put(payload)

    def recv(self, timeout_s: float) -> bytes:
        try:
            item = self.incoming.get(timeout=timeout_s)
        except queue.Empty:
            raise ChannelTimeoutError("silence") from None
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.incoming.put(ChannelClosedError("closed here"))
        if self.other is not None:
            self.other.incoming.put(ChannelBrokenError("the peer closed it"))


class QueueAgent:
    """What a lease party needs of an agent."""

    def __init__(self, role: str, world: World) -> None:
        self.role = role
        self.inbox: queue.Queue[Any] = queue.Queue()
        self._world = world

    def control_send(self, message: Any) -> None:
        self._world.heard.put((self.role, message, time.monotonic()))

    def control_recv(self, timeout_s: float) -> Any:
        try:
            return self.inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def channel(self, peer: str, topic: str) -> Line:
        return self._world.line(self.role, peer, topic)

    def close_channel(self, peer: str, topic: str) -> None:
        self._world.line(self.role, peer, topic).close()


class World:
    """Bench, parties and the leases."""

    purposes: tuple[str, ...] = (KEY,)

    def __init__(self, stack: ExitStack, *, quick: bool) -> None:
        data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
        data["protocol"] |= {"slots_per_frame": SLOTS, "pulses_per_block": FRAMES * SLOTS}
        only = [entry["name"] for entry in data["instruments"] if entry["owner"] in PARTIES]
        self.bench = Bench(parse_testbed(data, Path("t")), random.Random(os.getpid()), only=only)
        stack.enter_context(self.bench)
        data = resolve_addresses(data, self.bench.addresses)
        for entry in data["instruments"]:
            entry["options"] = entry.get("options", {}) | self.bench.options.get(entry["name"], {})
            if quick and entry["model"] != "nkt-basik":
                entry["options"] = {**entry["options"], "timeout_s": 0.5}
        self.testbed: Testbed = parse_testbed(data, Path("t"))
        self._light = pair_light(self.testbed, *PAIR)
        self.heard: queue.Queue[tuple[str, Any, float]] = queue.Queue()
        self.kept: dict[str, list[BlockClicks]] = {user: [] for user in PAIR}
        self.why_lost: dict[str, list[str]] = {user: [] for user in PAIR}
        self.plant: Callable[[], None] | None = None
        self.planted_s = 0.0
        self._lines: dict[tuple[str, str, str], Line] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        stack.callback(self._stop.set)
        self.agents = {role: QueueAgent(role, self) for role in PARTIES}
        self.stations = {role: stack.enter_context(Station(self.testbed, role)) for role in PARTIES}
        self._start(stack)
        self.leases = RingLeases(1)

    def line(self, role: str, peer: str, topic: str) -> Line:
        with self._lock:
            here = self._lines.setdefault((role, peer, topic), Line())
            there = self._lines.setdefault((peer, role, topic), Line())
            here.other, there.other = there, here
            return here

    def _start(self, stack: ExitStack) -> None:
        relay = RelayLight(self.testbed, RelayInstruments.of(self.stations["relay"]), timeout_s=8.0)
        relay.set_up()
        self._party(stack, "relay", relay.set_up, lambda lease: self._relay_light(relay, lease))
        for user in PAIR:
            station = self.stations[user]
            owned = StationInstruments.of(station)
            light = UserLight(self.testbed, user, station.get(needs.MODULATOR), owned, timeout_s=8.0)
            light.set_up()
            self._party(stack, user, light.set_up, self._user_run(user, light))

    def _party(
        self,
        stack: ExitStack,
        role: str,
        set_up: Callable[[], None],
        run_light: Callable[[HeldLease], LightStatistics],
    ) -> None:
        def recover() -> None:
            self.stations[role].recover()
            set_up()

        agent: Any = self.agents[role]
        party = LeaseParty(
            agent,
            Fence(),
            objection=lambda offer: None,
            run_light=run_light,
            recover=recover,
            purposes=self.purposes,
        )
        thread = threading.Thread(target=party.serve, args=(self._stop,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._stop.set)

    def _relay_light(self, light: RelayLight, lease: HeldLease) -> LightStatistics:
        def on_frame(frame: int, clicks: object) -> None:
            if frame == FAULT_FRAME and self.plant is not None:
                plant, self.plant = self.plant, None
                self.planted_s = time.monotonic()
                plant()

        agent: Any = self.agents["relay"]
        with LightChannels(agent, lease, PAIR) as channels:
            plan = PlannedLight(self._light.budget(MU).launch_attenuation_db)
            served = light.run((channels[0], channels[1]), lease.n_frames, plan, on_frame=on_frame)
        return LightStatistics(lost_frames=served.lost_frames)

    def _user_run(self, user: str, light: UserLight) -> Callable[[HeldLease], LightStatistics]:
        loss_a, loss_b = self._light.arms_db
        mu = MU if user == PAIR[0] else MU * 10 ** ((loss_b - loss_a) / 10)

        def run(lease: HeldLease) -> LightStatistics:
            agent: Any = self.agents[user]
            with LightChannels(agent, lease, ("relay",)) as (channel,):
                clicks, announcements = light.run(
                    channel,
                    symbols=FourPhases(P_X),
                    mu=mu,
                    direction=OWN_DIRECTION[PAIR.index(user)],
                    n_frames=lease.n_frames,
                    on_lost=self.why_lost[user].append,
                )
            self.kept[user].append(clicks)
            return LightStatistics(lost_frames=announcements.count(LOST))

        return run

    def gone(self, role: str) -> None:
        """What the hub does once a role's process is no more: its channels break, and the orchestrator hears of it."""
        with self._lock:
            lines = [line for (mine, _, _), line in self._lines.items() if mine == role]
        for line in lines:
            line.close()
        self.heard.put((role, None, time.monotonic()))

    def lease(self, purpose: str = KEY) -> tuple[Outcome, float]:
        """One lease to its end, and when the first party reported a failure (0: none did)."""
        noticed_s = 0.0
        orders = self.leases.offer(PAIR, FRAMES, 30.0, time.monotonic(), purpose=purpose)
        while True:
            for role, message in orders:
                self.agents[role].inbox.put(message)
            if outcomes := self.leases.take_outcomes():
                return outcomes[0], noticed_s
            try:
                role, message, at_s = self.heard.get(timeout=0.1)
            except queue.Empty:
                orders = self.leases.time(time.monotonic())
                continue
            if isinstance(message, LeaseDone | LeaseAbort) and not getattr(message, "ok", False):
                noticed_s = noticed_s or at_s
            now_s = time.monotonic()
            orders = (
                self.leases.peer_down(role, now_s)
                if message is None
                else self.leases.heard(role, message, now_s)
            )

    def blocks(self) -> dict[str, int]:
        """How many blocks each user kept."""
        return {user: len(blocks) for user, blocks in self.kept.items()}

    def good_lease(self, within_s: float = 10.0) -> float:
        """Leases until one works; how long that took."""
        started = time.monotonic()
        while True:
            outcome, _ = self.lease()
            if outcome.ok:
                return time.monotonic() - started
            assert time.monotonic() - started < within_s, outcome.reason
            time.sleep(0.05)
