"""The Acme SL1: lines of text over TCP, one reply to each (``OK``, a value, or ``ERR`` and why)."""

from __future__ import annotations

from typing import Any

from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.links.addresses import split_address
from drivers.links.errors import InstrumentRefusedError, NotReadyError, WrongInstrumentError
from drivers.links.limits import Within
from drivers.links.tcp_link import TcpLink
from drivers.settings import Quantity


class AcmeSL1(LabInstrument):
    """The laser at ``host`` or ``host:port``."""

    def __init__(self, name: str, address: str, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        host, port = split_address(address, 7001)
        self.link = TcpLink(host, port, instrument=name, bring_up=self.bring_up)
        self.links = (self.link,)
        self.power_mw: Quantity = self.add_setting(
            "power_mw",
            label="Power set point",
            unit="mW",
            get=lambda: float(self._ask("POW?")),
            put=lambda mw: self._ask(f"POW {mw:.3f}"),
            limits=Within(0.0, 20.0, "mW"),
            resolution=0.001,
        )
        self.emission: Quantity = self.add_setting(
            "emission",
            label="Emission",
            get=lambda: self._ask("OUT?") == "1",
            put=self._put_emission,
            limits=Bool(),
        )

    def identify(self) -> Identity:
        """``*IDN?``."""
        fields = self._ask("*IDN?").split(",")
        if fields[:2] != ["Acme", "SL1"]:
            raise self.error(WrongInstrumentError, "this is no Acme SL1")
        return Identity(*fields)

    def check_emitting(self) -> None:
        """NotReadyError unless it emits."""
        if not self.emission():
            raise self.error(NotReadyError, "the laser is off")

    def safe_state(self) -> None:
        """Emission off, whoever waits for the laser; judged by what it reads back."""
        self.link.urgently(lambda: self.emission(False))

    def _put_emission(self, on: bool) -> None:
        if on:
            self.must_end_dark()
        self._ask(f"OUT {int(on)}")

    def _ask(self, line: str) -> str:
        with self.link.exchange():
            self.link.write(f"{line}\n".encode())
            reply = self.link.read_line(self.link.now() + self.link.timeout_s).decode("ascii", "replace")
            if reply.startswith("ERR"):
                raise self.error(InstrumentRefusedError, reply)
        return reply
