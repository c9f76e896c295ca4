"""OZ Optics EPC-400 (EPC-DRIVER-04) electrically driven polarisation controller on a serial line (9600 baud).

Four piezos squeeze the fibre, in turn along 0 and 45 degrees; each takes -5 to +5 V, in whole millivolts.  Commands end in
CR LF, a reply is one line and ``Done``, a refusal ends in ``Error!``; what comes back is put together in
:mod:`drivers.oz_replies`, and how a question finds its own reply is in :mod:`drivers.oz_line`.

In AC mode the instrument scrambles: all four voltages swing by themselves.  Connecting brings it to DC mode with its outputs
on, and leaves the voltages as they are found.

Nothing that this instrument can do harms anybody: it emits nothing and holds back no light that a detector could not
take, because the launch is planned for the polarisation that passes best.  So **its safe state is where it stands**.  0 V
would be worse: what was aligned would have to be found again, for nothing.

Sources: QMI ``qmi/instruments/ozoptics/epc_driver.py`` and its test (commands, every reply quoted here); pylablib
``pylablib/devices/OZOptics/base.py`` ``EPC04`` (9600 baud, ``Error!``); TommasoBoscardin/APC-Characterization ``EPC400.py``
(``SN?``, ``VER?``, ``ENABLE1``).  Only that a colon stands before serial number and version is published.  No source has a
half-wave voltage, which differs from unit to unit anyhow: ``half_wave_v`` tells a search how far to look.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import Any, Literal

from drivers.base import Identity, LabInstrument
from drivers.kinds import PolarizationAxes
from drivers.links.errors import InstrumentRefusedError, LimitError
from drivers.links.limits import ListWithin, Words, floats
from drivers.links.serial_link import SerialLink
from drivers.oz_line import OzLine
from drivers.oz_replies import Reply, ReplyError
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 9600
CHANNELS = (1, 2, 3, 4)
MOST_V = 5.0
STEP_V = 1e-3
MARKER, MARKED = "WF?", "AC WAVEFORM:"
"""No other answer begins so, and the waveform matters in AC mode only."""
_VOLTAGES = re.compile(r"Voltage\(mV\):((?:\s+CH\d\s*[+-]?\d{1,4}){4})")
_FREQUENCIES = re.compile(r"Frequency\(Hz\):((?:\s+CH\d\s*\d{1,3}){4})")
_CHANNEL = re.compile(r"CH(\d)\s*([+-]?\d+)")
_MODE = re.compile(r"Work Mode: (DC|AC)(\(\w+\))?")
Mode = Literal["DC", "AC"]


class OzEPC400(LabInstrument):
    """The controller on the serial port ``address``.

    ``half_wave_v`` is about the voltage that changes the retardation of one squeezer by half a wave; ``settle_s`` is waited
    for after every change.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        half_wave_v: float = 2.0,
        settle_s: float = 0.02,
        timeout_s: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        if not STEP_V < half_wave_v <= 2 * MOST_V:
            raise self.error(
                LimitError, f"half_wave_v = {half_wave_v:g} is outside {STEP_V:g}..{2 * MOST_V:g} V"
            )
        self.link = SerialLink(
            address, baudrate=BAUDRATE, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self.axes = PolarizationAxes(len(CHANNELS), "V", -MOST_V, MOST_V, STEP_V, half_wave_v, settle_s)
        self._line = OzLine(
            self.link,
            model="EPC-400",
            marker=MARKER,
            is_marked=lambda reply: reply.after(MARKED) is not None,
            typical="a line AC Waveform:",
            end=b"\r\n",
        )
        self.actuators: Quantity = self.add_setting(
            "actuators",
            label="Voltages of the four squeezers",
            unit="V",
            get=self._read_voltages,
            put=self._set_voltages,
            limits=ListWithin(-MOST_V, MOST_V, "V"),
            resolution=STEP_V / 2,
            set_parser=floats,
            docstring="In DC mode; setting them ends scrambling.",
        )
        self.mode: Quantity = self.add_setting(
            "mode",
            label="Mode: DC, or AC for scrambling",
            get=lambda: self._line.ask("M?", _mode),
            put=lambda mode: self._line.ask(f"M{mode}", lambda reply: _echo(reply, f"Set To {mode} Mode")),
            limits=Words(("DC", "AC")),
        )
        self.add_reading(
            "frequencies",
            label="Frequencies of the four squeezers in AC mode",
            unit="Hz",
            get=lambda: [float(each) for each in self._line.ask("F?", _frequencies)],
            resolution=1.0,
        )

    def identify(self) -> Identity:
        """Serial number and version; empty where a firmware does not tell them.

        Raises WrongInstrumentError for what has no waveform to tell.
        """
        self._line.ask(MARKER, lambda reply: None)
        return Identity("OZ Optics", "EPC-400", self._ask_behind_colon("SN?"), self._ask_behind_colon("VER?"))

    def know_state(self) -> None:
        """DC mode and outputs on; the voltages as they are."""
        with suppress(InstrumentRefusedError):  # a firmware whose outputs are always on
            self._line.ask("ENABLE1", lambda reply: None)
        mode = self.mode.get()
        logger.info(
            "%s at %s: found in %s mode at %s V", self.name, self.address, mode, self._read_voltages()
        )
        if mode != "DC":
            self.mode.set("DC")

    def restore_passive(self) -> None:
        """The voltages as they were: a unit that restarted has those that were once saved."""
        self.restore(self.actuators)

    def safe_state(self) -> None:
        """Give up what others wait for, and leave the voltages as they are."""
        with self.link.urgent():
            logger.info("%s at %s: its voltages stay", self.name, self.address)

    def ask_raw(self, cmd: str) -> str:
        """``ask("V?")``: the lines of the reply before ``Done``."""
        return self._line.ask(self.link.one_line(cmd).strip(), lambda reply: "\n".join(reply.lines))

    def write_raw(self, cmd: str) -> None:
        """As ``ask``: every command is answered."""
        self.ask_raw(cmd)

    def _ask_behind_colon(self, question: str) -> str:
        try:
            return self._line.ask(question, _behind_colon)
        except InstrumentRefusedError:
            return ""

    def _read_voltages(self) -> list[float]:
        return [mv / 1000 for mv in self._line.ask("V?", _voltages_mv)]

    def _set_voltages(self, volts: list[float]) -> None:
        if len(volts) != len(CHANNELS):
            raise self.error(
                LimitError, f"{len(volts)} voltages for {len(CHANNELS)} squeezers; nothing was sent"
            )
        with self.link.transaction():
            for channel, wanted, held in zip(CHANNELS, volts, self._read_voltages(), strict=True):
                mv = round(wanted * 1000)
                if mv != round(held * 1000):
                    said = f"Set CH{channel} DC Voltage at: {mv}mV"
                    self._line.ask(f"V{channel},{mv}", lambda reply, said=said: _echo(reply, said))  # type: ignore[misc]
            if self.mode.get() != "DC":
                self.mode.set("DC")
            begun, rests_at = self.link.urgencies, self.link.now() + self.axes.settle_s
        self.link.wait_until(
            lambda: self.link.now() >= rests_at, self.axes.settle_s + 1.0, "settling", since=begun
        )


def _only(reply: Reply) -> str:
    if len(reply.lines) != 1:
        raise ReplyError(f"{list(reply.lines[:3])} is not one line")
    return reply.lines[0]


def _echo(reply: Reply, said: str) -> None:
    if _only(reply) != said:
        raise ReplyError(f"the answer is {_only(reply)!r}, not {said!r}")


def _mode(reply: Reply) -> Mode:
    found = _MODE.fullmatch(_only(reply))
    if found is None:
        raise ReplyError(f"the mode is {_only(reply)!r}")
    return "DC" if found[1] == "DC" else "AC"


def _by_channel(reply: Reply, form: re.Pattern[str]) -> list[int]:
    found = form.fullmatch(_only(reply))
    values = {int(channel): int(value) for channel, value in _CHANNEL.findall(found[1])} if found else {}
    if tuple(values) != CHANNELS:
        raise ReplyError(f"{_only(reply)!r} does not tell one number for each of four channels")
    return list(values.values())


def _voltages_mv(reply: Reply) -> list[int]:
    values = _by_channel(reply, _VOLTAGES)
    if max(map(abs, values)) > MOST_V * 1000:
        raise ReplyError(f"{values} mV are more than the instrument has")
    return values


def _frequencies(reply: Reply) -> list[int]:
    return _by_channel(reply, _FREQUENCIES)


def _behind_colon(reply: Reply) -> str:
    _, colon, text = reply.lines[0].partition(":") if reply.lines else ("", "", "")
    if not colon or not text.strip():
        raise ReplyError(f"{list(reply.lines[:3])} has nothing behind a colon")
    return text.strip()
