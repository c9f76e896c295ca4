"""Places of simulated instruments: address forms, free blocks, the last resort."""

from __future__ import annotations

import random
import socket

import pytest

from sim_backends import bench_addresses
from sim_backends.bench_addresses import Place, free_port_range, is_loopback, parse_address, pick_hosts

PORTS = [(4000,), (12000, 12345), (5025,), ()]


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("TCPIP::127.1.2.3::4000::SOCKET", Place("127.1.2.3", 4000)),
        ("tcpip0::127.1.2.3::5025::socket", Place("127.1.2.3", 5025)),
        ("127.1.2.3", Place("127.1.2.3")),
        ("127.1.2.3:5555", Place("127.1.2.3", 5555)),
        ("/dev/ttyUSB0", None),
        ("127.1.2.3:port", None),
        ("", None),
    ],
)
def test_addresses_are_read_in_every_form(address: str, place: Place | None) -> None:
    assert parse_address(address) == place


def test_loopback_addresses_are_told_from_others() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.200.3.4", "localhost")))
    assert not any(map(is_loopback, ("192.168.0.7", "awg.lab.example", "169.254.99.101")))


def test_each_instrument_gets_an_address_of_one_block_and_its_own_ports() -> None:
    places = pick_hosts(PORTS, random.Random(1))
    assert len({place.host for place in places}) == len(PORTS)
    assert len({place.host.rsplit(".", 1)[0] for place in places}) == 1
    assert all(place.port is None and place.host.startswith("127.") for place in places)
    assert not any(place.host.startswith("127.0.") for place in places)


def test_a_block_in_use_is_passed_over() -> None:
    """Two runs with the same random numbers do not meet."""
    first = pick_hosts([(4000,)], random.Random(5))
    with socket.socket() as taken:
        taken.bind((first[0].host, 4000))
        taken.listen()
        second = pick_hosts([(4000,)], random.Random(5))
    assert second[0].host != first[0].host


def test_without_other_loopback_addresses_free_ports_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_addresses, "_can_bind", lambda host, port: host == "127.0.0.1")
    assert pick_hosts([(2000,), ()], random.Random(1)) == [Place("127.0.0.1", 0)] * 2


def test_a_range_of_free_ports_is_free_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(3)
    expected = random.Random(3)
    blocked = expected.randint(20_000, 32_000) + 2
    monkeypatch.setattr(bench_addresses, "_can_bind", lambda host, port: port != blocked)
    base = free_port_range(5, rng)
    assert not base <= blocked < base + 5
