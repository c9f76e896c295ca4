"""A user's station leaves the ring as its node ends in the middle of light.

A relay that ends at the same moment closes the launch shortly after, without a word that comes through; until it is dark the
station stays where it is, behind its closed attenuator.
"""

from __future__ import annotations

import logging

from drivers.links.errors import InstrumentError
from orchestrator import runtime
from orchestrator.light.user import UserLight

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2


def leave_within(light: UserLight, patience_s: float) -> None:
    """Out of the ring as soon as it is dark; later the guard does the same, once this process has ended."""
    until_s = runtime.now() + patience_s
    try:
        while light.stays_in() and runtime.now() < until_s:
            runtime.sleep(LOOK_EVERY_S)
            light.step_aside_if_dark()
    except InstrumentError as error:
        logger.warning("the station stays in the ring: %s", error)
