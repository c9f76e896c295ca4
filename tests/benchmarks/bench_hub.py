"""Hub and two agents in three processes, as JSON lines: python tests/benchmarks/bench_hub.py.

``round_trip_ms``: a message of 1000 bytes from alice through the hub to bob and the answer back.
``one_message_at_a_time_mb_s``: one 64 MiB message, chunked.  ``heartbeat_gap_ms``: the longest pause between
control messages of the hub (sent every 50 ms here) while that message travels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import zmq

from orchestrator.hub.agent import Agent
from orchestrator.hub.events import HubLimits
from orchestrator.hub.hub import Hub
from orchestrator.wire.channel import ChannelTimeoutError
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import client_socket, load_keys, write_keys
from orchestrator.wire.links import Target
from orchestrator.wire.messages import PROTOCOL_VERSION, Hello
from orchestrator.wire.zeromq import ZeroMQ

ROLES = ("alice", "bob", "relay")
ROUND_TRIPS = 3000
BIG = 64 << 20


def hub(folder: Path) -> None:
    allowed = {load_keys(folder / role).public: role for role in ROLES}
    limits = HubLimits(heartbeat_s=0.05, lost_after_s=10.0)
    with (
        ZeroMQ() as transport,
        Hub(transport, load_keys(folder / "orchestrator"), allowed, epoch=1, limits=limits) as running,
    ):
        print(json.dumps([running.control_endpoint, running.bulk_endpoint]), flush=True)
        sys.stdin.read()


def agent_of(folder: Path, role: str, endpoints: list[str]) -> Agent:
    return Agent(role, load_keys(folder / role), load_keys(folder / "orchestrator").public, *endpoints)


def bob(folder: Path, endpoints: list[str]) -> None:
    """Answers short messages with themselves, long ones with their length."""
    with agent_of(folder, "bob", endpoints) as agent:
        assert agent.wait_up(10.0)
        channel = agent.channel("alice", "bench")
        print("ready", flush=True)
        while True:
            message = channel.recv(60.0)
            channel.send(message if len(message) < 4096 else str(len(message)).encode())
            if message == b"stop":
                try:
                    channel.recv(1.0)
                except ChannelTimeoutError:
                    return


def listen(folder: Path, endpoints: list[str], stop: threading.Event, gaps: list[float]) -> None:
    """The relay's control link: how regularly does the hub speak?"""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    public = load_keys(folder / "orchestrator").public
    socket = client_socket(context, load_keys(folder / "relay"), Target(endpoints[0], public))
    socket.send(encode(Hello("relay", PROTOCOL_VERSION, "0" * 32)))
    socket.recv()
    last = time.perf_counter()
    while not stop.is_set():
        if socket.poll(100):
            socket.recv()
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]
    context.destroy(linger=0)


def measure(folder: Path, endpoints: list[str]) -> None:
    with agent_of(folder, "alice", endpoints) as agent:
        while "bob" not in agent.peers:
            agent.control_recv(0.1)
        channel = agent.channel("bob", "bench")
        laps = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            channel.send(bytes(1000))
            channel.recv(10.0)
            laps.append(1e3 * (time.perf_counter() - start))
        laps.sort()
        result = {name: round(laps[int(q * ROUND_TRIPS)], 3) for name, q in (("median", 0.5), ("p99", 0.99))}
        print(json.dumps({"bench": "hub_round_trip", "bytes": 1000, "round_trip_ms": result}), flush=True)
        stop, gaps = threading.Event(), [0.0]
        listening = threading.Thread(target=listen, args=(folder, endpoints, stop, gaps))
        listening.start()
        rates = []
        for _ in range(5):
            start = time.perf_counter()
            channel.send(bytes(BIG))
            assert channel.recv(60.0) == str(BIG).encode()
            rates.append(BIG / 1e6 / (time.perf_counter() - start))
        stop.set()
        listening.join()
        channel.send(b"stop")
        channel.recv(10.0)
        print(
            json.dumps(
                {
                    "bench": "hub_bulk",
                    "one_message_at_a_time_mb_s": round(sorted(rates)[2], 1),
                    "heartbeat_gap_ms": round(1e3 * max(gaps), 1),
                }
            ),
            flush=True,
        )


def main() -> None:
    if len(sys.argv) > 1:
        part, folder = sys.argv[1], Path(sys.argv[2])
        return hub(folder) if part == "hub" else bob(folder, sys.argv[3:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for role in ("orchestrator", *ROLES):
            write_keys(folder / role)
        me = [sys.executable, "-P", __file__]
        pipe = subprocess.PIPE
        hub_process = subprocess.Popen([*me, "hub", name], stdin=pipe, stdout=pipe, text=True)
        assert hub_process.stdout is not None
        endpoints = json.loads(hub_process.stdout.readline())
        bob_process = subprocess.Popen([*me, "bob", name, *endpoints], stdout=pipe, text=True)
        try:
            assert bob_process.stdout is not None
            bob_process.stdout.readline()
            measure(folder, endpoints)
        finally:
            bob_process.kill()
            hub_process.kill()
    return None


if __name__ == "__main__":
    main()
