"""What a role will count, told beforehand, so that its counters stand at 0 before the first of each.

A rate takes two readings: of a counter that is not there until something happened, Prometheus never sees the first time.  So
each role names one word of every kind that it may count, for every pair, application and reason of this testbed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, get_args

from lab.calibration.steps import STEPS
from orchestrator.events.common import Unknown
from orchestrator.events.delivery import (
    Fault,
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeysDelivered,
    KeyServerFault,
    KeysRefused,
    RefusedFor,
    Side,
    TurnedAway,
)
from orchestrator.events.learning import (
    AbortRecord,
    ClientDropped,
    ClientState,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    UploadRefused,
)
from orchestrator.events.process import Calibrated
from orchestrator.events.status import (
    FL_SERVER,
    ORCHESTRATOR,
    RELAY,
    BlockReport,
    HubStatus,
    LeaseStatus,
    Refusals,
)
from orchestrator.metrics.learning import CLIENT_ENDINGS

if TYPE_CHECKING:
    from lab.testbed import Testbed

ENDPOINTS, STATUSES = ("status", "enc_keys", "dec_keys"), (200, 400, 401, 503)
LEARNER = "fl-"


def to_come(role: str, testbed: Testbed) -> Iterator[object]:
    """One word of each kind that ``role`` will add up."""
    users = testbed.user_names()
    if role in (ORCHESTRATOR, RELAY, *users):
        yield Unknown("")
    if role == ORCHESTRATOR:
        yield HubStatus(0)
        yield from (Refusals(each, 0, "") for each in testbed.roles() if each != role)
        for first, second in testbed.pairs():
            yield LeaseStatus(0, 0, first, second, True)
    if role in (RELAY, *users):
        yield from _calibrations(role)
    if role in users:
        for first, second in testbed.pairs():
            if role == first:
                yield BlockReport(0, 0, first, second, False)
        yield from _deliveries(role, testbed)
    if role == FL_SERVER:
        yield from _rounds()
    elif (user := role.removeprefix(LEARNER)) in users and user != role:
        yield from (ClientState(user, 0, ending) for ending in CLIENT_ENDINGS)


def _calibrations(role: str) -> Iterator[object]:
    owner = RELAY if role == RELAY else "user"
    for step, facts in STEPS.items():
        if facts.owner == owner:
            yield Calibrated(step, role)
            yield Calibrated(step, role, refused="not yet")


def _deliveries(user: str, testbed: Testbed) -> Iterator[object]:
    """Of a node with applications."""
    own = testbed.applications_of(user)
    if not own:
        return
    peers = [peer for peer in testbed.user_names() if peer != user and testbed.applications_of(peer)]
    for sae, peer, side in product(own, peers, get_args(Side)):
        yield KeysDelivered(sae, peer, 0, 0, side)
    for sae, reason, side in product(own, get_args(RefusedFor), get_args(Side)):
        yield KeysRefused(sae, reason, side)
    yield from (KeysRefused("", "caller", side) for side in get_args(Side))
    for endpoint, status in product(ENDPOINTS, STATUSES):
        yield KeyRequestAnswered("", "", endpoint, "", status, 0, 0.0)
    yield from (KeyCallerTurnedAway("", why) for why in get_args(TurnedAway))
    yield from (KeyServerFault(what, "") for what in get_args(Fault))


def _rounds() -> Iterator[object]:
    yield RoundCompleted(RoundRecord(0, 0.0, 0.0, 0, 0, (), "", 0.0, 0.0))
    yield RoundAborted(AbortRecord(0, "", 0, ()))
    yield UploadRefused(0, "", "")
    yield ClientDropped(0, "", "", "")
