"""Links whose cable was out are at work again within a moment of its return, however long TCP has waited by then.

TCP knocks and repeats at ever longer intervals: a cable that was out for seven or eleven seconds it would find back after
six more.  So a link gives an attempt, and a connection on which nothing is acknowledged, up by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import namespaces
import pytest
from namespaces import Network, enter

from orchestrator.wire.curve import CurveKeys, generate_keys
from orchestrator.wire.links import LinkError, Target
from orchestrator.wire.zeromq import ZeroMQ

WHY_NOT = namespaces.missing()
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "there are namespaces"),
]
PORT = 4001
BACK_S = 2.5
"""An attempt of a second at most, a pause of one, and a handshake."""


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network("server", "client")
    try:
        yield made
    finally:
        made.close()


def echo(network: Network, keys: CurveKeys, allowed: dict[str, str], ending: threading.Event) -> None:
    """A server that gives back whatever comes."""
    enter(network.namespace("server"))
    with ZeroMQ() as transport:
        waiter, gate = transport.waiter(), transport.gate(allowed)
        listener = gate.listen(waiter, keys, f"tcp://{network.address('server')}:{PORT}")
        while not ending.is_set():
            waiter.wait(0.05)
            while (received := listener.receive()) is not None:
                try:
                    listener.send(received.connection, *received.frames)
                except LinkError:
                    continue  # of a connection that is over
        listener.close()
        gate.close()
        waiter.close()


def asked_across_the_cut(
    network: Network, keys: CurveKeys, server: str, how: dict[str, float], away_s: float
) -> float:
    """Seconds from the return of the cable to the first answer, of a client that asks all the while."""
    enter(network.namespace("client"))
    with ZeroMQ() as transport:
        waiter = transport.waiter()
        link = transport.connect(
            waiter, keys, Target(f"tcp://{network.address('server')}:{PORT}", server, **how)
        )
        number, cut_s = 0, 0.0
        until_s = time.monotonic() + 60.0
        try:
            while time.monotonic() < until_s:
                number += 1
                with suppress(LinkError):  # made anew at this moment
                    link.send(number.to_bytes(8, "big"))
                waiter.wait(0.1)
                while (answer := link.receive()) is not None:
                    heard = int.from_bytes(answer[0], "big")
                    if not cut_s:
                        network.cut("client")
                        cut_s = time.monotonic()
                        first = number + 1
                    elif time.monotonic() > cut_s + away_s and heard >= first:
                        return time.monotonic() - cut_s - away_s
                if cut_s and time.monotonic() >= cut_s + away_s:
                    network.restore("client")
        finally:
            link.close()
            waiter.close()
    raise AssertionError("no answer came")


@pytest.mark.parametrize(
    ("how", "away_s"),
    [({"unacknowledged_s": 3.0}, 7.0), ({"unacknowledged_s": 3.0}, 11.0), ({"lost_after_s": 6.0}, 11.0)],
)
def test_a_link_is_back_soon_after_its_cable(network: Network, how: dict[str, float], away_s: float) -> None:
    server, client = generate_keys(), generate_keys()
    ending = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        serving = pool.submit(echo, network, server, {client.public: "alice"}, ending)
        try:
            back_s = pool.submit(asked_across_the_cut, network, client, server.public, how, away_s).result()
        finally:
            ending.set()
            serving.result()
    print(f"{how}, {away_s:g} s: {back_s:.2f} s, load {os.getloadavg()[0]:.1f}")
    assert back_s < BACK_S
