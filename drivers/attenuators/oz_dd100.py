"""OZ Optics DD-100-MC motor-driven attenuator on a serial line.

Commands end in CR; a reply is lines ended by CR LF, then ``Done`` and an empty line, or one line ``Error...``.
Replies carry no mark of what they answer, so after any trouble the driver *gets in step*: it asks for the
configuration, which nothing else answers, and skips replies until that comes.

A unit whose motor runs answers when it has arrived, and no published command stops it; what it does with a command
that comes meanwhile no source says, so it may obey at once, obey afterwards, or lose it.  ``safe_state`` therefore
sends the largest attenuation at once, whatever was asked before, and again if the unit comes to rest elsewhere.

After a power cycle the position is unknown until the motor was homed or sent somewhere; that is a missing reading of
a healthy unit.  Connecting moves nothing, except out of a position below ``min_attenuation_db``.

Sources: QMI ``qmi/instruments/ozoptics/dd100mc.py`` (framing, ``A``, ``D``, ``H``, ``CD``; 5 s per reply, 30 s for
homing); pylablib ``pylablib/devices/OZOptics/base.py`` (``IL:`` and ``MAX ATTEN:`` of ``CD``, ``Error!``, 20 s and
40 s); COO-Utilities/ozoptics ``dd100mc.py`` (list of commands, ``Atten:12.00(dB)``, ``Error-2`` ..); keckogeco
``oz_voa.py`` (three units: unknown until the first ``A``, which homes; 25 s).
"""

from __future__ import annotations

import logging
import math
from typing import Any

from drivers.base import Identity, LabInstrument
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkTimeoutError,
    MalformedReplyError,
    NoReadingError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import Within
from drivers.links.serial_link import SerialLink
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 9600
MAX_REPLY_LINES = 64
LIMIT_DB = 100.0  # no DD-100 attenuates more; the unit's own range (CD) is checked as well
STEP_DB = 0.01  # two digits after the point (COO-Utilities/ozoptics)
IN_STEP = "MAX ATTEN:"  # stands in the configuration only
ERRORS = {
    "Error-2": "bad command",
    "Error-5": "home sensor error, the unit needs repair",
    "Error-6": "overflow",
    "Error-7": "motor voltage beyond its safe limits",
}


class OzDD100(LabInstrument):
    """The attenuator on the serial port ``address``.

    ``timeout_s`` bounds a plain reply, ``move_timeout_s`` a move over the whole range, ``home_timeout_s`` homing.
    ``min_attenuation_db`` is a hard limit of the set-up: nobody opens further.  ``insertion_loss_db``, where given, is
    what the unit must have stored (its ``L`` command shifts every attenuation), to within ``tolerance_db``; so far may
    the position read back be from the one asked for, too.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        min_attenuation_db: float = 0.0,
        insertion_loss_db: float | None = None,
        tolerance_db: float = 0.05,
        timeout_s: float = 5.0,
        move_timeout_s: float = 25.0,
        home_timeout_s: float = 40.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        if not 0.0 <= min_attenuation_db < LIMIT_DB:
            raise self.error(
                LimitError, f"min_attenuation_db = {min_attenuation_db:g} is outside 0..{LIMIT_DB:g} dB"
            )
        self.link = SerialLink(
            address, baudrate=BAUDRATE, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self._min_db = min_attenuation_db
        self._insertion_loss_db = insertion_loss_db
        self._tolerance_db = tolerance_db
        self._move_timeout_s = move_timeout_s
        self._home_timeout_s = home_timeout_s
        self._range_db: tuple[float, float] | None = None
        self._in_step_with = -1  # the line on which the last reply was read
        self._rests_at = -math.inf  # when a motor that was sent somewhere has surely arrived
        self.attenuation_db: Quantity = self.add_setting(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get=self._read_attenuation,
            put=self._move,
            limits=Within(min_attenuation_db, LIMIT_DB, "dB"),
            resolution=max(tolerance_db, STEP_DB),
            docstring="Total attenuation, insertion loss included; setting waits for the motor.",
        )
        self.add_reading(
            "insertion_loss_db",
            label="Insertion loss (smallest attenuation)",
            unit="dB",
            get=lambda: self._read_range()[0],
            resolution=STEP_DB,
        )
        self.add_reading(
            "max_attenuation_db",
            label="Largest attenuation",
            unit="dB",
            get=lambda: self._read_range()[1],
            resolution=STEP_DB,
        )

    def identify(self) -> Identity:
        """From the configuration display: the unit has no identity query, only its ``CD`` lines are typical."""
        lines = self._command("CD")
        return Identity("OZ Optics", "DD-100", _after(lines, "SN:") or "", _after(lines, "FW:") or "")

    def know_state(self) -> None:
        """Hold the unit's range against the set-up's, and its position against ``min_attenuation_db``."""
        low, high = self._range_db = self._read_range()
        if self._min_db > high:
            raise self.error(
                LimitError,
                f"min_attenuation_db = {self._min_db:g} dB is more than the unit's largest, {high:g} dB",
            )
        if (lowest := max(self._min_db, low)) < high:
            self.attenuation_db.vals = Within(lowest, high, "dB")
        wanted_db = self._insertion_loss_db
        if wanted_db is not None and abs(low - wanted_db) > self._tolerance_db:
            raise self.error(
                LimitError,
                f"the unit has an insertion loss of {low:.2f} dB stored, the set-up says {wanted_db:g} dB; "
                "every attenuation would be off by the difference",
            )
        try:
            position_db = self._read_attenuation()
        except NoReadingError as error:
            logger.warning("%s", error)
            return
        logger.info("%s at %s: found at %.2f dB", self.name, self.address, position_db)
        if position_db < self._min_db - self._tolerance_db:
            logger.warning(
                "%s at %s: found at %.2f dB, below min_attenuation_db = %g dB; moved to its largest",
                self.name,
                self.address,
                position_db,
                self._min_db,
            )
            self._move(high)

    def safe_state(self) -> None:
        """Move to the largest attenuation: the first thing sent, whatever is under way; returns when it is reached.

        What another thread waits for is given up.  Raises NotReadyError when the unit rests elsewhere.
        """
        with self.link.urgent():
            if self._range_db is None:  # never connected: somebody else may have sent the motor away
                self._rests_at = self.link.now() + self._move_timeout_s
                self._range_db = self._read_range()
            high = self._range_db[1]
            self._send(f"A{high:.2f}", self._move_timeout_s)
            if self._at(high):
                return
            try:
                self._move(high)
            except InstrumentRefusedError:  # not homed, and a firmware that insists on it
                self.home()
                self._move(high)
            if not self._at(high):
                raise self.error(NotReadyError, f"does not rest at its largest attenuation, {high:.2f} dB")

    def tune(self, wavelength_nm: float) -> None:
        """Nothing to do for a unit calibrated at one wavelength.

        Those calibrated at several choose by a ``W`` command whose argument no source explains, and no known query
        tells the choice: set it by hand.
        """

    def let_through(self) -> None:
        """Nothing to open, as the unit has no shutter; LimitError unless it attenuates enough for this set-up."""
        if self._min_db and (position_db := self._read_attenuation()) < self._min_db - self._tolerance_db:
            raise self.error(
                LimitError,
                f"attenuates by {position_db:.2f} dB, min_attenuation_db is {self._min_db:g} dB; set attenuation_db first",
            )

    def block(self) -> None:
        """Move to the largest attenuation."""
        self._move((self._range_db or self._read_range())[1])

    def home(self) -> None:
        """Find the motor's reference; what the output attenuates meanwhile is undefined, so block the light."""
        self.must_end_dark()
        self._command("H", self._home_timeout_s)

    def ask_raw(self, cmd: str) -> str:
        """``ask("CD")``: the lines of the reply before ``Done``; moves are waited for."""
        text = cmd.strip().upper()
        if self._min_db and text[:1] in tuple("ABFHLRSW") and not text.endswith("?"):
            raise self.error(LimitError, f"{text!r} may open beyond min_attenuation_db; set attenuation_db")
        if text[:1] in tuple("ABFHS"):
            self.must_end_dark()
        wait_s = self._home_timeout_s if text[:1] in tuple("ABFHSR") else self.link.timeout_s
        return "\n".join(self._command(text, wait_s))

    def write_raw(self, cmd: str) -> None:
        """As ``ask``: every command is answered."""
        self.ask_raw(cmd)

    def _at(self, wanted_db: float) -> bool:
        try:
            return abs(self._read_attenuation() - wanted_db) <= self._tolerance_db
        except NoReadingError:
            return False

    def _move(self, target_db: float) -> None:
        low, high = self._range_db or self._read_range()
        if not low <= target_db <= high:
            raise self.error(
                LimitError, f"attenuation {target_db:g} dB is outside the unit's range {low:g}..{high:g} dB"
            )
        if target_db < high:
            self.must_end_dark()
        lines = self._command(f"A{target_db:.2f}", self._move_timeout_s)
        if not lines or _after(lines[-1:], "POS:") is None:
            raise self._malformed(f"the move was answered by {lines[:3]!r}")

    def _read_attenuation(self) -> float:
        lines = self._command("D")
        text = _after(lines, "ATTEN:")
        if text is None or (_after(lines, "DPOS:") is None and _after(lines, "POS:") is None):
            raise self._malformed(f"the position query was answered by {lines[:3]!r}")
        if text.lower() == "unknown":
            raise self.error(
                NoReadingError,
                "the position is unknown since the unit was switched on; set an attenuation or call home()",
            )
        return self._number(text, "ATTEN")

    def _read_range(self) -> tuple[float, float]:
        lines = self._command("CD")
        low, high = (self._number(_after(lines, key), key) for key in ("IL:", IN_STEP))
        if not 0.0 <= low < high:
            raise self._malformed(f"the range {low:g}..{high:g} dB makes no sense")
        return low, high

    def _number(self, text: str | None, what: str) -> float:
        """A finite number, with or without its unit behind it."""
        try:
            value = float((text or "").removesuffix("(dB)"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._malformed(f"{what} is {text!r}, not a number")
        return value

    def _command(self, command: str, wait_s: float | None = None) -> list[str]:
        """Send ``command`` and return the reply's lines before ``Done``; InstrumentRefusedError on an error line."""
        wait_s = self.link.timeout_s if wait_s is None else wait_s
        with self.link.exchange():
            configuration = self._get_in_step()
            if configuration and command == "CD":
                return configuration
            self._write(command, wait_s)
            try:
                reply = self._read_reply(self.link.now() + wait_s, command)
            except LinkTimeoutError as error:
                raise self.error(LinkTimeoutError, f"{command!r} was not done within {wait_s:g} s") from error
            self._answered()
            if isinstance(reply, InstrumentError):
                raise reply
            return reply

    def _send(self, command: str, wait_s: float) -> None:
        """Send ``command`` and leave its reply for later."""
        with self.link.exchange():
            self._write(command, wait_s)

    def _write(self, command: str, wait_s: float) -> None:
        self._in_step_with = -1
        self._rests_at = max(self._rests_at, self.link.now()) + wait_s
        self.link.write(f"{command}\r".encode("ascii"))

    def _answered(self) -> None:
        self._in_step_with = self.link.renewed
        self._rests_at = -math.inf

    def _get_in_step(self) -> list[str] | None:
        """Skip replies to what was asked before; a motor that was sent somewhere may have to arrive first.

        Returns the configuration if it had to be asked for.
        """
        if self._in_step_with == self.link.renewed and not self._unasked():
            return None
        timeout_s = self.link.timeout_s
        give_up = max(self._rests_at, self.link.now() + timeout_s)
        while True:
            self.link.write(b"CD\r")
            skipped: list[object] = []
            try:
                configuration = self._skip_to_configuration(
                    min(self.link.now() + timeout_s, give_up), skipped
                )
                break
            except LinkTimeoutError as error:  # lost, or the motor still runs: ask again
                if self.link.now() < give_up:
                    logger.info(
                        "%s at %s: no answer yet; the motor may be under way", self.name, self.address
                    )
                elif skipped:
                    raise self.error(
                        WrongInstrumentError,
                        f"CD is answered without a {IN_STEP} line ({skipped[-1]}); this is no DD-100",
                    ) from error
                else:
                    raise
        self.link.drain()
        self._answered()
        return configuration

    def _unasked(self) -> bytes:
        """What came since the last reply, apart from the empty line that ends it: nothing, unless it came twice."""
        try:
            unasked = self.link.read_some(self.link.now()).strip()
        except LinkTimeoutError:
            return b""
        if unasked:
            logger.warning("%s at %s: %d bytes came unasked", self.name, self.address, len(unasked))
        return unasked

    def _skip_to_configuration(self, deadline: float, skipped: list[object]) -> list[str]:
        while True:
            reply = self._read_reply(deadline, "CD")
            if not isinstance(reply, InstrumentError) and _after(reply, IN_STEP) is not None:
                return reply
            skipped.append(reply)

    def _read_reply(self, deadline: float, command: str) -> list[str] | InstrumentError:
        """The lines of the next reply, without an echo of ``command``; or its refusal.

        A configuration that was asked for more than once is passed over.
        """
        lines: list[str] = []
        while True:
            for line in self._decode(self.link.read_line(deadline)):
                if line.startswith("Error"):
                    reason = ERRORS.get(line.removesuffix("!"), "no reason given")
                    return self.error(InstrumentRefusedError, f"{command!r} was refused: {reason} ({line})")
                if line == "Done":
                    if command == "CD" or _after(lines, IN_STEP) is None:
                        return lines
                    lines = []
                elif line not in ("", command):
                    lines.append(line)
            if len(lines) > MAX_REPLY_LINES:
                raise self._malformed("the reply does not end")

    def _decode(self, line: bytes) -> list[str]:
        """The text of a line; with the echo on, the command and its CR come in front."""
        try:
            return [part.strip() for part in line.decode("ascii").split("\r")]
        except UnicodeDecodeError as error:
            raise self._malformed(f"a line of {len(line)} bytes is not text") from error

    def _malformed(self, text: str) -> InstrumentError:
        return self.error(MalformedReplyError, text)


def _after(lines: list[str], key: str) -> str | None:
    """What follows ``key`` in the first line that starts with it, in either case."""
    for line in lines:
        if line.upper().startswith(key):
            return line[len(key) :].strip()
    return None
