"""The Acme SL1: lines of text over TCP, one reply to each (``OK``, a value, or ``ERR`` and why)."""

from __future__ import annotations

from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.links.errors import InstrumentRefusedError, NotReadyError, WrongInstrumentError
from drivers.links.limits import Within
from drivers.links.tcp_link import TcpLink
from drivers.links.zmq_reqrep import split_address


class AcmeSL1(LabInstrument):
    """The laser at ``host`` or ``host:port``."""

    def __init__(self, name: str, address: str, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        host, port = split_address(address, 7001)
        self._link = TcpLink(host, port, instrument=name)
        self.power_mw: Parameter[float, AcmeSL1] = self.add_parameter(
            "power_mw",
            label="Power set point",
            unit="mW",
            get_cmd=lambda: float(self._ask("POW?")),
            set_cmd=lambda mw: self._ask(f"POW {mw:.3f}"),
            vals=Within(0.0, 20.0, "mW"),
        )
        self.emission: Parameter[bool, AcmeSL1] = self.add_parameter(
            "emission",
            label="Emission",
            get_cmd=lambda: self._ask("OUT?") == "1",
            set_cmd=lambda on: self._ask(f"OUT {int(on)}"),
            vals=Bool(),
        )

    def connect(self) -> Identity:
        """Open the line and identify the laser."""
        self._link.open()
        return self.identify()

    def identify(self) -> Identity:
        """``*IDN?``."""
        fields = self._ask("*IDN?").split(",")
        if fields[:2] != ["Acme", "SL1"]:
            raise WrongInstrumentError("this is no Acme SL1", instrument=self.name, address=self.address)
        return Identity(*fields)

    def check_emitting(self) -> None:
        """NotReadyError unless it emits."""
        if not self.emission():
            raise NotReadyError("the laser is off", instrument=self.name, address=self.address)

    def safe_state(self) -> None:
        """Emission off."""
        self.emission(False)

    def close(self) -> None:
        """Close the line."""
        if hasattr(self, "_link"):
            self._link.close()
        super().close()

    def _ask(self, line: str) -> str:
        with self._link.exchange():
            self._link.write(f"{line}\n".encode())
            reply = self._link.read_line(self._link.now() + self._link.timeout_s).decode("ascii", "replace")
        if reply.startswith("ERR"):
            raise InstrumentRefusedError(reply, instrument=self.name, address=self.address)
        return reply
