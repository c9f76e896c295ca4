"""The instruments of one owner: opened together, identified, made safe in a fixed order, closed.

Every instrument has one owning role.  A station connects all of them at once and reports every failure
together, so an operator with three dead addresses learns of three.  The safe state is applied in the order
of the catalogue: what emits light first, what carries secrets next, then the rest; an instrument that fails
or does not answer does not keep the others from being made safe (:mod:`drivers.safely`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from drivers.catalogue import create_instrument, row
from drivers.guard import Watched, WhenDark
from drivers.links.errors import WrongInstrumentError
from drivers.safely import SafeJob, make_safe
from lab.light_budget import DARK_W
from lab.needs import SENSOR_CCW, SENSOR_CW, SWITCH, Need
from lab.testbed import AUTO, InstrumentEntry, Testbed

if TYPE_CHECKING:
    from drivers.base import Identity, LabInstrument

logger = logging.getLogger(__name__)

Create = Callable[..., "LabInstrument"]
T = TypeVar("T")


class StationError(Exception):
    """One or more instruments of a station failed; ``failures`` maps instrument name to the error.

    ``brief`` says which ones in one line.
    """

    def __init__(self, owner: str, doing: str, failures: dict[str, Exception]) -> None:
        self.failures = failures
        self.brief = f"{doing} failed for {', '.join(failures)}"
        lines = [f"{owner}: {doing} failed for {len(failures)} instrument(s)"]
        lines += [f"  {name}: {type(error).__name__}: {error}" for name, error in failures.items()]
        lines.append("  check power, cables and the addresses in the testbed file, then try again")
        super().__init__("\n".join(lines))


class Station:
    """The opened instruments of one owner; a context manager that leaves them safe."""

    def __init__(self, testbed: Testbed, owner: str, *, create: Create | None = None) -> None:
        """Nothing is opened yet; ``create`` (model, name, address, options) is for tests."""
        self.owner = owner
        self.entries = testbed.owned_by(owner)
        self._servers = testbed.servers(owner)
        self._create = create or create_instrument
        self._instruments: dict[str, LabInstrument] = {}
        self.identities: dict[str, Identity] = {}
        self.left_unsafe: dict[str, Exception] | None = None
        """After leaving: the instruments that could not be made safe, and why; None before all were tried."""
        self.left_out: bool | None = None
        """After leaving: whether the user's own station was last moved out of the ring; None where that is not known."""
        self.permit: Callable[[], None] | None = None
        """Raises InterlockedError while no instrument may be enabled; see :mod:`lab.interlock`."""

    def open(self) -> None:
        """Connect to every instrument; raises StationError naming each that failed, with all closed."""
        unresolved = {
            e.name: ValueError(
                f"address is {AUTO!r}; write its address, or run `qunetlab simulate --resolved`"
            )
            for e in self.entries
            if e.address == AUTO
        }
        if unresolved:
            raise StationError(self.owner, "resolving the address", dict(unresolved))
        doing, failures = "creating", self._create_all()
        if not failures:
            doing, failures = "connecting", self._connect_all()
        if failures:
            self.close()
            raise StationError(self.owner, doing, failures)

    def recover(self) -> None:
        """Connect to every instrument anew and make it safe, to be called after one of them failed.

        What the failure left behind is unknown, and an instrument may have restarted: the owner must set
        them up again afterwards.  Raises StationError naming each that failed; the links stay as they are,
        so that this can be tried again.
        """
        failures = self._connect_all()
        failures |= self._make_safe(failures)
        if failures:
            raise StationError(self.owner, "reconnecting", failures)

    def check(self) -> None:
        """Ask every instrument who it is; raises StationError naming each that does not answer, or is another."""
        failures = self._each(lambda name: self._expect(name, self._instruments[name].identify()))
        if failures:
            raise StationError(self.owner, "identifying", failures)

    def _create_all(self) -> dict[str, Exception]:
        """Make the driver of every instrument; returns what failed: an option it does not have, a broken package."""
        failures: dict[str, Exception] = {}
        for entry in self.entries:
            try:
                made = self._create(entry.model, entry.name, entry.address, **entry.options)
            except Exception as error:  # noqa: BLE001 - every failure is collected and told together
                failures[entry.name] = error
            else:
                made.permit = self.permit
                made.leave_on()  # the station and its guard make it safe, not the end of this process
                self._instruments[entry.name] = made
        return failures

    def _connect_all(self) -> dict[str, Exception]:
        """Connect to every instrument at once; returns what failed."""

        def connect(name: str) -> None:
            identity = self._instruments[name].connect()
            self._expect(name, identity)
            self.identities[name] = identity

        return self._each(connect)

    def _expect(self, name: str, identity: Identity) -> None:
        expect(next(each for each in self.entries if each.name == name), identity)

    def _each(self, action: Callable[[str], object]) -> dict[str, Exception]:
        """Do something with every instrument at once; returns what failed, in the order of the file."""
        failures: dict[str, Exception] = {}

        def do(name: str) -> None:
            try:
                action(name)
            except Exception as error:  # noqa: BLE001 - every failure is collected and told together
                failures[name] = error

        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(do, self._instruments))
        return {name: failures[name] for name in self._instruments if name in failures}

    def get(self, need: Need[T]) -> T:
        """The opened instrument, or the channel of one, that serves ``need``; its row declares the kind."""
        server = self._servers[need.name]
        instrument: object = self._instruments[server.instrument]
        return cast(T, getattr(instrument, server.channel) if server.channel else instrument)

    def find(self, need: Need[T]) -> T | None:
        """As :meth:`get`; None where nothing serves a need that the role can do without."""
        return self.get(need) if need.name in self._servers else None

    def safe(self) -> dict[str, Exception]:
        """Apply the safe state to every instrument, in order; returns what failed."""
        failures = self._make_safe()
        for name, error in failures.items():
            logger.error("%s could not be made safe: %s", name, error)
        return failures

    def _make_safe(self, excepted: Collection[str] = ()) -> dict[str, Exception]:
        return make_safe(job for job in self.safe_jobs() if job.name not in excepted)

    def safe_jobs(self) -> tuple[SafeJob, ...]:
        """How every instrument that is there is made safe."""
        there = dict(self._instruments)
        return tuple(
            SafeJob(row(entry.model).safe_order, entry.name, there[entry.name].safe_state)
            for entry in self.entries
            if entry.name in there
        )

    def watched(self) -> list[Watched]:
        """What a guard must know to make the instruments safe, and to take a user's station out of the ring."""
        switch = self._servers.get(SWITCH.name)
        aside = {switch.instrument: self._when_dark()} if switch else {}
        return [
            Watched(
                of.driver, each.name, each.address, dict(each.options), of.safe_order, aside.get(each.name)
            )
            for each, of in ((entry, row(entry.model)) for entry in self.entries)
        ]

    def _when_dark(self) -> WhenDark:
        sensors = [self._servers[need.name] for need in (SENSOR_CW, SENSOR_CCW)]
        return WhenDark([(sensor.instrument, sensor.channel) for sensor in sensors], DARK_W)

    def instruments(self) -> tuple[LabInstrument, ...]:
        """The opened instruments, in the order of the file."""
        return tuple(self._instruments.values())

    def close(self) -> None:
        """Close every link, last opened first."""
        for name, instrument in reversed(list(self._instruments.items())):
            try:
                instrument.close()
            except Exception as error:  # noqa: BLE001 - closing goes on with the rest
                logger.warning("closing %s failed: %s", name, error)
        self._instruments.clear()

    def __enter__(self) -> Station:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.left_unsafe = self.safe()
            self.left_out = self._out()
        finally:
            self.close()

    def _out(self) -> bool | None:
        """Where the own switch was moved or seen last; nothing is asked of it."""
        server = self._servers.get(SWITCH.name)
        switch: Any = self._instruments.get(server.instrument) if server else None
        return None if switch is None else switch.crossed.cache.get(get_if_invalid=False)


def expect(entry: InstrumentEntry, identity: Identity) -> None:
    """Raise WrongInstrumentError unless it is the very instrument that the testbed file means."""
    if entry.serial_number and identity.serial_number != entry.serial_number:
        answers = f"serial number {identity.serial_number}" if identity.serial_number else "no serial number"
        raise WrongInstrumentError(
            f"{answers} answers, the testbed file says {entry.serial_number}: two instruments may be swapped; "
            "put the right address there, or the right serial number",
            instrument=entry.name,
            address=entry.address,
        )
