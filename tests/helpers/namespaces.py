"""Machines for tests: network namespaces, each with an address of its own, joined by a switch in this process.

Every machine has a TUN device whose other end the switch reads, so that a cable can be cut, slowed and put back at will on any
kernel; nothing of it reaches the namespace of the tests.  Packets of a cut machine are lost without a word, as with a cable
that is out.  Needs root, ``ip`` and /dev/net/tun.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import ipaddress
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 32_000
NET = "10.77.0"
_OURS = ipaddress.ip_address(f"{NET}.0").packed[:3]


def missing() -> str:
    """Why there can be no such machines here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "network namespaces cannot be made here"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def enter(namespace: str) -> None:
    """Move this thread, and what it starts, into a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(descriptor)


class Network:
    """``names`` are those of the machines; close it at the end."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._cables: dict[str, int] = {}
        self._cut: set[str] = set()
        self._slow_s: dict[str, float] = {}
        self._near: frozenset[str] = frozenset()
        self._routes: dict[bytes, str] = {}
        self._late: list[tuple[float, int, str, bytes]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._switch, daemon=True, name="switch")
        try:
            for name in names:
                self._make(name)
        except BaseException:
            self._remove()
            raise
        self._thread.start()

    def namespace(self, name: str) -> str:
        return f"qunetlab-{os.getpid()}-{self._numbers[name]}"

    def address(self, name: str) -> str:
        return f"{NET}.{self._numbers[name]}"

    def has_loopback_net(self, owner: str, net: str) -> None:
        """What listens in ``net``, of 127.0.0.0/8, at ``owner``, is reached from every other machine: there ``lo`` is
        127.0.0.1 alone."""
        self._routes[ipaddress.ip_network(net).network_address.packed[:3]] = owner
        for name in self.names:
            if name != owner:
                words = ("ip", "-n", self.namespace(name), "addr", "del", "127.0.0.1/8", "dev", "lo")
                subprocess.run(words, check=False, capture_output=True)  # a second net finds it gone
                ip("-n", self.namespace(name), "route", "add", net, "dev", f"q{self._numbers[name]}")

    def cut(self, *names: str) -> None:
        self._cut |= set(names)

    def restore(self, *names: str) -> None:
        self._cut -= set(names)

    def slow(self, name: str, delay_s: float, *, near: str = "") -> None:
        """Everything to and from a machine takes so much longer, each way, except between it and ``near``."""
        self._slow_s[name] = delay_s
        self._near = frozenset({name, near})

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._remove()

    def _make(self, name: str) -> None:
        number, namespace = self._numbers[name], self.namespace(name)
        device = f"q{number}"
        ip("netns", "add", namespace)
        cable = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._cables[name] = cable
        fcntl.ioctl(
            cable, TUNSETIFF, struct.pack("16sH", f"qt{os.getpid()}-{number}".encode(), IFF_TUN | IFF_NO_PI)
        )
        ip("link", "set", f"qt{os.getpid()}-{number}", "netns", namespace, "name", device)
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "addr", "add", "127.0.0.1/32", "dev", "lo")
        ip("-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "mtu", str(MTU), "up")
        for interface in ("all", device):
            place = f"/proc/sys/net/ipv4/conf/{interface}"
            words = f"echo 1 > {place}/route_localnet; echo 0 > {place}/rp_filter"
            subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", words], check=True)

    def _remove(self) -> None:
        for cable in self._cables.values():
            os.close(cable)
        for name in self.names:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], check=False, capture_output=True)

    # -- the switch ----------------------------------------------------------------------------------

    def _switch(self) -> None:
        owners = {cable: name for name, cable in self._cables.items()}
        poll = select.epoll()
        for cable in owners:
            poll.register(cable, select.EPOLLIN)
        numbered = 0
        while not self._ending.is_set():
            wait_s = min(0.2, max(0.0, self._late[0][0] - time.monotonic())) if self._late else 0.2
            for cable, _ in poll.poll(wait_s):
                for packet in self._waiting(cable):
                    numbered += 1
                    self._forward(owners[cable], packet, numbered)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, name, packet = heapq.heappop(self._late)
                self._deliver(name, packet)
        poll.close()

    @staticmethod
    def _waiting(cable: int) -> list[bytes]:
        packets = []
        while len(packets) < 64:
            try:
                packets.append(os.read(cable, 65_536))
            except BlockingIOError:
                break
        return packets

    def _forward(self, source: str, packet: bytes, number: int) -> None:
        if packet[0] >> 4 != 4:
            return
        to = packet[16:20]
        name = self._routes.get(to[:3])
        if name is None and to[:3] == _OURS and 1 <= to[3] <= len(self.names):
            name = self.names[to[3] - 1]
        if name is None or {source, name} & self._cut:
            return
        late_s = self._slow_s.get(source, 0.0) + self._slow_s.get(name, 0.0)
        if self._near == {source, name}:
            late_s = 0.0
        if late_s:
            heapq.heappush(self._late, (time.monotonic() + late_s, number, name, packet))
        else:
            self._deliver(name, packet)

    def _deliver(self, name: str, packet: bytes) -> None:
        with suppress(OSError):  # a full queue loses packets, as a switch does
            os.write(self._cables[name], packet)
