"""Several nodes' key delivery over channels in memory, wired as a node wires it; pairs hold key where a test puts it."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lab.key_delivery import Application, KeyDelivery
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node_applications import NodeApplications
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import ChannelBrokenError
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair
from tests.helpers.key_delivery import KEK, SPLIT, meet

NAMES = ("alice", "bob", "carol", "dave")


class _Testbed:
    """The part of a testbed that key delivery reads."""

    def __init__(self, delivery: KeyDelivery) -> None:
        self.key_delivery = delivery
        self.sae = {f"app-{name}": Application(user=name) for name in NAMES}

    def user_names(self) -> tuple[str, ...]:
        return NAMES


class _Line:
    """One end of a channel that breaks when either node is away."""

    def __init__(self, world: RelayWorld, ends: tuple[str, str], channel: MemoryChannel) -> None:
        self._world, self._ends, self._channel = world, ends, channel

    def _check(self) -> None:
        if self._world.away & set(self._ends):
            raise ChannelBrokenError("a node is away")

    def send(self, payload: bytes) -> None:
        self._check()
        self._world.seen.append(payload)
        self._channel.send(payload)

    def recv(self, timeout_s: float) -> bytes:
        self._check()
        return self._channel.recv(timeout_s)


class _Agent:
    """What key delivery asks of the hub's agent."""

    def __init__(self, world: RelayWorld, name: str) -> None:
        self._world, self._name = world, name
        self._waiting: dict[tuple[str, str], _Line] = {}

    @property
    def peers(self) -> frozenset[str]:
        return frozenset() if self._name in self._world.away else frozenset(set(NAMES) - self._world.away)

    def channel(self, peer: str, topic: str) -> Any:
        if (peer, topic) in self._waiting:
            return self._waiting.pop((peer, topic))
        ours, theirs = memory_channel_pair()
        ends = self._name, peer
        self._world.agents[peer]._waiting[self._name, topic] = _Line(self._world, ends, theirs)
        self._world.nodes[peer].offered(self._name, topic)
        return _Line(self._world, ends, ours)


class RelayWorld:
    """Four nodes; ``stocked`` pairs hold a block, the others nothing but their initial secret."""

    def __init__(
        self,
        folder: Path,
        stocked: dict[tuple[str, str], int],
        *,
        relay: bool = True,
        deaf: tuple[str, ...] = (),
    ) -> None:
        """``stocked``: bytes of key per pair; ``deaf``: nodes whose own file says that they relay nothing."""
        self.away: set[str] = set()
        self.told: list[Any] = []
        self.seen: list[bytes] = []
        """Everything that passed the hub."""
        rng = np.random.default_rng(1)
        self.stores = {name: KeyStore.create(folder / name, name, KEK, split=SPLIT) for name in NAMES}
        for first, second in combinations(NAMES, 2):
            ab, ba, key = rng.bytes(8192), rng.bytes(8192), rng.bytes(stocked.get((first, second), 0))
            for name, peer, end in ((first, second, "first"), (second, first, "second")):
                secrets = SecretBits.from_bytes(ab), SecretBits.from_bytes(ba)
                self.stores[name].install_initial_secret(peer, *secrets, pair_end=end)  # type: ignore[arg-type]
                if key:
                    self.stores[name].deposit_pending(peer, "b1", SecretBits.from_bytes(key), b"")
                    self.stores[name].confirm_deposit(peer, "b1")
            meet(self.stores, first, second)
        self.agents = {name: _Agent(self, name) for name in NAMES}
        self.nodes: dict[str, NodeApplications] = {}
        for name in NAMES:
            delivery = KeyDelivery(otp_per_1024=128, relay=relay and name not in deaf)
            self.nodes[name] = NodeApplications(
                _Testbed(delivery),  # type: ignore[arg-type]
                name,
                self.stores[name],
                self.agents[name],  # type: ignore[arg-type]
                tell=self.told.append,
                today=lambda: 20000,
            )

    def __enter__(self) -> RelayWorld:
        for node in self.nodes.values():
            node.start(lambda: None)
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.close()
        for store in self.stores.values():
            store.close()

    def order(
        self, first: str, last: str, number: int = 1, bits: int = 256, *, may_be_relayed: bool = True
    ) -> Any:
        return self.nodes[first].desk.enc_keys(
            f"app-{first}", f"app-{last}", number, bits, may_be_relayed=may_be_relayed
        )

    def fetch(self, last: str, first: str, ids: list[str]) -> list[Any]:
        return self.nodes[last].desk.dec_keys(f"app-{last}", f"app-{first}", ids).result(20)

    def free(self) -> dict[tuple[str, str], int]:
        return {
            (name, peer): self.nodes[name].free_bits(peer) for name in NAMES for peer in NAMES if peer != name
        }
