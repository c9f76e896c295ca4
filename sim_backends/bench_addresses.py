"""Where simulated instruments answer: each on a loopback address of its own, at the vendor's ports.

A run takes a random block 127.a.b.0/24 whose addresses are free, so that several simulators coexist and only
the host in the testbed file differs from the real bench.  Systems that know 127.0.0.1 only get free ports of
that address instead.  Addresses come in three forms: ``TCPIP::host::port::SOCKET`` (VISA), ``host`` or
``host:port``, and a path for serial instruments.
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass

LOCALHOST = "127.0.0.1"
ATTEMPTS = 20

_VISA = re.compile(r"TCPIP\d*::([^:]+)::(\d+)::SOCKET", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a twin is to be served; ``port`` None is the vendor's port, 0 any free one."""

    host: str
    port: int | None = None


def parse_address(address: str) -> Place | None:
    """Host and port of a network address, None for anything else."""
    visa = _VISA.fullmatch(address)
    if visa:
        return Place(visa[1], int(visa[2]))
    host, colon, port = address.partition(":")
    if not host or "/" in host or (colon and not port.isdecimal()):
        return None
    return Place(host, int(port) if colon else None)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is a literal loopback address (or the name localhost)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def pick_hosts(ports: Sequence[Sequence[int]], rng: random.Random) -> list[Place]:
    """A place for each instrument, given the ports that it answers at: none for one on a serial line.

    Addresses of one free block, or free ports of 127.0.0.1 as the last resort.
    """
    for _ in range(ATTEMPTS):
        prefix = f"127.{rng.randint(1, 254)}.{rng.randint(0, 255)}"
        places = [Place(f"{prefix}.{k}") for k in range(1, len(ports) + 1)]
        if len(places) < 255 and all(
            _can_bind(place.host, port)
            for place, needed in zip(places, ports, strict=True)
            for port in needed
        ):
            return places
    return [Place(LOCALHOST, 0) for _ in ports]


def free_port_range(count: int, rng: random.Random) -> int:
    """A port of 127.0.0.1 that is free together with the ``count - 1`` that follow."""
    for _ in range(100 * ATTEMPTS):
        base = rng.randint(20_000, 32_000)
        if all(_can_bind(LOCALHOST, base + k) for k in range(count)):
            return base
    raise OSError(f"no {count} consecutive free ports on {LOCALHOST}")


def _can_bind(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
