"""The applications of a node: its desk, and the two ends of key delivery with every other node.

The ring makes key for them by itself: where both users of a pair have applications, and this node's one-time-pad lane
holds less than the testbed file says, :meth:`NodeApplications.wanted` names the stock of masks with which enough of
that lane will have come, since every block is divided in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lab.testbed import Testbed
from orchestrator import runtime
from orchestrator.delivery.applications.desk import NodeKeyDesk
from orchestrator.delivery.applications.master_end import MasterEnd
from orchestrator.delivery.applications.messages import TOPIC_PREFIX
from orchestrator.delivery.applications.quotas import Quotas
from orchestrator.delivery.applications.relaying import KeyRelay
from orchestrator.delivery.applications.routes import Routes
from orchestrator.delivery.applications.slave_end import SlaveEnd
from orchestrator.events.delivery import DeliveryEvent, KeysRefused
from orchestrator.hub.agent import Agent
from orchestrator.keystore.lanes import Lane, SplitRule
from orchestrator.keystore.store import KeyStore
from orchestrator.randomness import random_hex
from orchestrator.wall_clock import utc_day
from orchestrator.wire.channel import Channel

REPORT_EVERY_S = 1.0


def split_rule(testbed: Testbed) -> SplitRule:
    """How this testbed divides its blocks."""
    return SplitRule(testbed.protocol.auth_refill_bits, otp_per_1024=testbed.key_delivery.otp_per_1024)


class NodeApplications:
    """Made with the store, started before the node serves, closed after it; any thread."""

    def __init__(
        self,
        testbed: Testbed,
        name: str,
        store: KeyStore,
        agent: Agent,
        *,
        tell: Callable[[DeliveryEvent], None] = lambda _: None,
        today: Callable[[], int] = utc_day,
    ) -> None:
        """``tell`` is given every delivery and refusal, by the thread that carries it out."""
        rules = testbed.key_delivery
        self._rules, self._store, self._agent, self._tell = rules, store, agent, tell
        self._name = name
        served = {entry.user for entry in testbed.sae.values()}
        users = set(testbed.user_names()) if rules.relay and served else served
        self.peers = tuple(
            user for user in testbed.user_names() if name in users and user in users and user != name
        )
        self._on_change: Callable[[], None] = lambda: None
        self._reported_s = runtime.now()
        quotas = Quotas(testbed.sae, store, today)
        self._master_ends = {
            peer: MasterEnd(
                store,
                peer,
                partial(self._connect, peer),
                today=today,
                key_waits_s=rules.key_waits_s,
                set_aside=quotas.set_aside,
            )
            for peer in self.peers
        }

        def user_of(sae: str) -> str | None:
            return testbed.sae[sae].user if sae in testbed.sae else None

        self.relay = KeyRelay(
            store,
            self._master_ends,
            user_of=user_of,
            present=self._present,
            today=today,
            key_waits_s=rules.key_waits_s,
        )
        self.slave_end = SlaveEnd(
            store,
            user_of,
            today=today,
            most_of_two=rules.max_waiting_keys,
            key_waits_s=rules.key_waits_s,
            relay=self.relay if rules.relay else None,
        )
        self.desk = NodeKeyDesk(
            name,
            rules,
            testbed.sae,
            quotas,
            self._master_ends,
            self.slave_end,
            tell=self._happened,
            routes=Routes(name, self._master_ends, self._present) if rules.relay else None,
        )

    def start(self, on_change: Callable[[], None]) -> None:
        """Serve; ``on_change`` is called now and then while stocks change."""
        self._on_change = on_change
        if self.peers:
            self.slave_end.start()
            for master_end in self._master_ends.values():
                master_end.start()

    def close(self) -> None:
        """Stop; requests that wait fail."""
        if self.peers:
            for master_end in self._master_ends.values():
                master_end.close()
            self.slave_end.close()

    def offered(self, peer: str, topic: str) -> bool:
        """Whether a topic that ``peer`` opened is about keys for applications; then it is served."""
        if not topic.startswith(TOPIC_PREFIX) or peer not in self._master_ends:
            return False
        self.slave_end.listen(peer, self._agent.channel(peer, topic))
        return True

    def free_bits(self, peer: str) -> int:
        """What applications may still have of this node's lane with ``peer``."""
        return self._master_ends[peer].free_bits() if peer in self._master_ends else 0

    def wanted(self, peer: str) -> int:
        """The stock of masks with ``peer``, in bits, up to which the ring should make key for applications; 0 if enough."""
        if peer not in self._master_ends:
            return 0
        short = self._rules.stock_bits - self._master_ends[peer].free_bits()
        if short <= 0:
            return 0
        block = {part.lane: part.n_bits for part in self._store.split.parts(1 << 20)}
        more = short * block[Lane.MASK] // block[Lane.OTP_AB] if block.get(Lane.OTP_AB) else 0
        return self._store.stock(peer)[Lane.MASK] + more

    def _present(self, peer: str) -> bool:
        return peer in self._agent.peers

    def _connect(self, peer: str) -> Channel | None:
        if not self._present(peer):
            return None
        return self._agent.channel(peer, f"{TOPIC_PREFIX}{self._name}/{random_hex(12)}")

    def _happened(self, event: DeliveryEvent) -> None:
        self._tell(event)
        if isinstance(event, KeysRefused) and event.reason != "short":
            return
        now = runtime.now()
        if now - self._reported_s >= REPORT_EVERY_S:
            self._reported_s = now
            self._on_change()
