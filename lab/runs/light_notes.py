"""What is believed of the light that keys were made with, as every report of such keys says it."""

from __future__ import annotations

from lab.testbed import Testbed
from orchestrator.events.status import Light, Monitoring

LIGHT: dict[str, str] = {
    "assumed": (
        "light assumed: the relay's light is believed to be steady, in every slot alike and from one side; the relay is "
        "untrusted for its announcements and detectors, not for its light"
    ),
    "gated": "light gated: each user's own counter bounds the light in its own window",
}
MONITORING: dict[str, str] = {
    "monitored": "intensity monitored: each user's sensors read its own light while pulses fly",
    "calibrated": (
        "intensity calibrated, the weaker way: believed since the last calibration, read by nobody while pulses fly"
    ),
}


def light_notes(testbed: Testbed) -> tuple[str, ...]:
    """One sentence for each thing that is believed of a testbed's keys."""
    protocol = testbed.protocol
    return LIGHT[protocol.light], MONITORING[protocol.monitoring]


def notes_of(light: Light | None, monitoring: Monitoring | None) -> tuple[str, ...]:
    """The same for one pair or block; nothing of what nobody told."""
    return tuple(
        notes[label] for notes, label in ((LIGHT, light), (MONITORING, monitoring)) if label is not None
    )
