"""A testbed of two users in one process: no sockets, one thread at a time, a clock of its own.

The orchestrator with its hub, both nodes with their stores and delivery services, and both clients are the production
code; what they say travels over the in-memory transport.  Light is a stub: stations in memory whose sensors
read what is planned, and a relay that takes part in leases and announces clicks drawn from
the interference of the two waveforms.  Randomness comes from one seeded stream through the one door.

Everything is made inside :meth:`Simulation.run`, so what happens, and when, follows from the seeds alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from station_in_memory import StationInMemory, sensor_w, slot_phases

from lab.agreed import agreed_on
from lab.testbed import Testbed, parse_testbed
from orchestrator import randomness, runtime
from orchestrator.delivery.client import DeliveryClient, MaskedUpdate
from orchestrator.delivery.consent import DESCRIPTION_VERSION, RunDescription
from orchestrator.delivery.consent_book import ConsentBook
from orchestrator.delivery.masking import add_packed, unpack_values
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.service import DeliveryService
from orchestrator.hub.agent import Agent
from orchestrator.keystore.lanes import Lane, SplitRule
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.light.messages import (
    Armed,
    Finished,
    FrameLost,
    LightOff,
    LightOn,
    StationIn,
    announce,
    block_digest,
    frame_digest,
    read_light_message,
)
from orchestrator.light.own_station import OWN_DIRECTION, Direction
from orchestrator.light.relay import FramesServed
from orchestrator.light.user import UserLight
from orchestrator.processes.node import Node
from orchestrator.processes.orchestrator import Orchestrator
from orchestrator.processes.orchestrator_config import config_of
from orchestrator.processes.role_records import keep_testbed, light_served
from orchestrator.protocols.block_planning import plan_for
from orchestrator.records.keeping import Records
from orchestrator.runtime.simulated import Simulation
from orchestrator.scheduling.fencing import EpochFile, Fence
from orchestrator.scheduling.lease_party import HeldLease, LeaseParty, LightChannels
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import CurveKeys
from orchestrator.wire.memory import MemoryNetwork
from orchestrator.wire.messages import LightStatistics

USERS = ("alice", "bob")
TEMPLATE = Path(__file__).parents[2] / "lab" / "testbeds" / "simulated-reference.toml"
N_VALUES, RING_WIDTH, LEVELS = 40, 12, 255
WEIGHTS = (3, 5)


@dataclass(frozen=True)
class Outcome:
    """What a world left behind."""

    turns: str
    """Digest of every turn of every thread."""
    story: tuple[str, ...]
    """The events of all processes in order, with their times."""
    ledgers: str
    """Digest of the ledgers and epsilons of both stores."""
    stores: tuple[str, ...]
    """Digest of everything in each store's database."""
    keys: tuple[str, ...]
    """Digest of the mask bits that are left in each store."""
    total: npt.NDArray[np.int64]
    expected: npt.NDArray[np.int64]
    seconds: float
    """How long it took on the clock of the world."""


def small_testbed() -> Testbed:
    """Two users on a bright, well known ring with blocks of a million pulses and a generous security parameter."""
    data = tomllib.loads(TEMPLATE.read_text(encoding="utf-8"))
    data["users"] = data["users"][: len(USERS)]
    owners = ("relay", *USERS)
    data["instruments"] = [each for each in data["instruments"] if each["owner"] in owners]
    kept = {each["name"] for each in data["instruments"]}
    for line in ("trigger_sinks", "reference"):
        data["cabling"][line] = [each for each in data["cabling"][line] if each in kept]
    data["protocol"] |= {"pulses_per_block": 1 << 20, "slots_per_frame": 1 << 18, "eps_sec": 1e-6}
    data["ring"] |= {"fibre_loss_db_per_km": 0.02, "bypass_loss_db": 0.1, "relay_loss_db": 0.1}
    data["uncertainty"] |= {
        "sensor_scale_db": 0.02,
        "sensor_zero_pw": 0.005,
        "attenuator_db": 0.01,
        "phase_rad": 0.002,
    }
    return parse_testbed(data, TEMPLATE)


def keys_of(role: str) -> CurveKeys:
    """Stands for a role's key pair; between parts of one program nothing is encrypted."""
    return CurveKeys(role.ljust(40, "."), SecretBits.from_bytes(bytes(40)))


class StubRelay:
    """Takes part in leases as the relay does; its clicks follow from what the modulators play.

    ``untold``: frames that it has no announcement of for a user, as (frame, user's place in the pair).
    """

    untold: frozenset[tuple[int, int]] = frozenset()

    def __init__(
        self,
        testbed: Testbed,
        agent: Agent,
        stations: dict[str, StationInMemory],
        seed: int,
        records: Records | None,
    ) -> None:
        self._records = records or Records(None)
        self._testbed = testbed
        self._agent = agent
        self._stations = stations
        self._rng = np.random.default_rng(seed)

    def run_light(self, lease: HeldLease) -> LightStatistics:
        with LightChannels(self._agent, lease, lease.pair) as channels:
            self._await(channels, StationIn())
            for channel in channels:
                channel.send(encode(LightOn()))
            said, announced = [], 0
            for frame in range(lease.n_frames):
                self._await(channels, Armed(frame))
                clicks = self._clicks(lease.pair)
                data = announce(frame, *clicks)
                said.append(frame_digest(data))
                announced += clicks[0].size
                for side, channel in enumerate(channels):
                    channel.send(encode(FrameLost(frame)) if (frame, side) in self.untold else data)
            self._await(channels, Finished())
            for channel in channels:
                channel.send(encode(LightOff()))
        pulses = lease.n_frames * self._testbed.protocol.slots_per_frame
        served = FramesServed(announced, (), block_digest(said))
        testbed = keep_testbed(self._records, self._testbed)
        self._records.keep(light_served(lease, testbed, served, pulses))
        return LightStatistics(frames=lease.n_frames, pulses=pulses, announced=announced)

    def _await(self, channels: tuple[Channel, ...], expected: StationIn | Armed | Finished) -> None:
        for channel in channels:
            assert read_light_message(channel.recv(10.0)) == expected

    def _clicks(self, pair: tuple[str, str]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """One frame: equal phases meet in the first detector, opposite ones in the second; as many errors as planned."""
        plan = plan_for(self._testbed, *pair)
        gain, visibility = plan.gain, 1 - 2 * plan.qber
        first_rad, second_rad = (self._phases(*each) for each in zip(pair, OWN_DIRECTION, strict=True))
        phases = first_rad - second_rad
        bright = gain / 2 * (1 + visibility * np.cos(phases))
        first = self._rng.random(phases.size) < bright
        second = self._rng.random(phases.size) < gain - bright
        slots = np.flatnonzero(first | second).astype(np.uint32)
        return slots, (first + 2 * second.astype(np.uint8))[slots].astype(np.uint8)

    def _phases(self, user: str, direction: Direction) -> npt.NDArray[np.float64]:
        samples = self._stations[user].generator.trigger()
        assert samples is not None
        return slot_phases(self._testbed, user, direction, samples)


class World:
    """All parties of a small testbed; made, used and closed inside a simulation."""

    def __init__(self, folder: Path, stack: ExitStack, light_seed: int) -> None:
        self.testbed = small_testbed()
        self.folder = folder
        self.story: list[str] = []
        self._stack = stack
        self._network = MemoryNetwork()
        self._stop = runtime.event()
        self._stations = {user: self._station(user) for user in USERS}
        self._start_orchestrator()
        self.stores = {user: self._store(user) for user in USERS}
        records = self._records("relay")
        relay = StubRelay(self.testbed, self._agent("relay"), self._stations, light_seed, records)
        party = LeaseParty(
            relay._agent,
            Fence(EpochFile(folder / "relay-fence")),
            objection=lambda offer: None,
            run_light=relay.run_light,
        )
        self._serve(party.serve, "relay")
        self.clients = {user: self._start_node(user) for user in USERS}

    def _records(self, role: str) -> Records | None:
        """What a role is to put on record, if anything."""
        return None

    def _store_path(self, user: str) -> Path:
        return self.folder / f"{user}.db"

    def _station(self, user: str) -> StationInMemory:
        """Its light is as planned."""
        plan, first = plan_for(self.testbed, *USERS), user == USERS[0]
        station, direction = StationInMemory(), OWN_DIRECTION[0 if first else 1]
        station.shine(sensor_w(self.testbed, user, direction, plan.mu_a if first else plan.mu_b))
        return station

    def _tell(self, who: str) -> Callable[[object], None]:
        return lambda event: self.story.append(f"{runtime.now():.6f} {who} {event!r}")

    def _serve(self, serve: Callable[[runtime.Event], object], name: str) -> None:
        self._stack.callback(runtime.spawn(serve, self._stop, name=name).join)
        self._stack.callback(self._stop.set)

    def _start_orchestrator(self) -> None:
        roles = ("relay", *USERS)
        orchestrator = Orchestrator(
            config_of(self.testbed),
            keys_of("orchestrator"),
            {keys_of(role).public: role for role in roles},
            self.folder,
            transport=self._network,
            emit=self._tell("orchestrator"),
            records=self._records("orchestrator"),
        )
        self._hub = self._stack.enter_context(orchestrator.hub)
        self._serve(orchestrator.serve, "orchestrator")

    def _agent(self, role: str) -> Agent:
        agent = Agent(
            role,
            keys_of(role),
            keys_of("orchestrator").public,
            self._hub.control_endpoint,
            self._hub.bulk_endpoint,
            transport=self._network,
            agreed=agreed_on(self.testbed),
        )
        return self._stack.enter_context(agent)

    def _store(self, user: str) -> KeyStore:
        """A store with the initial secret of the pair, the same at both ends."""
        rng = np.random.default_rng(11)
        kek = Kek(np.random.default_rng(USERS.index(user)).bytes(32))
        split = SplitRule(self.testbed.protocol.auth_refill_bits)
        store = KeyStore.create(self._store_path(user), user, kek, split=split)
        self._stack.callback(store.close)
        forth, back = (SecretBits.from_bytes(rng.bytes(8192)) for _ in range(2))
        (peer,) = set(USERS) - {user}
        end: Literal["first", "second"] = "first" if user == USERS[0] else "second"
        store.install_initial_secret(peer, forth, back, pair_end=end)
        return store

    def _start_node(self, user: str) -> DeliveryClient:
        station = self._stations[user]
        light = UserLight(self.testbed, user, station.generator, station.owned)  # type: ignore[arg-type]
        light.set_up()
        agent, store = self._agent(user), self.stores[user]
        fence = Fence(EpochFile(self.folder / f"{user}-fence"))
        records = self._records(user)
        node = Node(self.testbed, user, light, store, agent, fence, self._tell(user), records=records)
        service = DeliveryService(
            store,
            node.peers,
            node.reserve,
            keys=keys_of(user),
            client_key=keys_of(f"fl-{user}").public,
            client_role=f"fl-{user}",
            demand=node.demand,
            transport=self._network,
            records=records,
        )
        self._stack.enter_context(service)
        self._serve(node.serve, f"node-{user}")
        client = DeliveryClient(
            service.endpoint, keys_of(f"fl-{user}"), keys_of(user).public, transport=self._network
        )
        return self._stack.enter_context(client)

    def masked_round(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The clients ask for key and mask one round; the sum that a server finds, and the sum of the updates."""
        description = described()
        context = RoundContext(
            description.run_id,
            1,
            USERS,
            N_VALUES,
            RING_WIDTH,
            run=description.digest(),
            model=bytes.fromhex(description.first_model),
        )
        rng = np.random.default_rng(5)
        updates = {user: rng.integers(-LEVELS, LEVELS + 1, N_VALUES) for user in USERS}

        def take_part(user: str, peer: str, weight: int) -> MaskedUpdate:
            client, folder = self.clients[user], self.folder / f"fl-{user}"
            ConsentBook(folder).give(user, description)
            client.demand({peer: N_VALUES * RING_WIDTH})
            return client.masked_update(
                context, updates[user], weight, folder, 120.0, lambda wait: self._tell(f"fl-{user}")(wait)
            )

        alice, bob = USERS
        asked = [
            runtime.call(take_part, alice, bob, WEIGHTS[0], name="fl-alice"),
            runtime.call(take_part, bob, alice, WEIGHTS[1], name="fl-bob"),
        ]
        first, second = (each.result().packed for each in asked)
        packed = add_packed(first, second, N_VALUES, RING_WIDTH)
        expected = sum(weight * updates[user] for user, weight in zip(USERS, WEIGHTS, strict=True))
        return unpack_values(packed, N_VALUES, RING_WIDTH), np.asarray(expected)


def described() -> RunDescription:
    """The run that both operators agree to."""
    return RunDescription(
        version=DESCRIPTION_VERSION,
        run_id="one-process",
        task="digits",
        task_fingerprint="f00d",
        data="digits",
        participants=USERS,
        weights=WEIGHTS,
        rounds=1,
        attempts=2,
        mode="otp",
        cipher="otp",
        colluders=0,
        survivors=0,
        smallest_set=len(USERS),
        n_parameters=N_VALUES,
        n_values=N_VALUES,
        ring_width=RING_WIDTH,
        levels=LEVELS,
        clip=1.0,
        clip_decay=1.0,
        keep=1.0,
        error_feedback=False,
        seed=0,
        first_model=(b"\x07" * 32).hex(),
    )


def digest_of(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


def dumped(path: Path) -> Iterator[str]:
    """Every statement that would make the database again."""
    database = sqlite3.connect(path)
    try:
        yield from database.iterdump()
    finally:
        database.close()


def live(folder: Path, seed: int, *, random_seed: int = 1) -> Outcome:
    """One block and one masked round in a world whose threads take turns by ``seed``."""
    stream = np.random.default_rng(random_seed)
    folder.mkdir()
    simulation = Simulation(seed)

    def main() -> dict[str, Any]:
        with ExitStack() as stack:
            world = World(folder, stack, light_seed=3)
            total, expected = world.masked_round()
            books, left = [], []
            stock = world.stores["alice"].stock("bob")[Lane.MASK]
            rest = world.stores["alice"].propose_reservation("bob", Lane.MASK, stock, bytes(32))
            for user, peer in (USERS, USERS[::-1]):
                store = world.stores[user]
                books += [asdict(store.ledger(peer)), asdict(store.epsilons(peer))]
                store.commit_reservation(peer, Lane.MASK, rest, bytes(32))
                left.append(store.release(peer, Lane.MASK, rest, bytes(32)).reveal_bytes())
            return {
                "story": tuple(world.story),
                "ledgers": digest_of(*books),
                "keys": tuple(map(digest_of, left)),
                "total": total,
                "expected": expected,
                "seconds": runtime.now(),
            }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "_system", lambda count: stream.bytes(count))
        seen = simulation.run(main)
    stores = tuple(digest_of(*dumped(folder / f"{user}.db")) for user in USERS)
    return Outcome(turns=simulation.turns, stores=stores, **seen)
