"""What relay, nodes and orchestrator put into their records (:mod:`orchestrator.records`), from what they know at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.store import KeyStore
from orchestrator.records.kinds import (
    LaneBook,
    LeaseEnded,
    LightServed,
    PartyTold,
    Reading,
)
from orchestrator.scheduling.lease_party import HeldLease
from orchestrator.scheduling.leases import Outcome

if TYPE_CHECKING:
    from lab.testbed import Testbed
    from orchestrator.light.relay import FramesServed
    from orchestrator.records.keeping import Records

Readings = Callable[[], tuple[Reading, ...]]
"""How the instruments of the role stand, without asking them."""


def keep_testbed(records: Records, testbed: Testbed) -> str:
    """Keep the testbed as it is calibrated; its digest."""
    return records.keep_testbed(testbed.model_dump(mode="json", exclude_unset=True))


def light_served(
    lease: HeldLease,
    testbed: str,
    served: FramesServed | None,
    pulses: int = 0,
    light_s: float = 0.0,
    wall_s: float = 0.0,
) -> LightServed:
    """A light phase of the relay; ``served`` is None where it gave up, or for a calibration."""
    record = LightServed(
        epoch=lease.epoch,
        lease_number=lease.number,
        first=lease.first,
        second=lease.second,
        purpose=lease.purpose,
        ok=True,
        testbed=testbed,
        frames=lease.n_frames,
        pulses=pulses,
        light_s=light_s,
        wall_s=wall_s,
    )
    if served is None:
        return record
    return replace(
        record,
        lost_frames=served.lost,
        announced=served.announced,
        announcements=served.announcements,
    )


def lane_books(store: KeyStore) -> tuple[LaneBook, ...]:
    """Every lane of a store."""
    books = []
    for peer in store.peers():
        states = store.lane_states(peer)
        for lane in Lane:
            state, ledger = states[lane], store.lane_ledger(peer, lane)
            books.append(
                LaneBook(
                    peer,
                    str(lane),
                    state.head,
                    state.tail,
                    ledger.produced,
                    ledger.stored,
                    ledger.delivered,
                    ledger.authentication,
                    ledger.burnt,
                )
            )
    return tuple(books)


def lease_ended(outcome: Outcome) -> LeaseEnded:
    """A lease that was granted."""
    lease = outcome.lease
    return LeaseEnded(
        epoch=lease.epoch,
        lease_number=lease.number,
        first=lease.first,
        second=lease.second,
        purpose=lease.purpose,
        ok=outcome.ok,
        reason=outcome.reason,
        entry=lease.entry,
        ring_s=outcome.ring_s,
        told=tuple(
            PartyTold(party, each.frames, each.lost_frames, each.pulses, each.announced, each.light_s)
            for party, each in sorted(outcome.statistics.items())
        ),
    )
