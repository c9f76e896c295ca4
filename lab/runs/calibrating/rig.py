"""Relay and stations opened by one process, while no role runs: where calibrations are done without an orchestrator.

What belongs to different owners still meets only as in a lease: the relay's side and each user's side of a light phase
run in threads of their own and talk through channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from lab import needs
from lab.calibration.book import BOOK_FILE, Book, calibrated, read_book
from lab.guard import guarded_station
from lab.light_of import pair_light, ring_light
from lab.runs.calibrating.hands import Hands, NoHands
from lab.station import Station
from lab.testbed import AUTO, Testbed, parse_testbed, read_testbed
from orchestrator.light.calibration.levels import REST
from orchestrator.light.calibration.means import Levels, OnFrame
from orchestrator.light.calibration.relay_bench import RelayBench
from orchestrator.light.clicks import LevelClicks
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments
from orchestrator.light.own_station import OWN_DIRECTION, OwnStation, StationInstruments
from orchestrator.light.relay import RelayLight
from orchestrator.light.timing import FrameTiming
from orchestrator.light.user import ScannedFrame, UserLight
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.channel import Channel
from orchestrator.wire.memory_channel import memory_channel_pair

T = TypeVar("T")
Side: TypeAlias = Callable[[int, Channel], T]
"""What a user does in a light phase, by its place in the pair and its line to the relay."""


@dataclass(frozen=True)
class UserSide:
    """One user's opened instruments."""

    station: StationInstruments
    modulator: object
    light: UserLight


class Rig:
    """The instruments of all roles of a testbed."""

    def __init__(self, testbed: Testbed, stations: Mapping[str, Station], book: Book, hands: Hands) -> None:
        """``stations``: opened, by owner; ``book``: what is calibrated of the testbed already; ``hands`` move fibres."""
        self._stations = stations
        self.hands = hands
        self.book = book
        self.use(testbed)

    def use(self, testbed: Testbed) -> None:
        """Work with these values from here on: the same testbed, calibrated further."""
        self.testbed, stations = testbed, self._stations
        relay = stations["relay"]
        self.relay = RelayInstruments.of(relay)
        self.relay_light = RelayLight(testbed, self.relay)
        self.users = {user: self._user(user, stations[user]) for user in testbed.user_names()}

    def _user(self, user: str, station: Station) -> UserSide:
        owned = StationInstruments.of(station)
        modulator = station.get(needs.MODULATOR)
        return UserSide(owned, modulator, UserLight(self.testbed, user, modulator, owned))

    def recalibrated(self, book: Book) -> None:
        """Work with what the book has from here on, and set up everything by it."""
        self.book = book
        data = calibrated(self.testbed.model_dump(mode="json", exclude_unset=True), book)
        self.use(parse_testbed(data, Path(BOOK_FILE)))
        self.set_up()

    def set_up(self) -> None:
        """Everything configured and dark, every station out of the ring."""
        self.relay_light.set_up()
        for user in self.users.values():
            user.light.set_up()

    def relay_means(self) -> RelayBench:
        """What the relay calibrates with."""
        stations = {user: OwnStation(self.testbed, user, side.station) for user, side in self.users.items()}
        return RelayBench(self.testbed, self.relay, stations)

    def planned_mu(self, pair: tuple[str, str]) -> tuple[float, float]:
        """Photons per slot that both users are planned to send, also where a plan makes no key."""
        plan = plan_for(self.testbed, *pair)
        return plan.mu_a, plan.mu_b

    @contextmanager
    def bright(self, user: str, at_tap_w: float) -> Iterator[StationInstruments]:
        """Light of about so much at both sensors of a user, who alone is in the ring, while it lasts; detectors have no bias."""
        ring = ring_light(self.testbed)
        index = self.testbed.user_names().index(user)
        station_light = ring.stations[index]
        nearer_km = min(station_light.position_km, ring.length_km - station_light.position_km)
        passed = index if station_light.position_km < ring.length_km / 2 else len(ring.stations) - 1 - index
        loss_db = ring.relay.launch_loss_db + ring.fibre_db_per_km * nearer_km + ring.bypass_db * (passed + 1)
        arriving_w = ring.relay.laser_w * 10 ** (-loss_db / 10) / 2
        launching = Launching(self.testbed, self.relay)
        station = OwnStation(self.testbed, user, self.users[user].station)
        closed = False
        try:
            station.take_in()
            try:
                launching.shine(max(0.0, 10 * math.log10(arriving_w / at_tap_w)))
                yield self.users[user].station
            finally:
                launching.close()
                closed = True
        finally:
            station.darken()
            if closed:
                station.bypass()
                self.relay.detectors.enabled(True)

    def framed(
        self, pair: tuple[str, str], levels: Mapping[str, Levels], n_frames: int, on_frame: OnFrame
    ) -> dict[str, LevelClicks]:
        """A light phase in which users play private levels, 0 V where ``levels`` has none of them.

        Raises what a side that failed raised, an error of the relay before one of a user.
        """
        mu = self.planned_mu(pair)

        def side(index: int, line: Channel) -> LevelClicks:
            return self.users[pair[index]].light.calibrate(
                line,
                levels=levels.get(pair[index], REST),
                mu=mu[index],
                direction=OWN_DIRECTION[index],
                n_frames=n_frames,
            )

        first, second = self._light_phase(pair, (side, side), n_frames, on_frame)
        return dict(zip(pair, (first, second), strict=True))

    def scanned(
        self,
        pair: tuple[str, str],
        user: str,
        levels: Levels,
        timings: Sequence[FrameTiming],
        on_frame: OnFrame,
    ) -> list[ScannedFrame]:
        """A light phase in which one user plays private levels at these times, while the other stands at rest."""
        mu = self.planned_mu(pair)

        def at_rest(index: int, line: Channel) -> list[ScannedFrame]:
            self.users[pair[index]].light.calibrate(
                line, levels=REST, mu=mu[index], direction=OWN_DIRECTION[index], n_frames=len(timings)
            )
            return []

        def scanning(index: int, line: Channel) -> list[ScannedFrame]:
            return self.users[user].light.scan(
                line, levels=levels, mu=mu[index], direction=OWN_DIRECTION[index], timings=timings
            )

        sides = (scanning, at_rest) if user == pair[0] else (at_rest, scanning)
        first, second = self._light_phase(pair, sides, len(timings), on_frame)
        return first + second

    def _light_phase(
        self, pair: tuple[str, str], sides: tuple[Side[T], Side[T]], n_frames: int, on_frame: OnFrame
    ) -> tuple[T, T]:
        """Both users' sides and the relay's; raises what failed, an error of the relay before one of a user."""
        lines = [memory_channel_pair() for _ in pair]
        budget = pair_light(self.testbed, *pair).budget(self.planned_mu(pair)[0])
        with ThreadPoolExecutor(2) as pool:
            first, second = (pool.submit(side, index, lines[index][0]) for index, side in enumerate(sides))
            self.relay_light.run(
                (lines[0][1], lines[1][1]),
                n_frames,
                # what is counted depends on levels that nobody else knows
                PlannedLight(budget.launch_attenuation_db),
                on_frame=lambda frame, clicks: on_frame(frame),
            )
            return first.result(), second.result()


@contextmanager
def opened_rig(path: Path, hands: Hands | None = None) -> Iterator[Rig]:
    """All instruments of a testbed, guarded and set up; simulated ones are served here where the file leaves it open.

    ``hands`` move fibres at real stations; those of a bench that is served here it moves itself.

    Raises TestbedError, OwnedError while a role has them, and StationError.
    """
    data = read_testbed(path)
    testbed = parse_testbed(data, path)
    with ExitStack() as opened:
        if testbed.simulation is not None and any(each.address == AUTO for each in testbed.instruments):
            from sim_backends.bench import Bench

            bench = opened.enter_context(Bench(testbed))
            testbed, hands = parse_testbed(bench.resolved(data), path), bench
        owners = ("relay", *testbed.user_names())
        with ThreadPoolExecutor(len(owners)) as pool:
            managers = {owner: guarded_station(testbed, path, owner) for owner in owners}
            opening = {owner: pool.submit(each.__enter__) for owner, each in managers.items()}
            failed: list[BaseException] = []
            stations: dict[str, Station] = {}
            for owner, future in opening.items():
                try:
                    stations[owner] = future.result()
                    opened.push(managers[owner])
                except BaseException as error:  # noqa: BLE001 - the others are closed first
                    failed.append(error)
        if failed:
            raise failed[0]
        rig = Rig(testbed, stations, read_book(path, data), hands or NoHands())
        rig.set_up()
        yield rig
