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
from functools import partial
from pathlib import Path

from lab import needs
from lab.calibration.book import BOOK_FILE, Book, calibrated, read_book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Finding
from lab.calibration.steps import Step
from lab.light_of import ring_light
from lab.runs.calibrating.hands import Hands, NoHands
from lab.runs.sessions import answering, opened_session, sensors_watched
from lab.runs.testbeds.folder import STATE
from lab.station import Station
from lab.testbed import Testbed, parse_testbed, read_testbed
from orchestrator.events.status import RELAY
from orchestrator.light.aligning import Climber, own_climber
from orchestrator.light.calibration.means import Pair
from orchestrator.light.calibration.parties import Part, RelayParty, UserParty
from orchestrator.light.calibration.relay_bench import RelayBench
from orchestrator.light.launching import Launching, RelayInstruments
from orchestrator.light.messages import LightAbort, reason_of
from orchestrator.light.own_station import OwnStation, StationInstruments
from orchestrator.light.relay import RelayLight
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.light.user import UserLight
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode
from orchestrator.wire.fields import REASON_LIMIT
from orchestrator.wire.memory_channel import memory_channel_pair


@dataclass(frozen=True)
class UserSide:
    """One user's opened instruments."""

    station: StationInstruments
    modulator: object
    light: UserLight


class Rig:
    """The instruments of all roles of a testbed."""

    def __init__(
        self, testbed: Testbed, stations: Mapping[str, Station], book: Book, hands: Hands, state: Path
    ) -> None:
        """``stations``: opened, by owner; ``book``: what is calibrated of the testbed already; ``hands`` move fibres;
        ``state``: where each role has its folder.
        """
        self._stations = stations
        self._kept = {owner: KeptSettings(state / owner) for owner in stations}
        self.hands = hands
        self.book, self.testbed = book, testbed
        self.relay = RelayInstruments.of(stations["relay"])
        self.relay_light = RelayLight(testbed, self.relay, kept=self._kept["relay"])
        self.users = {user: self._user(user, stations[user]) for user in testbed.user_names()}

    def _user(self, user: str, station: Station) -> UserSide:
        owned = StationInstruments.of(station)
        modulator = station.get(needs.MODULATOR)
        return UserSide(
            owned, modulator, UserLight(self.testbed, user, modulator, owned, kept=self._kept[user])
        )

    def recalibrated(self, book: Book) -> None:
        """Work with what the book has from here on, and set up everything by it; sensors keep their zero."""
        self.book = book
        data = calibrated(self.testbed.model_dump(mode="json", exclude_unset=True), book)
        self.testbed = parse_testbed(data, Path(BOOK_FILE))
        self.relay_light.use(self.testbed)
        for user in self.users.values():
            user.light.use(self.testbed)

    def set_up(self) -> None:
        """Everything configured and dark, every station out of the ring."""
        self.relay_light.set_up()
        for user in self.users.values():
            user.light.set_up()

    def station_of(self, owner: str) -> Station:
        """The opened instruments of relay or user."""
        return self._stations[owner]

    @property
    def is_left_safe(self) -> bool:
        """Once it is closed: whether every instrument read back as safe; what did not, or was not asked, a guard makes safe."""
        return all(station.left_unsafe == {} for station in self._stations.values())

    def relay_means(self) -> RelayBench:
        """What the relay calibrates with."""
        stations = {user: OwnStation(self.testbed, user, side.station) for user, side in self.users.items()}
        return RelayBench(
            self.testbed,
            self.relay,
            stations,
            self.relay_light.polarization,
            self._users_climb,
            self.relay_light.gates_ps(),
        )

    def _users_climb(self, pair: Sequence[str]) -> dict[str, Climber]:
        owned = {user: self.users[user].light.polarization for user in pair}
        return {user: own_climber(own, self.testbed, pair) for user, own in owned.items() if own}

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

    def of_user(self, step: Step, user: str, pair: Pair, part: Part) -> Finding:
        """What a user finds in its turn of a step, relay and partner taking their parts.

        Raises what a side that failed raised, an error of the relay before one of a user.
        """
        lines = [memory_channel_pair() for _ in pair]
        turn, partner = pair.index(user), 1 - pair.index(user)
        relay, far = RelayParty(self.testbed, self.relay_light, self.relay), (lines[0][1], lines[1][1])

        def find() -> Finding:
            with telling(user, lines[turn][0]):
                return self._party(user).find(step, pair, lines[turn][0], part)

        def stand() -> None:
            with telling(pair[partner], lines[partner][0]):
                self._party(pair[partner]).stand(pair, lines[partner][0])

        with ThreadPoolExecutor(2) as pool:
            found, stood = pool.submit(find), pool.submit(stand)
            with telling(RELAY, *far):
                relay.serve(pair, far, turn, lambda done: None)
            stood.result()
            return found.result()

    def _party(self, user: str) -> UserParty:
        side = self.users[user]
        own = OwnStation(self.testbed, user, side.station)
        return UserParty(self.testbed, user, side.light, own, self.book)


@contextmanager
def telling(name: str, *lines: Channel) -> Iterator[None]:
    """Whoever fails tells the other ends who and why, so that nobody waits in vain; what a user is refused they are told anyway."""
    try:
        yield
    except CalibrationRefusedError:
        raise
    except BaseException as error:
        for line in lines:
            line.send(encode(LightAbort(f"{name}: {reason_of(error)}"[:REASON_LIMIT])))
        raise


@contextmanager
def opened_rig(
    path: Path,
    hands: Hands | None = None,
    *,
    state: Path | None = None,
    when_latched: Callable[[str], object] | None = None,
) -> Iterator[Rig]:
    """All instruments of a testbed, guarded and set up; simulated ones are served here where the file leaves it open.

    ``hands`` move fibres at real stations; those of a bench that is served here it moves itself.

    ``state``: where the state folders of roles are; ``when_latched`` is told why an interlock is latched, and it is waited until
    somebody acknowledges.

    Raises TestbedError, OwnedError while a role has them, StationError, and InterlockedError for an interlock that is latched,
    or tripped meanwhile.
    """
    with ExitStack() as opened:
        testbed, bench = opened.enter_context(answering(path))
        hands = bench or hands
        session = opened.enter_context(opened_session(testbed, path, (RELAY, *testbed.user_names()), state))
        session.wait_until_released(when_latched) if when_latched else session.check()
        rig = Rig(
            testbed,
            session.stations,
            read_book(path, read_testbed(path)),
            hands or NoHands(),
            state or path.parent / STATE,
        )
        in_ring = {user: partial(_is_in_ring, rig, user) for user in testbed.user_names()}
        opened.enter_context(sensors_watched(session, in_ring))
        try:
            rig.set_up()
            yield rig
        except Exception:
            session.check()  # an interlock that tripped is why
            raise


def _is_in_ring(rig: Rig, user: str) -> bool:
    return rig.users[user].light.is_in_ring()
