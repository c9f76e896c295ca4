"""A pair on a simulated ring through the drivers of every instrument: open the stations, run a light phase, count."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import lab.testbed
from lab import needs
from lab.station import Station
from lab.testbed import Testbed, parse_testbed, read_testbed
from orchestrator.light.clicks import BlockClicks
from orchestrator.light.launching import Launching, PlannedLight, RelayInstruments, planned_light
from orchestrator.light.own_station import OWN_DIRECTION, OwnStation, StationInstruments
from orchestrator.light.phase_look import Look
from orchestrator.light.relay import RelayLight
from orchestrator.light.tracking.correction import Correction
from orchestrator.light.tracking.polarization_kept import KeptSettings
from orchestrator.light.user import UserLight
from orchestrator.protocols.block_planning import plan_for
from orchestrator.wire.memory_channel import memory_channel_pair
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
    announcements: tuple[list[bytes], list[bytes]]
    """As either user received them."""


class DrivenRing:
    """A served bench with the stations of the relay and of a pair; the other users stay in bypass."""

    def __init__(
        self,
        data: dict[str, Any],
        pair: tuple[str, str] = ("alice", "bob"),
        *,
        folder: Path | None = None,
        physics: Callable[[], float] | None = None,
    ) -> None:
        """``folder``: where parties keep their settings of polarisation; ``physics``: the clock (s) that the ring drifts with."""
        self.pair = pair
        self.latched: list[str] = []
        """What was told of detectors that were brought back."""
        testbed = parse_testbed(data, TEMPLATE)
        owners = ("relay", *pair)
        self.bench = Bench(
            testbed, only=[e.name for e in testbed.instruments if e.owner in owners], physics=physics
        )
        self.bench.serve()
        resolved = self.bench.resolved(data)
        self.testbed: Testbed = parse_testbed(resolved, TEMPLATE)
        self.stations = {owner: Station(self.testbed, owner) for owner in owners}
        for station in self.stations.values():
            station.open()
        relay = self.stations["relay"]
        self.instruments = RelayInstruments.of(relay)
        kept = {owner: KeptSettings(folder and folder / owner) for owner in owners}
        self.relay = RelayLight(self.testbed, self.instruments, kept=kept["relay"])
        self.owned = {user: StationInstruments.of(self.stations[user]) for user in pair}
        self.users = [
            UserLight(self.testbed, user, self.stations[user].get(needs.MODULATOR), owned, kept=kept[user])
            for user, owned in self.owned.items()
        ]

    def phase(
        self,
        n_frames: int,
        on_frame: Callable[[int], None] = lambda frame: None,
        on_tracked: Callable[[str, int, Correction], None] = lambda owner, frame, correction: None,
        correction_rad: float = 0.0,
        on_look: Look | None = None,
    ) -> Phase:
        """A whole light phase; ``on_frame`` is told each frame that the relay served.

        ``on_tracked`` is told what each party corrected; ``correction_rad``: of the loop's phase, by the first user, who looks at
        it with ``on_look``.
        Raises what a side that failed raised, an error of the relay before one of a user.
        """
        self.relay.set_up()
        for light in self.users:
            light.set_up()
        plan = plan_for(self.testbed, *self.pair)
        channels = [memory_channel_pair() for _ in self.pair]

        def user(index: int) -> tuple[BlockClicks, list[bytes]]:
            return self.users[index].run(
                channels[index][0],
                symbols=plan.symbols,
                mu=(plan.mu_a, plan.mu_b)[index],
                direction=OWN_DIRECTION[index],
                n_frames=n_frames,
                correction_rad=(correction_rad, 0.0)[index],
                on_look=(on_look, None)[index],
                pair=self.pair,
                on_tracked=partial(on_tracked, self.pair[index]),
            )

        with ThreadPoolExecutor(2) as pool:
            blocks = [pool.submit(user, index) for index in (0, 1)]
            self.relay.run(
                (channels[0][1], channels[1][1]),
                n_frames,
                self.plan(),
                on_latched=self.latched.append,
                on_frame=lambda frame, clicks: on_frame(frame),
                on_tracked=partial(on_tracked, "relay"),
            )
            (first, told_first), (second, told_second) = (block.result() for block in blocks)
        slots = n_frames * self.testbed.protocol.slots_per_frame
        return counted(first, second, slots, (told_first, told_second))

    def plan(self) -> PlannedLight:
        """The planned light."""
        return planned_light(self.testbed, *self.pair)

    def light(self) -> dict[str, OwnStation]:
        """Both stations taken in, and the planned light in the ring; nothing is modulated."""
        launching = Launching(self.testbed, self.instruments)
        launching.set_up()
        stations = {user: OwnStation(self.testbed, user, owned) for user, owned in self.owned.items()}
        for station in stations.values():
            station.set_up()
            station.take_in()
        launching.open(self.plan())
        return stations

    def close(self) -> None:
        for station in self.stations.values():
            station.safe()
            station.close()
        self.bench.close()


def counted(
    first: BlockClicks,
    second: BlockClicks,
    slots: int,
    announcements: tuple[list[bytes], list[bytes]] = ([], []),
) -> Phase:
    """Announcement 1 says equal phases, 2 opposite ones, 3 that both detectors clicked."""
    one = first.outcome != 3
    kept = one & (first.symbol // 2 == second.symbol // 2)
    equal = first.symbol[kept] == second.symbol[kept]
    wrong = int(np.count_nonzero(equal != (first.outcome[kept] == 1)))
    return Phase(slots, int(one.sum()), int(kept.sum()), wrong, first, second, announcements)
