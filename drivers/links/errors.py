"""The whole exception tree of the instrument layer.

Every error names the instrument, the address, what was being done and what to do about it.  A timeout, a
link closed by us, a link broken by the peer and a refusal by a working instrument are different errors.
"""

from __future__ import annotations


class InstrumentError(Exception):
    """Base of everything a driver raises; ``instrument`` and ``address`` say where."""

    def __init__(self, message: str, *, instrument: str = "", address: str = "") -> None:
        self.instrument = instrument
        self.address = address
        where = " at ".join(part for part in (instrument, address) if part)
        super().__init__(f"{where}: {message}" if where else message)

    def __str__(self) -> str:
        """QCoDeS appends what it was doing to ``args``; show it behind the message."""
        return "; ".join(str(part) for part in self.args)


class LinkError(InstrumentError):
    """The link to the instrument failed; nothing is known about its state until it is identified again."""


class LinkClosedError(LinkError):
    """The link was used after our side closed it."""


class LinkBrokenError(LinkError):
    """The instrument or the path to it is gone (refused, reset, end of stream)."""


class LinkTimeoutError(LinkError):
    """No complete answer came in time; the link is drained or reopened before the next query."""


class PreemptedError(LinkError):
    """Given up because another thread made the instrument safe; nothing more was sent."""


class MalformedReplyError(LinkError):
    """Bytes came back that are not an answer of this instrument's protocol."""


class WrongInstrumentError(InstrumentError):
    """Something answered, but it is not the configured model."""


class InstrumentRefusedError(InstrumentError):
    """The instrument works and refused; ``code`` is its error code where it gave one."""

    def __init__(
        self, message: str, *, instrument: str = "", address: str = "", code: int | None = None
    ) -> None:
        self.code = code
        super().__init__(message, instrument=instrument, address=address)


class NoReadingError(InstrumentError):
    """The instrument was reached and answers, but this quantity has no value (over range, not homed)."""


class LimitError(InstrumentError, ValueError):
    """A value outside the hard limits of the driver; nothing was sent."""


class WrongKindError(InstrumentError, TypeError):
    """A value of a type that a setting or an option does not take; nothing was sent."""


class NotReadyError(InstrumentError):
    """The instrument did not reach the expected state (settled, waiting for trigger) in time."""


class InterlockedError(InstrumentError):
    """Nothing may be enabled: the interlock of the role is latched; nothing was sent."""
