"""The record generator of an ID900, and the one trigger that goes with each record.

The trigger is one pulse of generator 1.  It runs through combiner TSCO1 to output 1, whose cable leads to whoever waits
for it and back to START, so that tags count from the edge itself.  A record in which START did not hear exactly one edge
has no tags: they would count from another one, or from the beginning of the record.

Sources: IDQ Python examples ``utils/acquisitions.py`` (REC), ``Histogram_acquisition_filtred`` (``GEN1:ENAB OFF``, then
``PPER;PWID;PNUM;TRIG:ARM:MODE MANual``, then ``ENAB ON;PLAY``; ``TSCO1:FIR:LINK GEN1``; ``OUTP1:ENAB ON;MODE NIM;LINK
TSCO1``) and the example that merges channels (``GEN1:TRIG:LINK NONE``, ``TSCO1:OPIN ONLYFIR;OPOU ONLYFIR;WIND:ENAB OFF``);
a Qudi module for the ID1000 (``STARt:COUNter``, stages).  No source says how long after ``REC:PLAY`` the pulse of a
``GEN1:PLAY`` in the same request leaves: tags do not depend on it, and a record is longer than its frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from drivers.links.errors import InstrumentRefusedError, NotReadyError
from drivers.links.zmq_reqrep import RequestLink
from drivers.timetaggers.id900_scpi import ID900Questions
from drivers.timetaggers.id900_state import START, Known, block, input_settings
from drivers.timetaggers.id900_streams import START_AGAIN, TagStreams

STAGES = {"PLAYING": "PLAYing", "ARMED": "ARMed", "WAITING": "WAITing", "IDLE": "IDLE", "STOPPED": "STOPped"}
"""Of the record generator: the first four are those of a Qudi module for the ID1000, the last is that of other clients."""
RUNNING = ("PLAYING", "ARMED")
"""Stages in which a record runs or begins at the next pulse."""
STOP_S = 0.5
"""How long a record may take to end after it was stopped; no source says."""

TriggerStandard = Literal["TTL", "NIM"]


@dataclass(frozen=True)
class TriggerLevels:
    """What START must be set to so that it hears an output of one standard, and what that puts into 50 ohm."""

    edge: str
    threshold_v: float
    pulse_v: float


STANDARDS: dict[TriggerStandard, TriggerLevels] = {
    "TTL": TriggerLevels("RISIng", 1.0, 2.0),
    "NIM": TriggerLevels("FALLing", -0.4, -0.8),
}
"""Half way up the pulse: TTL rises from 0 V to 2 V or more into 50 ohm, NIM falls from 0 to -0.8 V."""
TRIGGER_WIDTH_PS, TRIGGER_PERIOD_PS = 100_000, 1_000_000


def trigger_settings(standard: TriggerStandard) -> Iterator[Known]:
    """One pulse of generator 1 on output 1 whenever it is enabled and played, heard by START."""
    yield Known("GENerator1:TRIGger:ARM:MODE", "MANUal")
    yield Known("GENerator1:TRIGger:LINK", "NONE", licensed=True)
    yield Known("GENerator1:PNUMber", 1.0)
    yield Known("GENerator1:PPERiod", TRIGGER_PERIOD_PS, "TB")
    yield Known("GENerator1:PWIDth", TRIGGER_WIDTH_PS, "TB")
    yield Known("TSCOmbiner1:FIRst:LINK", "GEN1")
    for name, word in (("OPIN", "ONLYFIR"), ("OPOUt", "ONLYFIR"), ("WINDow:ENABle", "OFF")):
        yield Known(f"TSCOmbiner1:{name}", word)
    yield Known("OUTPut1:MODE", standard)
    yield Known("OUTPut1:LINK", "TSCO1")
    yield Known("OUTPut1:ENABle", "ON")
    levels = STANDARDS[standard]
    yield from input_settings(
        START, enabled=True, threshold_v=levels.threshold_v, mode="ACCUm", edge=levels.edge
    )


class Records:
    """Plays and stops records over ``link``; ``check_clock`` raises when the instrument is off its reference."""

    def __init__(
        self,
        link: RequestLink,
        streams: TagStreams,
        *,
        standard: TriggerStandard,
        check_clock: Callable[[], None],
        poll_interval_s: float,
        pause: Callable[[float], None],
    ) -> None:
        self._link = link
        self._scpi = ID900Questions(link)
        self._streams = streams
        self._standard = standard
        self._check_clock = check_clock
        self._poll_interval_s = poll_interval_s
        self._pause = pause
        self._heard_before: int | None = None
        """Edges that START had counted before the record whose edge is not confirmed yet."""

    def stage(self) -> str:
        """What the record generator does, a name of :data:`STAGES`."""
        return self._scpi.word("REC:STAGe?", STAGES)

    def play(self, duration_ps: int) -> None:
        """Start one record and its trigger; returns at once."""
        if self.playing():
            raise self._link.error(NotReadyError, "a record is still running")
        heard = self._heard()
        try:
            self._scpi.ask(f"REC:DURation {duration_ps};:REC:PLAY;:GEN1:ENAB ON;PLAY")
        except InstrumentRefusedError:
            raise
        except BaseException:  # a stop button too: whether the record ran is unknown
            self._streams.fail(
                self._link.error(NotReadyError, f"a record may have run unseen; {START_AGAIN}")
            )
            raise
        self._heard_before = heard
        self._streams.expect_record()

    def playing(self) -> bool:
        """Whether the record generator runs; what :meth:`confirm` raises when the record has ended by itself."""
        if self.stage() == "PLAYING":
            return True
        self.confirm()
        return False

    def confirm(self) -> None:
        """Once a record has ended: NotReadyError, for its tags too, unless START heard its trigger, and that alone.

        What ``check_clock`` raises when it was recorded without the reference.  A record that was stopped is not asked about.
        """
        if (before := self._heard_before) is None:
            return
        self._heard_before = None
        try:
            if (heard := self._heard() - before) != 1:
                raise self._link.error(
                    NotReadyError,
                    f"START heard {heard} triggers in a record instead of one; check the cable from output 1 to START, "
                    f"and that the line carries {self._standard} levels; then {START_AGAIN}",
                )
            self._check_clock()
        except NotReadyError as error:
            self._streams.fail(error)
            raise

    def forget(self) -> None:
        """Nobody asks any more whether the trigger of the last record was heard."""
        self._heard_before = None

    def stop(self) -> None:
        """End the record and the pulses; NotReadyError when the instrument goes on."""
        self.forget()
        deadline = self._link.now() + STOP_S
        self._scpi.ask("REC:STOP;:GEN1:ENAB OFF")
        while (stage := self.stage()) in RUNNING:
            if self._link.now() > deadline:
                raise self._link.error(
                    NotReadyError,
                    f"the record generator is at stage {stage} after REC:STOP; cut the trigger line",
                )
            self._scpi.ask("REC:TRIG:ARM:MODE MANUal;:REC:STOP")
            self._pause(self._poll_interval_s)

    def _heard(self) -> int:
        return self._scpi.count(f"{block(START)}:COUNter?")
