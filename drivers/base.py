"""What every instrument driver of qunetlab is: a QCoDeS instrument with an identity, a known state and a safe state.

A driver does no input or output in its constructor.  :meth:`LabInstrument.connect` opens the link and *brings the
instrument up*: it asks for the identity, so that a dead address or a wrong model is an error there and then, and brings
it to a known state or refuses.  The link does the same by itself whenever the instrument may have restarted
(:mod:`drivers.links.link`), and then also brings back what was set before and can hurt nobody.

The *safe state* is what the station applies on exit, on a signal, or when a peer crashed: no emission, no bias, no
output.  It works before ``connect`` too, waits for no other thread, and is judged by what the instrument reads back.

A driver used alone ends dark as well: whatever it enabled is made safe when the interpreter ends or is killed
(:mod:`drivers.ending`), when a ``with`` around it is left, or by :meth:`LabInstrument.safe_state`;
:meth:`LabInstrument.leave_on` is for those who want the light to stay.
"""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from qcodes.instrument import Instrument, InstrumentChannel
from qcodes.station import Station

from drivers.ending import ENDING
from drivers.links.errors import InstrumentError, WrongInstrumentError
from drivers.links.link import Link
from drivers.making import leave_station
from drivers.settings import WithSettings

if TYPE_CHECKING:
    MadeForHands = type  # as QCoDeS does: a metaclass with __call__ hides the signatures of the drivers
else:
    from drivers.making import MadeForHands


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """What an instrument says it is."""

    vendor: str
    model: str
    serial_number: str
    firmware: str


class LabInstrument(WithSettings, Instrument, metaclass=MadeForHands):
    """A QCoDeS instrument at ``address``.

    A driver sets ``links`` in its constructor, its main link first and made with ``bring_up=self.bring_up``, and has
    :meth:`identify`, :meth:`safe_state`, and where there is something to do :meth:`know_state` and
    :meth:`restore_passive`.
    """

    FRAMING: ClassVar[str] = ""
    """The framing of its main link where that is neither lines nor SCPI: ``interbus``, ``apt``."""

    links: tuple[Link, ...] = ()
    identity: Identity | None = None
    """Who answered when the instrument was last brought up."""

    def __init__(self, name: str, address: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.address = address
        self.made_with: dict[str, Any] = {}  # the keywords of its constructor
        self.permit: Callable[[], None] | None = None
        """Raises InterlockedError while nothing may be enabled (:meth:`must_end_dark`)."""
        self._left_on = self._coming_up = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "safe_state" in vars(cls):
            setattr(cls, "safe_state", _then_forgotten(cls.safe_state))  # noqa: B010 - not for the type checker

    if TYPE_CHECKING:
        # QCoDeS says Any here, and then the type checker finds every instrument of every kind.
        def __getattr__(self, key: str) -> object: ...

    def connect(self) -> Identity:
        """Open the links afresh and bring the instrument up.

        Raises LinkError when nothing (sensible) answers, WrongInstrumentError for another model, and
        InstrumentRefusedError or LimitError for a state that it cannot be brought out of; all is closed again then.
        """
        try:
            for link in reversed(self.links):
                link.open()
        except BaseException:
            self.disconnect()
            raise
        assert self.identity is not None
        return self.identity

    def disconnect(self) -> None:
        """Close the links; the instrument stays as it is."""
        for link in self.links:
            link.close()

    def bring_up(self) -> None:
        """Identify, know the state, and after an earlier connection bring passive settings back."""
        identity, before = self.identify(), self.identity
        if before is not None and identity.serial_number != before.serial_number:
            raise self.error(
                WrongInstrumentError,
                f"serial number {identity.serial_number} answers where {before.serial_number} did; "
                "two instruments may be swapped",
            )
        self._coming_up = True
        try:
            self.know_state()
            if before is not None:
                self.restore_passive()
        finally:
            self._coming_up = False
        self.identity = identity

    def every_link(self) -> dict[str, Link]:
        """All links by the option of the constructor that says where each leads, "" for the address itself."""
        return {"": self.links[0]} if self.links else {}

    @abstractmethod
    def identify(self) -> Identity:
        """Ask the instrument what it is.  Raises WrongInstrumentError for another model."""

    def know_state(self) -> None:
        """Read and log old errors; set what must be so, or refuse; hold stored set points against limits."""

    def restore_passive(self) -> None:
        """After a possible restart: outputs off, and the settings that cannot hurt anyone as they were."""

    @abstractmethod
    def safe_state(self) -> None:
        """Stop everything that could harm people, instruments or secrets; safe to call twice."""

    def close(self) -> None:
        """Close the links and free the QCoDeS name, in QCoDeS' default station too; safe to call twice.

        QCoDeS would also delete every attribute, so that later use fails with an AttributeError; here it raises
        LinkClosedError.
        """
        self.disconnect()
        self.remove_instance(self)
        leave_station(Station.default, self.name)

    def error(self, kind: type[InstrumentError], text: str) -> InstrumentError:
        """An error of ``kind`` that names this instrument and its address."""
        return kind(text, instrument=self.name, address=self.address)

    def must_end_dark(self) -> None:
        """To be called by a driver before it enables light, bias, an output or a shutter.

        In the transaction that enables: whoever makes safe between this and the command then takes the link away.  Raises
        InterlockedError where :attr:`permit` does.
        """
        if self.permit is not None:
            self.permit()
        if not self._left_on:
            ENDING.watch(self)

    def leave_on(self) -> None:
        """What this driver enables stays on when the process ends or the ``with`` is left; somebody else sees to it."""
        self._left_on = True
        ENDING.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make safe what was enabled, and close."""
        try:
            if ENDING.watches(self):
                self.safe_state()
        finally:
            self.close()

    def snapshot_base(
        self, update: bool | None = False, params_to_skip_update: Sequence[str] | None = None
    ) -> dict[Any, Any]:
        """As QCoDeS has it; but one that does not answer is asked once, not for each of its parameters."""
        if update is not False:
            try:
                self.identify()
            except InstrumentError as error:
                log.warning("no fresh values in the snapshot: %s", error)
                update = False
        return super().snapshot_base(update, params_to_skip_update)

    def get_idn(self) -> dict[str, str | None]:
        """The identity in the form that QCoDeS snapshots expect."""
        identity = self.identify()
        return {
            "vendor": identity.vendor,
            "model": identity.model,
            "serial": identity.serial_number,
            "firmware": identity.firmware,
        }


class LabChannel(WithSettings, InstrumentChannel[Any]):
    """A channel of a :class:`LabInstrument`."""


def _then_forgotten(safe_state: Callable[[Any], None]) -> Callable[[Any], None]:
    """``safe_state`` of a driver; once it was reached, the end of the process has nothing to do.

    As a part of bringing the instrument up it may come between the wish to enable something and its command.
    """

    @functools.wraps(safe_state)
    def reached(self: LabInstrument) -> None:
        safe_state(self)
        if not self._coming_up:
            ENDING.forget(self)

    return reached
