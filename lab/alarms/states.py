"""What becomes of one alarm: the rules of severity, latching, acknowledgement and shelving, without clocks or threads.

* It *begins*, unacknowledged, when its severity rises from none; an acknowledged one that becomes more severe is
  unacknowledged again, one that becomes less severe is not.
* It *ends* when its severity is none - at once, unless it latches and nobody has acknowledged it: then it stands, over and
  unacknowledged, until somebody does.
* *Shelved* it is known and listed, and disturbs nobody, until a given moment; there is no shelf without an end.

The manner is that of ISA-18.2 and of the alarm servers built on EPICS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lab.alarms.limits import GOOD, RANK, Judged, Severity

LONGEST_SHELF_S = 24 * 3600.0


@dataclass(frozen=True)
class AlarmState:
    """One alarm at one moment; times on the caller's clock, seconds.

    ``judged`` is of this moment, ``worst`` the most severe since it began.  ``since_s`` is when it began.
    """

    judged: Judged = GOOD
    worst: Severity = "none"
    acknowledged: bool = False
    since_s: float = 0.0
    shelved_until_s: float | None = None

    @property
    def is_active(self) -> bool:
        """Whether something is wrong at this moment."""
        return self.judged.severity != "none"

    @property
    def stands(self) -> bool:
        """Whether it is to be shown: active, or over and latched."""
        return self.worst != "none"

    def shelved(self, now_s: float) -> bool:
        """Whether it disturbs nobody at this moment."""
        return self.shelved_until_s is not None and now_s < self.shelved_until_s

    def observed(self, judged: Judged, now_s: float, *, latching: bool) -> AlarmState:
        """After a look at what is watched."""
        state = self._off_the_shelf(now_s)
        if judged.severity == "none":
            over = not latching or state.acknowledged
            return state._ended() if over or not state.stands else replace(state, judged=judged)
        if not state.stands:
            return replace(state, judged=judged, worst=judged.severity, acknowledged=False, since_s=now_s)
        worse = RANK[judged.severity] > RANK[state.worst]
        return replace(
            state,
            judged=judged,
            worst=judged.severity if worse else state.worst,
            acknowledged=state.acknowledged and not worse,
        )

    def acknowledge(self) -> AlarmState:
        """Somebody has seen it; one that is over already ends."""
        if not self.stands:
            return self
        return replace(self, acknowledged=True) if self.is_active else self._ended()

    def shelve(self, until_s: float, now_s: float) -> AlarmState:
        """Out of the way until then.  Raises ValueError for an end that is past or beyond :data:`LONGEST_SHELF_S`."""
        if not 0 < until_s - now_s <= LONGEST_SHELF_S:
            raise ValueError(
                f"an alarm is shelved for more than 0 and at most {LONGEST_SHELF_S / 3600:g} hours, not for "
                f"{(until_s - now_s) / 3600:g}"
            )
        return replace(self, shelved_until_s=until_s)

    def unshelve(self) -> AlarmState:
        """Back in the way."""
        return replace(self, shelved_until_s=None)

    def _off_the_shelf(self, now_s: float) -> AlarmState:
        return self if self.shelved_until_s is None or self.shelved(now_s) else self.unshelve()

    def _ended(self) -> AlarmState:
        return AlarmState(shelved_until_s=self.shelved_until_s)
