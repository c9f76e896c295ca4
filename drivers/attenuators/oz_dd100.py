"""OZ Optics DD-100-MC motor-driven attenuator on a serial line.

Commands end in CR; what comes back is in :mod:`drivers.oz_replies`, and how a question finds its own reply in
:mod:`drivers.oz_line`.

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
from typing import Any

from drivers.base import Identity, LabInstrument
from drivers.links.errors import InstrumentRefusedError, LimitError, NoReadingError, NotReadyError
from drivers.links.limits import Within
from drivers.links.serial_link import SerialLink
from drivers.oz_line import OzLine
from drivers.oz_replies import CONFIGURATION, MAX_DB, SERIAL_NUMBERS, Reply
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 9600
STEP_DB = 0.01  # two digits after the point (COO-Utilities/ozoptics)


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
        if not 0.0 <= min_attenuation_db < MAX_DB:
            raise self.error(
                LimitError, f"min_attenuation_db = {min_attenuation_db:g} is outside 0..{MAX_DB:g} dB"
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
        self._line = OzLine(
            self.link,
            model="DD-100",
            marker="CD",
            is_marked=lambda reply: reply.is_configuration,
            typical=f"a {CONFIGURATION} line",
            end=b"\r",
        )
        self.attenuation_db: Quantity = self.add_setting(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get=self._read_attenuation,
            put=self._move,
            limits=Within(min_attenuation_db, MAX_DB, "dB"),
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
        configuration = self._line.ask("CD", lambda reply: reply)
        serial_number = configuration.after(*SERIAL_NUMBERS) or ""
        return Identity("OZ Optics", "DD-100", serial_number, configuration.after("FW:") or "")

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
                self._line.may_move_for(self._move_timeout_s)
                high = self._line.ask("CD", Reply.largest_db)
            else:
                high = self._range_db[1]
            self._line.send(f"A{high:.2f}", self._move_timeout_s)
            if self._at(high):
                return
            try:
                self._go(high)
            except InstrumentRefusedError:  # not homed, and a firmware that insists on it
                self.home()
                self._go(high)
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
        with self.link.transaction():
            self.must_end_dark()
            self._line.ask("H", lambda reply: None, self._home_timeout_s)

    def ask_raw(self, cmd: str) -> str:
        """``ask("CD")``: the lines of the reply before ``Done``; moves are waited for."""
        text = cmd.strip().upper()
        if not (text.isascii() and text.isprintable()):  # a CR would begin another command
            raise self.error(
                LimitError, f"{text[:40]!r} is not one command of printable ASCII; nothing was sent"
            )
        if self._min_db and text[:1] in tuple("ABFHLRSW") and not text.endswith("?"):
            raise self.error(LimitError, f"{text!r} may open beyond min_attenuation_db; set attenuation_db")
        if text[:1] in tuple("ABFHS"):
            self.must_end_dark()
        wait_s = self._home_timeout_s if text[:1] in tuple("ABFHSR") else self.link.timeout_s
        return self._line.ask(text, lambda reply: "\n".join(reply.lines), wait_s)

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
        with self.link.transaction():
            if target_db < high:
                self.must_end_dark()
            self._go(target_db)

    def _go(self, target_db: float) -> None:
        self._line.ask(f"A{target_db:.2f}", Reply.check_moved, self._move_timeout_s)

    def _read_attenuation(self) -> float:
        position_db = self._line.ask("D", Reply.position_db)
        if position_db is None:
            raise self.error(
                NoReadingError,
                "the position is unknown since the unit was switched on; set an attenuation or call home()",
            )
        return position_db

    def _read_range(self) -> tuple[float, float]:
        return self._line.ask("CD", Reply.range_db)
