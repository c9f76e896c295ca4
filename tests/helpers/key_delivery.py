"""Two nodes' key delivery over channels in memory: stores with key, both ends of key delivery, desks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lab.key_delivery import Application, KeyDelivery
from orchestrator import runtime
from orchestrator.delivery.applications.desk import NodeKeyDesk
from orchestrator.delivery.applications.master_end import MasterEnd
from orchestrator.delivery.applications.quotas import Quotas
from orchestrator.delivery.applications.slave_end import SlaveEnd
from orchestrator.delivery.key_desk import DeliveredKey
from orchestrator.keystore.lanes import SplitRule
from orchestrator.keystore.reconcile import reconcile_pending
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits
from orchestrator.wire.channel import Channel, ChannelBrokenError
from orchestrator.wire.memory_channel import memory_channel_pair

KEK = Kek(b"k" * 32)
SPLIT = SplitRule(otp_per_1024=128)
SAES = {"app1": Application(user="alice"), "app2": Application(user="bob"), "app3": Application(user="bob")}
PATIENCE_S = 20.0
Meddle = Callable[[str, int, bytes], bytes | list[bytes] | None]
"""(sender, number of its message, payload) -> what arrives, in order; None: lost."""


def honest(_: str, __: int, payload: bytes) -> bytes | None:
    return payload


def meet(stores: Mapping[str, KeyStore], first: str, second: str) -> None:
    """The two stores are compared, as the workers of the pair do."""
    ends = dict(zip((first, second), memory_channel_pair(), strict=True))

    def one(name: str, peer: str) -> None:
        store = stores[name]
        with store.letters(peer).meeting:
            reconcile_pending(store, ends[name], store.pair_end(peer), peer, 10.0)

    with ThreadPoolExecutor(2) as both:
        for done in [both.submit(one, first, second), both.submit(one, second, first)]:
            done.result()


def same(given: Sequence[DeliveredKey], fetched: Sequence[DeliveredKey]) -> bool:
    """Whether both ends were given the same keys under the same ids, in the same order."""
    return [key.key_id for key in given] == [key.key_id for key in fetched] and all(
        one.key.same_as(other.key) for one, other in zip(given, fetched, strict=True)
    )


def balanced(stores: Mapping[str, KeyStore]) -> bool:
    """Whether the books of every pair account for every bit (I9), at either end."""
    return bool(stores) and all(
        store.ledger(peer).balanced for store in stores.values() for peer in store.peers()
    )


def waited_for(done: Callable[[], bool]) -> None:
    """Return once ``done``; what is waited for happens in another thread, within some steps of its loop."""
    deadline_s = runtime.now() + PATIENCE_S
    while not done():
        assert runtime.now() < deadline_s, "it did not happen"
        runtime.sleep(0.002)


class Meddled:
    """One end of a channel whose messages an untrusted hub may change or lose."""

    def __init__(self, channel: Channel, sender: str, world: KeyWorld) -> None:
        self._channel, self._sender, self._world = channel, sender, world

    def send(self, payload: bytes) -> None:
        if self._world.cut:
            raise ChannelBrokenError("the link is cut")
        number = self._world.said[self._sender]
        self._world.said[self._sender] += 1
        arrives = self._world.meddle(self._sender, number, payload)
        if isinstance(arrives, bytes):
            arrives = [arrives]
        for each in arrives or ():
            self._channel.send(each)

    def recv(self, timeout_s: float) -> bytes:
        if self._world.cut:
            runtime.sleep(min(timeout_s, 0.01))
            raise ChannelBrokenError("the link is cut")
        return self._channel.recv(timeout_s)


class KeyWorld:
    """alice (app1) and bob (app2, app3); ``start`` opens the stores, lets them meet and serves."""

    def __init__(self, folder: Path, *, blocks: int = 4, block_bytes: int = 65536, **rules: Any) -> None:
        self.folder = folder
        self.rules = KeyDelivery(otp_per_1024=128, **rules)
        self.saes = dict(SAES)
        self.meddle: Meddle = honest
        self.cut = False
        self.said = {"alice": 0, "bob": 0}
        self.told: list[Any] = []
        self.opened: list[tuple[str, str]] = []
        self.stores: dict[str, KeyStore] = {}
        self.master_ends: dict[str, MasterEnd] = {}
        self.slave_ends: dict[str, SlaveEnd] = {}
        self.desks: dict[str, NodeKeyDesk] = {}
        rng = np.random.default_rng(1)
        secrets = rng.bytes(8192), rng.bytes(8192)
        for name, peer, end in (("alice", "bob", "first"), ("bob", "alice", "second")):
            with KeyStore.create(self.path(name), name, KEK, split=SPLIT) as store:
                ab, ba = (SecretBits.from_bytes(secret) for secret in secrets)
                store.install_initial_secret(peer, ab, ba, pair_end=end)  # type: ignore[arg-type]
        for number in range(blocks):
            self._deposit(f"b{number}", rng.bytes(block_bytes))

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.db"

    def peer(self, name: str) -> str:
        return "bob" if name == "alice" else "alice"

    def _deposit(self, block_id: str, key: bytes) -> None:
        for name in ("alice", "bob"):
            with KeyStore.open(self.path(name), name, KEK) as store:
                store.deposit_pending(self.peer(name), block_id, SecretBits.from_bytes(key), b"")
                store.confirm_deposit(self.peer(name), block_id)

    def start(self, *names: str) -> KeyWorld:
        for name in names or ("alice", "bob"):
            peer = self.peer(name)
            store = self.stores[name] = KeyStore.open(self.path(name), name, KEK)
            slave_end = self.slave_ends[name] = SlaveEnd(
                store,
                lambda sae: self.saes[sae].user if sae in self.saes else None,
                today=lambda: 20000,
                most_of_two=self.rules.max_waiting_keys,
                key_waits_s=self.rules.key_waits_s,
            )
            quotas = Quotas(self.saes, store, lambda: 20000)
            master_end = self.master_ends[name] = MasterEnd(
                store,
                peer,
                lambda name=name: self._connect(name),  # type: ignore[misc]
                today=lambda: 20000,
                key_waits_s=self.rules.key_waits_s,
                set_aside=quotas.set_aside,
            )
            self.desks[name] = NodeKeyDesk(
                name,
                self.rules,
                self.saes,
                quotas,
                {peer: master_end},
                slave_end,
                tell=self.told.append,
            )
            slave_end.start()
            master_end.start()
        return self

    def _connect(self, name: str) -> Channel | None:
        peer = self.peer(name)
        if self.cut or peer not in self.slave_ends:
            return None
        ours, theirs = memory_channel_pair()
        self.opened.append((name, peer))
        self.slave_ends[peer].listen(name, Meddled(theirs, peer, self))
        return Meddled(ours, name, self)

    def deaf(self) -> Channel:
        """A channel on which nobody says anything."""
        return memory_channel_pair()[0]

    def meet(self) -> None:
        """The two stores are compared, as the workers of the pair do."""
        meet(self.stores, "alice", "bob")

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.stores):
            self.master_ends.pop(name).close()
            self.slave_ends.pop(name).close()
            self.stores.pop(name).close()

    def __enter__(self) -> KeyWorld:
        self.start()
        self.meet()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def give(self, number: int = 1, bits: int | None = None, slave: str = "app2") -> list[Any]:
        return self.desks["alice"].enc_keys("app1", slave, number, bits).result(20)

    def fetch(self, ids: list[str], slave: str = "app2", master: str = "app1") -> list[Any]:
        return self.desks["bob"].dec_keys(slave, master, ids).result(20)
