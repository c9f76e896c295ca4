"""Thorlabs OSW22-xxxxE (2x2) and OSW12-xxxxE (1x2) MEMS switches on their USB serial line (115200 baud, RTS/CTS).

``S 1`` is bar and ``S 2`` cross, both without a reply; ``S?`` tells the position, ``T?`` the type code of the board and
``I?`` name and firmware.  Commands end in LF, replies in CR LF.  Nothing in a reply tells what it answers:
:mod:`drivers.links.one_line_replies`.

In a station, bar takes its modulator, attenuator and taps into the ring and cross passes them by.  A station that leaves
the ring lets all of its loss go, and live detectors may get far too much light: so **the switch moves only when
``crossed`` is set**.  Connecting, a lost link and ``safe_state`` leave it where it is; whoever sets cross has made sure
that no light is launched.

Sources: PnPQ ``src/pnpq/devices/switch_thorlabs_osw_e.py`` (commands, line, 1 s to start up, ``S?`` until the position
is told, for at most 3 s; tested on an OSW22-1310E); Qudi ``hardware/switches/osw12.py`` (the first ``S?`` after a move
may still tell the position before).  The protocol has no serial number: that
of the USB port stands for it where the system knows one, so an address that names it (``/dev/serial/by-id/...``) is best.
"""

from __future__ import annotations

import logging
from typing import Any

from qcodes.validators import Bool, Strings

from drivers.base import Identity, LabInstrument
from drivers.links import serial_ports
from drivers.links.errors import LimitError, MalformedReplyError, WrongInstrumentError
from drivers.links.one_line_replies import OneLineReplies
from drivers.links.serial_link import SerialLink
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 115200
POSITIONS = {"1": False, "2": True}
"""What ``S?`` says, and whether it is cross (PnPQ ``State``)."""


class ThorlabsOSW22(LabInstrument):
    """The switch on the serial port ``address``.

    ``timeout_s`` bounds a reply: a switch that was just plugged in takes a second to say anything.  ``move_timeout_s``
    bounds a move until ``S?`` tells it.
    """

    def __init__(
        self, name: str, address: str, *, timeout_s: float = 2.0, move_timeout_s: float = 3.0, **kwargs: Any
    ) -> None:
        super().__init__(name, address, **kwargs)
        self.link = SerialLink(
            address,
            baudrate=BAUDRATE,
            rtscts=True,
            instrument=name,
            timeout_s=timeout_s,
            bring_up=self.bring_up,
        )
        self.links = (self.link,)
        self._move_timeout_s = move_timeout_s
        self._board: dict[str, str] = {}  # what the switch says of itself, by question
        self._may_be_stale = True  # the next answer to S?; somebody may have moved the switch before
        self._line = OneLineReplies(self.link, "I?", self._is_name)
        self.crossed: Quantity = self.add_setting(
            "crossed",
            label="Cross position",
            get=self._read_position,
            put=self._move,
            limits=Bool(),
            docstring="True in cross, which bypasses a station; False in bar, which takes it in.",
        )
        self.add_reading(
            "board_name", label="Name and firmware", get=lambda: self._read_board("I?"), vals=Strings()
        )
        self.add_reading(
            "board_type", label="Type code of the board", get=lambda: self._read_board("T?"), vals=Strings()
        )

    def identify(self) -> Identity:
        """Name and firmware, and the serial number of the USB port.

        Raises WrongInstrumentError for what tells no position, or another name than before.
        """
        text = self._line.ask("I?", str)
        self._board["I?"] = text
        self._board["T?"] = self._line.ask("T?", str)
        position = self._line.ask("S?", str)  # perhaps that before the last move
        if position not in POSITIONS:
            self._board.clear()
            raise self.error(
                WrongInstrumentError, f"'S?' is answered with {position[:60]!r}; a switch says 1 or 2"
            )
        self._may_be_stale = False
        model, _, firmware = text.rpartition(" ")
        serial_number = serial_ports.usb_serial_number(self.address)
        return Identity("Thorlabs", model or text, serial_number, firmware if model else "")

    def know_state(self) -> None:
        """Tell the position, and leave it."""
        logger.info("%s at %s: found in %s", self.name, self.address, _word(self.crossed.get()))

    def safe_state(self) -> None:
        """Give up what others wait for, and leave the switch as it is: either position may be the dangerous one.

        Out of bar, light that the station held back reaches the detectors.  Into bar, a bystander's loss comes into
        the light of others, which harms nobody but stops them.
        """
        with self.link.urgent():
            logger.info("%s at %s: stays in its position", self.name, self.address)

    def ask_raw(self, cmd: str) -> str:
        """``ask("S?")``: the line of the reply."""
        return self._line.ask(self.link.one_line(cmd).strip(), str)

    def write_raw(self, cmd: str) -> None:
        """``write("S 2")`` moves as ``crossed(True)`` does; no other command is known."""
        command, _, position = cmd.strip().partition(" ")
        if command != "S" or position not in POSITIONS:
            raise self.error(LimitError, f"{cmd!r} is no command of this switch; 'S 1' and 'S 2' are")
        self.crossed.set(POSITIONS[position])

    def _is_name(self, line: str) -> bool:
        """Whether a line answers ``I?``: the name of before; at first, what no position can be."""
        return line == self._board["I?"] if self._board else any(map(str.isalpha, line))

    def _read_position(self) -> bool:
        with self.link.transaction():
            if self._may_be_stale:
                self._line.ask("S?", _position)
                self._may_be_stale = False
            return self._line.ask("S?", _position)

    def _read_board(self, question: str) -> str:
        found, known = self._line.ask(question, str), self._board.get(question, "")
        if found != known:
            raise self.error(
                MalformedReplyError, f"{question!r} is answered with {found[:60]!r}, it was {known!r} before"
            )
        return found

    def _move(self, crossed: bool) -> None:
        with self.link.transaction():
            self._may_be_stale = True
            self._line.send(f"S {1 + crossed}")
            begun = self.link.urgencies
        self.link.wait_until(
            lambda: self._read_position() is crossed,
            self._move_timeout_s,
            f"moving to {_word(crossed)}",
            since=begun,
        )


def _position(line: str) -> bool:
    if line not in POSITIONS:
        raise ValueError("a position is 1 or 2")
    return POSITIONS[line]


def _word(crossed: bool) -> str:
    return "cross" if crossed else "bar"
