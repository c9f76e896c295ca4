"""A pair on a simulated ring through the drivers of every instrument: open the stations, run a light phase, count."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from memory_channel import memory_channel_pair

import lab.testbed
from lab import needs
from lab.light_of import pair_light
from lab.station import Station
from lab.testbed import Testbed, parse_testbed, read_testbed, resolve_addresses
from orchestrator.light.clicks import BlockClicks
from orchestrator.light.launching import RelayInstruments
from orchestrator.light.own_station import OWN_DIRECTION, StationInstruments
from orchestrator.light.relay import RelayLight
from orchestrator.light.user import UserLight
from orchestrator.protocols.block_planning import plan_for
from sim_backends.bench import Bench
from sim_backends.survey import surveyed

TEMPLATE = Path(lab.testbed.__file__).parent / "testbeds" / "simulated-four-node.toml"


def ring_content(slots_per_frame: int, *, ring_seed: int = 1, spread: float = 1.0) -> dict[str, Any]:
    """The bundled testbed with short frames and another ring, calibrated without a fault."""
    data = read_testbed(TEMPLATE)
    data["protocol"]["slots_per_frame"] = slots_per_frame
    data["simulation"].update(ring_seed=ring_seed, spread=spread)
    return surveyed(data, parse_testbed(data, TEMPLATE))


@dataclass(frozen=True)
class Phase:
    """What a pair counted, over all slots, and in those of one basis."""

    slots: int
    clicks: int
    sifted: int
    wrong: int
    first: BlockClicks
    second: BlockClicks


class DrivenRing:
    """A served bench with the stations of the relay and of a pair; the other users stay in bypass."""

    def __init__(self, data: dict[str, Any], pair: tuple[str, str] = ("alice", "bob")) -> None:
        self.pair = pair
        testbed = parse_testbed(data, TEMPLATE)
        owners = ("relay", *pair)
        self.bench = Bench(testbed, only=[e.name for e in testbed.instruments if e.owner in owners])
        self.bench.serve()
        resolved = resolve_addresses(data, self.bench.addresses)
        for entry in resolved["instruments"]:
            more = self.bench.options.get(entry["name"], {})
            if more:
                entry["options"] = {**entry.get("options", {}), **more}
        self.testbed: Testbed = parse_testbed(resolved, TEMPLATE)
        self.stations = {owner: Station(self.testbed, owner) for owner in owners}
        for station in self.stations.values():
            station.open()
        relay = self.stations["relay"]
        self.instruments = RelayInstruments(*(relay.get(need) for need in needs.RELAY))
        self.relay = RelayLight(self.testbed, self.instruments)
        self.users = [self._user(user) for user in pair]

    def _user(self, user: str) -> UserLight:
        get = self.stations[user].get
        owned = StationInstruments(
            get(needs.SWITCH), get(needs.ATTENUATOR), get(needs.SENSOR_CW), get(needs.SENSOR_CCW)
        )
        return UserLight(self.testbed, user, get(needs.MODULATOR), owned)

    def phase(self, n_frames: int, on_frame: Callable[[int], None] = lambda frame: None) -> Phase:
        """A whole light phase; ``on_frame`` is told each frame that the relay served.

        Raises what the first side that failed raised, an error of the relay before one of a user.
        """
        self.relay.set_up()
        for light in self.users:
            light.set_up()
        plan = plan_for(self.testbed, *self.pair)
        channels = [memory_channel_pair() for _ in self.pair]
        blocks: dict[int, BlockClicks] = {}
        failed: list[BaseException] = []

        def user(index: int) -> None:
            try:
                blocks[index], _ = self.users[index].run(
                    channels[index][0],
                    symbols=plan.symbols,
                    mu=(plan.mu_a, plan.mu_b)[index],
                    direction=OWN_DIRECTION[index],
                    n_frames=n_frames,
                )
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=user, args=(index,)) for index in (0, 1)]
        for thread in threads:
            thread.start()
        launch_db = pair_light(self.testbed, *self.pair).budget(plan.mu_a).launch_attenuation_db
        try:
            self.relay.run(
                (channels[0][1], channels[1][1]),
                n_frames,
                launch_db,
                on_frame=lambda frame, clicks: on_frame(frame),
            )
        finally:
            for thread in threads:
                thread.join(30)
        if failed:
            raise failed[0]
        return counted(blocks[0], blocks[1], n_frames * self.testbed.protocol.slots_per_frame)

    def close(self) -> None:
        for station in self.stations.values():
            station.safe()
            station.close()
        self.bench.close()


def counted(first: BlockClicks, second: BlockClicks, slots: int) -> Phase:
    """Announcement 1 says equal phases, 2 opposite ones, 3 that both detectors clicked."""
    one = first.outcome != 3
    kept = one & (first.symbol // 2 == second.symbol // 2)
    equal = first.symbol[kept] == second.symbol[kept]
    wrong = int(np.count_nonzero(equal != (first.outcome[kept] == 1)))
    return Phase(slots, int(one.sum()), int(kept.sum()), wrong, first, second)
