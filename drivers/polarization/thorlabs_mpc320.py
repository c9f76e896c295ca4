"""Thorlabs MPC320 motorised polarisation controller: three paddles of fibre loops, APT on a USB serial line (115200 baud).

A paddle stands anywhere from 0 to 170 degrees, which is 1370 counts of its encoder.  A move is sent and then watched: the
paddle has come to rest when its velocity or its motor's current is zero, and it has arrived when it is then within
``tolerance_deg``.  One that is so already is not moved, because motors wear and their last counts are chance.

Paddles move only when ``actuators`` is set.  Nothing that they can do harms anybody: they emit nothing and hold back no
light that a detector could not take.  So **the safe state is where they stand**: a move under way ends, waiting for it is
given up.  Connecting leaves them too, and ends the status messages that somebody may have asked for.

Sources: QMI ``qmi/instruments/thorlabs/mpc320.py`` and ``apt_packets.py`` (numbers, layouts, counts, when a move is over, not
to poll without a pause); PnPQ ``src/pnpq/devices/polarization_controller_thorlabs_mpc.py`` (the same on an MPC320; a motor
must be enabled, the bit that tells so, and not to toggle that quickly, after which a unit answers nothing; at 0 and 170
degrees a motor may go on humming).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drivers.base import Identity, LabInstrument
from drivers.kinds import PolarizationAxes
from drivers.links.apt import AptMessage
from drivers.links.apt_line import GET_INFO, INFO_BYTES, REQ_INFO, AptLine
from drivers.links.errors import LimitError, MalformedReplyError, WrongInstrumentError
from drivers.links.limits import ListWithin, Whole, floats
from drivers.links.serial_link import SerialLink
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 115200
MODEL = "MPC320"
PADDLES = (0x01, 0x02, 0x04)
"""A channel is a bit."""
MOST_DEG, MOST_COUNTS = 170.0, 1370
DEG_PER_COUNT = MOST_DEG / MOST_COUNTS
HALF_TURN_DEG = 45.0
"""Of the half-wave paddle, which turns linear polarisation by twice its own angle; the others turn less."""
STOP_UPDATES = 0x0012
SET_ENABLED, REQ_ENABLED, ENABLE = 0x0210, 0x0211, 1
MOVE_ABSOLUTE = 0x0453
REQ_STATUS, GET_STATUS = 0x0490, 0x0491
SET_PARAMETERS, REQ_PARAMETERS, GET_PARAMETERS = 0x0530, 0x0531, 0x0532
ENABLED = 0x8000_0000
_STATUS = struct.Struct("<HiHhI")  # channel, counts, velocity, motor current, status bits
_PARAMETERS = struct.Struct("<6H")  # unused, velocity in %, home position, three jog steps
_INFO = struct.Struct(
    "<I8sH4B60xHHH"
)  # serial number, model, type, firmware, hardware, modifications, channels
ANSWERS = {REQ_INFO: INFO_BYTES, REQ_ENABLED: 0, REQ_STATUS: _STATUS.size, REQ_PARAMETERS: _PARAMETERS.size}
"""Bytes of data in the answer to a question, whose number is one more."""
POLL_S = 0.02
FAR_OUT_COUNTS = 2 * MOST_COUNTS
"""No paddle is there."""


@dataclass(frozen=True)
class _Status:
    counts: int
    rests: bool
    enabled: bool

    @property
    def angle_deg(self) -> float:
        return self.counts * DEG_PER_COUNT


class ThorlabsMPC320(LabInstrument):
    """The controller on the serial port ``address``.

    ``tolerance_deg`` is how far a paddle may rest from where it was sent; ``move_timeout_s`` bounds a move, the slowest
    of which takes 4 s.
    """

    FRAMING = "apt"

    def __init__(
        self,
        name: str,
        address: str,
        *,
        tolerance_deg: float = 0.5,
        timeout_s: float = 1.0,
        move_timeout_s: float = 8.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        if not DEG_PER_COUNT / 2 <= tolerance_deg <= HALF_TURN_DEG:
            raise self.error(
                LimitError,
                f"tolerance_deg = {tolerance_deg:g} is outside {DEG_PER_COUNT / 2:.3f}..{HALF_TURN_DEG:g} degrees",
            )
        self.link = SerialLink(
            address,
            baudrate=BAUDRATE,
            rtscts=True,
            instrument=name,
            timeout_s=timeout_s,
            bring_up=self.bring_up,
        )
        self.links = (self.link,)
        self.axes = PolarizationAxes(
            len(PADDLES), "deg", 0.0, MOST_DEG, tolerance_deg, HALF_TURN_DEG, settle_s=move_timeout_s
        )
        self._line = AptLine(self.link)
        self._tolerance_deg = tolerance_deg
        self._move_timeout_s = move_timeout_s
        self.actuators: Quantity = self.add_setting(
            "actuators",
            label="Angles of the three paddles",
            unit="deg",
            get=self._read_angles,
            put=self._move,
            limits=ListWithin(0.0, MOST_DEG, "deg"),
            resolution=tolerance_deg,
            set_parser=floats,
            docstring="Setting them waits until all are at rest.",
        )
        self.speed_percent: Quantity = self.add_setting(
            "speed_percent",
            label="Speed of the paddles",
            unit="%",
            get=lambda: self._read_parameters()[1],
            put=self._set_speed,
            limits=Whole(10, 100, "%"),
            docstring="Of 400 degrees per second.",
        )
        self.add_reading(
            "moving",
            label="Whether a paddle moves",
            get=lambda: not all(each.rests for each in self._read_all()),
        )

    def identify(self) -> Identity:
        """Model, serial number and firmware.  Raises WrongInstrumentError for another unit that speaks APT."""
        answer = self._line.ask(AptMessage(REQ_INFO), GET_INFO, size=INFO_BYTES)
        serial_number, name, _, minor, interim, major, _, *_ = _INFO.unpack(answer.data)
        model = name.split(b"\0")[0].decode("ascii", "replace").strip()
        if not model.startswith(MODEL):
            raise self.error(
                WrongInstrumentError,
                f"a {model or 'unit without a name'} answers; this driver knows the {MODEL} only",
            )
        return Identity("Thorlabs", model, str(serial_number), f"{major}.{interim}.{minor}")

    def know_state(self) -> None:
        """No status messages unasked; tell where the paddles stand, and leave them."""
        self._line.tell(AptMessage(STOP_UPDATES))
        angles = ", ".join(f"{each:.1f}" for each in self._read_angles())
        logger.info("%s at %s: found at %s degrees", self.name, self.address, angles)

    def restore_passive(self) -> None:
        """The speed; the paddles stand where they stood."""
        self.restore(self.speed_percent)

    def safe_state(self) -> None:
        """Give up what others wait for, and leave the paddles where they are."""
        with self.link.urgent():
            logger.info("%s at %s: its paddles stay", self.name, self.address)

    def ask_raw(self, cmd: str) -> str:
        """``ask("0x0490 1")``: the data of the message with the next number, in hexadecimal; behind it, two parameters."""
        question = self._short(cmd)
        if question.number not in ANSWERS:
            known = ", ".join(f"0x{number:04X}" for number in ANSWERS)
            raise self.error(LimitError, f"{cmd[:40]!r} is none of the questions {known}; nothing was sent")
        answer = self._line.ask(question, question.number + 1, size=ANSWERS[question.number])
        return answer.data.hex() or f"{answer.p1:02x}{answer.p2:02x}"

    def write_raw(self, cmd: str) -> None:
        """``write("0x0223 1")``: a message without data, which nothing answers; here the unit blinks."""
        self._line.tell(self._short(cmd))

    def _short(self, cmd: str) -> AptMessage:
        try:
            number, p1, p2 = [*(int(each, 0) for each in cmd.split()), 0, 0][: max(3, len(cmd.split()))]
            if not (0 < number <= 0xFFFF and 0 <= p1 <= 255 and 0 <= p2 <= 255):
                raise ValueError
        except ValueError as error:
            raise self.error(
                LimitError,
                f"{cmd[:40]!r} is no message; one is its number and up to two bytes, as in '0x0490 1'; nothing was sent",
            ) from error
        return AptMessage(number, p1, p2)

    def _read(self, paddle: int) -> _Status:
        answer = self._line.ask(AptMessage(REQ_STATUS, paddle), GET_STATUS, size=_STATUS.size, channel=paddle)
        _, counts, velocity, current, bits = _STATUS.unpack(answer.data)
        if abs(counts) > FAR_OUT_COUNTS:
            raise self.error(
                MalformedReplyError, f"paddle {PADDLES.index(paddle) + 1} is told to be at {counts} counts"
            )
        return _Status(counts, not velocity or not current, bool(bits & ENABLED))

    def _read_all(self) -> list[_Status]:
        with self.link.transaction():
            return [self._read(paddle) for paddle in PADDLES]

    def _read_angles(self) -> list[float]:
        return [each.angle_deg for each in self._read_all()]

    def _move(self, angles_deg: list[float]) -> None:
        if len(angles_deg) != len(PADDLES):
            raise self.error(
                LimitError, f"{len(angles_deg)} angles for {len(PADDLES)} paddles; nothing was sent"
            )
        with self.link.transaction():
            found = self._read_all()
            begun = self.link.urgencies
        if self._arrived(found, angles_deg):
            return
        if not all(each.enabled for each in found):
            self._line.tell(AptMessage(SET_ENABLED, sum(PADDLES), ENABLE))
            self._wait(lambda now: all(each.enabled for each in now), "enabling the motors", begun)
        self._line.tell(
            *(
                AptMessage(MOVE_ABSOLUTE, data=struct.pack("<Hi", paddle, round(angle / DEG_PER_COUNT)))
                for paddle, angle, status in zip(PADDLES, angles_deg, found, strict=True)
                if not self._arrived([status], [angle])
            )
        )
        self._wait(lambda now: self._arrived(now, angles_deg), "moving the paddles", begun)

    def _arrived(self, found: list[_Status], angles_deg: list[float]) -> bool:
        return all(
            each.rests and abs(each.angle_deg - angle) <= self._tolerance_deg
            for each, angle in zip(found, angles_deg, strict=True)
        )

    def _wait(self, done: Callable[[list[_Status]], bool], what: str, begun: int) -> None:
        self.link.wait_until(
            lambda: done(self._read_all()), self._move_timeout_s, what, since=begun, poll_s=POLL_S
        )

    def _read_parameters(self) -> tuple[int, ...]:
        answer = self._line.ask(AptMessage(REQ_PARAMETERS), GET_PARAMETERS, size=_PARAMETERS.size)
        return _PARAMETERS.unpack(answer.data)

    def _set_speed(self, percent: int) -> None:
        with self.link.transaction():
            _, _, *others = self._read_parameters()
            self._line.tell(AptMessage(SET_PARAMETERS, data=_PARAMETERS.pack(0, percent, *others)))
