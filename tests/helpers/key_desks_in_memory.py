"""Two linked desks without a store: a key that one gives out as master, the other gives out once as slave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from orchestrator import randomness, runtime
from orchestrator.delivery.key_desk import (
    NOT_FOUND,
    BadKeyRequestError,
    DeliveredKey,
    DeliveryStatus,
    KeysUnavailableError,
    WrongCallerError,
)
from orchestrator.secret import SecretBits


@dataclass
class Link:
    """What two desks share: keys given out to a master and not yet to its slave, and the stock of both."""

    stock: int = 10_000
    waiting: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    lock: runtime.Lock = field(default_factory=runtime.lock)


@dataclass
class DeskInMemory:
    """The desk of ``node`` towards ``peer``; ``users`` maps every SAE to its node."""

    node: str
    peer: str
    users: dict[str, str]
    link: Link
    key_size: int = 256
    most_keys: int = 128
    sizes: tuple[int, int] = (64, 1024)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    revealed: list[SecretBits] = field(default_factory=list)

    def status(self, caller: str, slave: str) -> DeliveryStatus:
        self._check(slave)
        return DeliveryStatus(
            *(self.node, self.peer, caller, slave, self.key_size, self.link.stock, 10_000),
            *(self.most_keys, self.sizes[1], self.sizes[0]),
        )

    def enc_keys(
        self,
        caller: str,
        slave: str,
        number: int | None,
        size_bits: int | None,
        *,
        may_be_relayed: bool = True,
    ) -> runtime.Future[list[DeliveredKey]]:
        self.asked.append(("enc_keys", caller, slave, number, size_bits, may_be_relayed))
        n_keys = 1 if number is None else number
        bits = self.key_size if size_bits is None else size_bits
        answer: runtime.Future[list[DeliveredKey]] = runtime.future()
        try:
            self._check(slave)
            if n_keys < 1:
                raise BadKeyRequestError("number shall be at least 1")
            if n_keys > self.most_keys:
                raise BadKeyRequestError(f"number shall be at most {self.most_keys}")
            if not self.sizes[0] <= bits <= self.sizes[1]:
                raise BadKeyRequestError(f"size shall be {self.sizes[0]} to {self.sizes[1]}")
            with self.link.lock:
                if n_keys > self.link.stock:
                    raise KeysUnavailableError("not enough key", [f"{self.link.stock} keys are left"])
                self.link.stock -= n_keys
                answer.set_result([self._fresh(caller, slave, bits // 8) for _ in range(n_keys)])
        except Exception as error:  # noqa: BLE001 - the future has it
            answer.set_exception(error)
        return answer

    def dec_keys(
        self, caller: str, master: str, key_ids: Sequence[str]
    ) -> runtime.Future[list[DeliveredKey]]:
        self.asked.append(("dec_keys", caller, master, *key_ids))
        answer: runtime.Future[list[DeliveredKey]] = runtime.future()
        with self.link.lock:
            found = [self.link.waiting.get(each) for each in key_ids]
            if not found:
                answer.set_exception(BadKeyRequestError("a request names at least one key"))
            elif not all(found):
                answer.set_exception(BadKeyRequestError(NOT_FOUND))
            elif any(each is None or each[:2] != (master, caller) for each in found):
                answer.set_exception(WrongCallerError("these keys are not shared with this SAE"))
            else:
                answer.set_result([self._given(each, self.link.waiting.pop(each)[2]) for each in key_ids])
        return answer

    def _check(self, slave: str) -> None:
        if self.users.get(slave) != self.peer:
            raise BadKeyRequestError(f"the slave is no SAE of {self.peer}")

    def _fresh(self, master: str, slave: str, n_bytes: int) -> DeliveredKey:
        key_id = str(UUID(bytes=randomness.random_bytes(16), version=4))
        key = randomness.random_bytes(n_bytes)
        self.link.waiting[key_id] = (master, slave, key)
        return self._given(key_id, key)

    def _given(self, key_id: str, key: bytes) -> DeliveredKey:
        given = DeliveredKey(key_id, SecretBits.from_bytes(key))
        self.revealed.append(given.key)
        return given


def linked_desks() -> tuple[DeskInMemory, DeskInMemory]:
    """The desks of alice and bob; app1 and app3 are alice's, app2 and app4 bob's."""
    users = {"app1": "alice", "app3": "alice", "app2": "bob", "app4": "bob"}
    link = Link()
    return DeskInMemory("alice", "bob", users, link), DeskInMemory("bob", "alice", users, link)
