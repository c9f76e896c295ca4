"""A node's server of keys: over its desk, with the node's certificates, where the testbed file says.

A node without applications serves nobody.  One whose certificates cannot be used goes on making key and serving its own
client: what is wrong is in its log, counted, and its ready line names no address.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.testbed import AUTO, Testbed
from orchestrator.delivery.applications.desk import NodeKeyDesk
from orchestrator.delivery.certificates import CertificateError, NodeCertificates
from orchestrator.delivery.http.server import KeyServer, KeyServerError
from orchestrator.events.delivery import (
    DeliveryEvent,
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeyServerFault,
)
from orchestrator.events.status import pair_name
from orchestrator.log_context import about
from orchestrator.processes.few_lines import FewLines

logger = logging.getLogger(__name__)
OWN_MACHINE = "127.0.0.1:0"


@contextmanager
def serving(
    testbed: Testbed,
    name: str,
    desk: NodeKeyDesk,
    secrets_dir: Path,
    tell: Callable[[DeliveryEvent], None],
) -> Iterator[str]:
    """Serve the applications of ``name`` over HTTPS; gives the address, empty where nobody is served."""

    few = FewLines()

    def told(event: DeliveryEvent) -> None:
        tell(event)
        other = testbed.sae.get(event.other) if isinstance(event, KeyRequestAnswered) else None
        with about(pair=_pair(testbed, name, other.user) if other else ""):
            log(event, few)

    if not testbed.applications_of(name):
        yield ""
        return
    listen = testbed.user(name).etsi014
    try:
        server = KeyServer(
            desk,
            certificates=NodeCertificates.load(secrets_dir, name),
            known=desk.serves,
            listen=OWN_MACHINE if listen == AUTO else listen,
            tell=told,
        )
        server.start()
    except (CertificateError, KeyServerError) as error:
        logger.error("applications are not served: %s", error)
        tell(KeyServerFault("starting", type(error).__name__))
        yield ""
        return
    try:
        yield server.url
    finally:
        server.close()


def _pair(testbed: Testbed, name: str, peer: str) -> str:
    """Of the two whose applications share a key; none where one node serves both."""
    users = [user for user in testbed.user_names() if user in (name, peer)]
    return pair_name(users) if len(users) == 2 else ""


def log(event: DeliveryEvent, few: FewLines) -> None:
    """A line for each request, and a few for callers that were turned away, and for faults; texts of callers are quoted."""
    if isinstance(event, KeyRequestAnswered):
        logger.info(
            "keys: %r %s %s %r: %d, %d keys, %.1f ms",
            *(event.sae, event.method, event.endpoint, event.other),
            *(event.status, event.keys, 1e3 * event.took_s),
        )
    elif isinstance(event, KeyCallerTurnedAway):
        if (more := few.about(event.why)) is not None:
            logger.warning(
                "keys: %r at %s turned away: %s%s %s%s",
                *(event.sae, event.address, event.why),
                *(f" ({event.other_address})" if event.other_address else "", event.detail, more),
            )
    elif isinstance(event, KeyServerFault) and (more := few.about(event.what)) is not None:
        logger.error("keys: %s failed: %s%s", event.what, event.error, more)
