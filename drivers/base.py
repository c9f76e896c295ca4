"""What every instrument driver of qunetlab is: a QCoDeS instrument with an identity and a safe state.

A driver does no input or output in its constructor.  :meth:`LabInstrument.connect` opens the link and
asks for the identity, so a dead address or a wrong model is an error there and then.  The *safe state* is
what the station applies on exit, on a signal, or when a peer crashed: no emission, no bias, no output.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcodes.instrument import Instrument

from drivers.links.limits import plain

if TYPE_CHECKING:
    MadeForHands = type  # as QCoDeS does: a metaclass with __call__ hides the signatures of the drivers
else:
    from drivers.making import MadeForHands


@dataclass(frozen=True)
class Identity:
    """What an instrument says it is."""

    vendor: str
    model: str
    serial_number: str
    firmware: str


class LabInstrument(Instrument, metaclass=MadeForHands):
    """A QCoDeS instrument at ``address`` with ``connect``, ``identify`` and ``safe_state``."""

    def __init__(self, name: str, address: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.address = address

    if TYPE_CHECKING:
        # QCoDeS says Any here, and then the type checker finds every instrument of every kind.
        def __getattr__(self, key: str) -> object: ...

    def add_parameter(self, name: str, parameter_class: Any = None, **kwargs: Any) -> Any:
        """As QCoDeS has it; what is set reaches the driver as a Python value, whatever NumPy scalar it was."""
        if callable(kwargs.get("set_cmd")):
            kwargs.setdefault("set_parser", plain)
        return super().add_parameter(name, parameter_class, **kwargs)

    @abstractmethod
    def connect(self) -> Identity:
        """Open the link and identify the instrument.

        Raises LinkError when nothing (sensible) answers and WrongInstrumentError for another model.
        """

    @abstractmethod
    def identify(self) -> Identity:
        """Ask the instrument what it is."""

    @abstractmethod
    def safe_state(self) -> None:
        """Stop everything that could harm people, instruments or secrets; safe to call twice."""

    def get_idn(self) -> dict[str, str | None]:
        """The identity in the form that QCoDeS snapshots expect; nothing is asked before ``connect``."""
        identity = self.identify()
        return {
            "vendor": identity.vendor,
            "model": identity.model,
            "serial": identity.serial_number,
            "firmware": identity.firmware,
        }
