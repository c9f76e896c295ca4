"""The guard process: loads drivers, waits for the end of its owner, makes safe what the owner left.

See :mod:`drivers.guard`, which starts it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.catalogue import SafeOrder, safe_order
from drivers.guard import LOGS_AS, READY, Watched
from drivers.safely import SafeJob, make_safe

if TYPE_CHECKING:
    from drivers.base import LabInstrument

logger = logging.getLogger("drivers.guard")

ASIDE_LIMIT_S = 30.0
"""How long light may take to go when whoever modulated it has ended: others notice it and close the launch."""
ASIDE_EVERY_S = 0.1


def _class(watched: Watched) -> type[LabInstrument]:
    module, _, name = watched.driver.partition(":")
    driver: type[LabInstrument] = getattr(importlib.import_module(module), name)
    return driver


def _make(watched: Watched, name: str) -> LabInstrument:
    return _class(watched)(name, watched.address, **watched.options)


def _order(watched: Watched) -> int:
    """A driver that cannot be had fails at its turn, which is then the first."""
    if watched.order is not None:
        return watched.order
    with suppress(Exception):
        return safe_order(_class(watched))
    return SafeOrder.LIGHT


def _safe_job(watched: Watched, name: str) -> SafeJob:
    """Make the driver as ``name``, apply its safe state, close it; it is not connected, so old errors do not matter."""

    def safe_state() -> None:
        with closing(_make(watched, name)) as instrument:
            instrument.safe_state()

    return SafeJob(_order(watched), name, safe_state)


def _prepare(watched: Watched) -> None:
    """Load driver and transport; what fails is told when it is needed."""
    with suppress(Exception), closing(_make(watched, watched.name)) as instrument:
        for link in instrument.links:
            link.prepare()


def _step_aside(watched: list[Watched]) -> None:
    """Take stations out of the ring whose light has gone; one that stays lit stays in, behind its closed attenuator."""
    by_name = {each.name: each for each in watched}
    for each in watched:
        if each.aside is None:
            continue
        with ExitStack() as stack:
            opened: dict[str, Any] = {
                name: stack.enter_context(closing(_make(by_name[name], f"{name}_aside")))
                for name in {each.name, *(sensor for sensor, _ in each.aside.sensors)}
            }
            channels = [
                getattr(opened[sensor], channel) if channel else opened[sensor]
                for sensor, channel in each.aside.sensors
            ]
            until = time.monotonic() + ASIDE_LIMIT_S
            while max(channel.power_w() for channel in channels) >= each.aside.below_w:
                if time.monotonic() > until:
                    logger.warning("%s stays as it is: its station is lit", each.name)
                    break
                time.sleep(ASIDE_EVERY_S)
            else:
                opened[each.name].crossed(True)


def _last_word() -> list[Watched]:
    """What has to be made safe, once the owner has ended."""
    watched: list[Watched] = []
    for line in sys.stdin.buffer:
        if line.endswith(b"\n"):  # the owner may have died while it wrote
            watched = msgspec.json.decode(line, type=list[Watched])
            for each in watched:
                _prepare(each)
            with suppress(OSError):  # the owner is gone
                os.write(1, READY)
    return watched


class JsonLines(logging.Formatter):
    """One object a line, with the fields of the log of the role that is watched (docs/monitoring.md)."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "role": self._role,
            "version": version("qunetlab"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return json.dumps(entry)


def _set_up_logging(role: str) -> None:
    """As ``role`` does, if any; else, and on the terminal of a role, in words for people."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    if role and not sys.stderr.isatty():
        handler.setFormatter(JsonLines(role))
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)


def main() -> int:
    """Wait for the owner's end; ``drivers.guard_process [--json=ROLE] OWNER [LOCK_DESCRIPTOR...]``."""
    # SIGABRT is how a service manager ends an owner that hangs, and with it all that belongs to it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT):
        signal.signal(number, signal.SIG_IGN)
    words = sys.argv[1:]
    logs_as = words.pop(0).removeprefix(LOGS_AS) if words[0].startswith(LOGS_AS) else ""
    owner, *locks = words
    _set_up_logging(logs_as)
    watched = _last_word()
    if not watched:
        return 0
    for lock in locks:
        os.ftruncate(int(lock), 0)
    logger.warning("%s has left %s; making safe", owner, ", ".join(each.name for each in watched))
    count = Counter(each.name for each in watched)
    names = [each.name if count[each.name] == 1 else f"{each.name}_{i}" for i, each in enumerate(watched)]
    failures = make_safe(_safe_job(each, name) for each, name in zip(watched, names, strict=True))
    try:
        _step_aside(watched)
    except Exception as lost:  # noqa: BLE001 - a station that stays in stops others and harms nobody
        logger.error("guard of %s: its station stays in the ring: %s", owner, lost)
    for name, error in failures.items():
        logger.error("guard of %s: %s could not be made safe: %s", owner, name, error)
    logger.warning("instruments of %s are safe%s", owner, f", except {len(failures)}" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
