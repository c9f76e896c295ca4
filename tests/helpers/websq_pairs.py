"""A WebSQ twin and a driver that talks to it, as often as a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from drivers.detectors.websq import WebSQ
from sim_backends.detectors.websq import WebSQTwin

Build: TypeAlias = Callable[..., tuple[WebSQTwin, WebSQ]]


@contextmanager
def websq_pairs() -> Iterator[Build]:
    """Gives ``build(connect, driver options, **twin options)``: pairs on free ports, closed at the end."""
    opened: list[Any] = []

    def build(connect: bool, driver: dict[str, Any], **twin_options: Any) -> tuple[WebSQTwin, WebSQ]:
        options = {"measurement_period_ms": 10.0, "control_port": 0, "counts_port": 0, **twin_options}
        twin = WebSQTwin(**options)
        address = twin.serve("127.0.0.1")
        name = f"snspd{len(opened)}"
        snspd = WebSQ(name, address, counts_port=twin.counts_port, poll_interval_s=0.005, **driver)
        opened.extend((snspd, twin))
        if connect:
            snspd.connect()
        return twin, snspd

    yield build
    for item in opened:
        item.close()
