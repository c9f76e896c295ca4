"""R10: every role as a process, learning ones included, is killed, stands still for ten seconds, or loses its cable.

Where there may be network namespaces every role runs on a machine of its own, with an address of its own.  The time is that
from its return - ready again, going on, the cable in - to the next stored block, lit from then on where the role takes part in
making it, and to the next round.  The relay stays
dark when it lost a user's station in its light until an operator has looked; the test is that operator, and the table says so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import namespaces
import pytest
from command_line import run_qunetlab
from learning_ring import LEARNING, LearningRing
from msgspec.structs import replace
from namespaces import Network
from two_users_ring import PAIR

from orchestrator.events.process import PeerLedger

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
ROLES = ("orchestrator", "relay", PAIR[0], "simulate", "fl-alice", "fl-server")
FAULTS = ("SIGKILL", "SIGSTOP", "cut")
AWAY_S = 10.0
SLOW_S = 0.025
"""Each way, at one machine: 50 ms for a question and its answer."""
RECOVERY_S = 10.0
SLOW_LIMIT_S = 120.0
"""A block takes 15 s of talk between the nodes when the hub is 50 ms away, and several wait in turn."""
WHY_NOT = namespaces.missing()
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there are namespaces")
CASES = [(role, fault) for role in ROLES for fault in FAULTS]
TABLE: dict[tuple[str, str], str] = {}


@pytest.fixture(scope="module")
def network() -> Iterator[Network | None]:
    if WHY_NOT:
        yield None
        return
    helpers = os.path.dirname(namespaces.__file__)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (helpers, before)))
    made = Network("orchestrator", "relay", *PAIR, "simulate", *LEARNING)
    try:
        yield made
    finally:
        made.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory, network: Network | None) -> Iterator[LearningRing]:
    made = LearningRing(tmp_path_factory.mktemp("ring"), network)
    try:
        made.start_all()
        asked = run_qunetlab(
            "queue", "add", "key", "-".join(PAIR), "--bits", "1000M", "--testbed", str(made.path)
        )
        assert asked.returncode == 0, asked.stderr
        made.back_at_work(120.0)
        yield made
    finally:
        made.stop()
        print("\n".join(f"{role:13} {fault:8} {told}" for (role, fault), told in TABLE.items()))


@pytest.mark.parametrize(("role", "fault"), CASES)
def test_a_role_that_was_away_is_at_work_again_in_seconds(ring: LearningRing, role: str, fault: str) -> None:
    if fault == "cut" and ring.network is None:
        pytest.skip(WHY_NOT)
    usual = ring.back_at_work()
    ring.wait_for_light()
    if fault == "SIGKILL":
        ring.kill(role)
        ring.back(role)
    elif fault == "SIGSTOP":
        process = ring.supervisor.children[role].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(AWAY_S)
        process.send_signal(signal.SIGCONT)
    else:
        assert ring.network is not None
        ring.network.cut(role)
        time.sleep(AWAY_S)
        ring.network.restore(role)
    returned_s = time.monotonic()
    looked = ring.acknowledge()
    waited_s = time.monotonic() - returned_s
    makes_key = (
        role not in LEARNING
    )  # else blocks go on meanwhile, and the next one may be in its light already
    block_s, round_s = (waited_s + each for each in ring.back_at_work(lit_here=makes_key))
    TABLE[role, fault] = (
        f"key {block_s:5.1f} s (else {usual[0]:4.1f}), round {round_s:5.1f} s (else {usual[1]:4.1f})"
        f"{', acknowledged' if looked else ''}"
    )
    print(TABLE[role, fault])
    assert block_s < max(RECOVERY_S, 2 * usual[0])
    assert round_s < max(RECOVERY_S, 2 * usual[1])


@needs_namespaces
@pytest.mark.parametrize("role", ["orchestrator", PAIR[1], f"fl-{PAIR[1]}"])
def test_a_machine_that_is_slow_only_takes_longer(ring: LearningRing, role: str) -> None:
    """Its instruments are beside it, as on a bench: a block asks them some hundred times."""
    assert ring.network is not None
    usual = ring.back_at_work()
    ring.network.slow(role, SLOW_S, near="simulate")
    try:
        ring.back_at_work(SLOW_LIMIT_S)  # a block and a round that were under way
        block_s, round_s = ring.back_at_work(SLOW_LIMIT_S)
    finally:
        ring.network.slow(role, 0.0)
    print(
        f"{role} slow: key {block_s:.1f} s (else {usual[0]:.1f}), round {round_s:.1f} s (else {usual[1]:.1f})"
    )
    ring.back_at_work(SLOW_LIMIT_S)


def settled(books: PeerLedger) -> PeerLedger:
    """Bits that one end gave to its client and the other burnt are gone at both: whose client was away had no use for them."""
    return replace(books, delivered_bits=books.delivered_bits + books.burnt_bits, burnt_bits=0)


def test_at_the_end_all_books_are_equal_and_everything_is_safe(ring: LearningRing) -> None:
    ring.back_at_work()
    codes = ring.stop()
    assert codes == dict.fromkeys(codes, 0), codes
    assert ring.unsafe == []
    first, second = PAIR
    at_first, at_second = ring.ledgers[first, second], ring.ledgers[second, first]
    print(at_first)
    assert settled(at_first) == settled(replace(at_second, peer=second))
    assert at_first.delivered_bits > 0
