"""Whoever moves a fibre at a bench: a person at the terminal, or the simulated bench itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lab.calibration.errors import CalibrationRefusedError

if TYPE_CHECKING:
    from orchestrator.light.own_station import Direction


class Hands(Protocol):
    """Moves the fibre of a sensor between its tap and the free port of the far tap; returns once it is there."""

    def plug(self, user: str, sensor: Direction, free: bool) -> None:
        """At a user's station, the sensor of a direction: to the free port, or back."""


class NoHands:
    """Nobody is there."""

    def plug(self, user: str, sensor: Direction, free: bool) -> None:
        """Raises CalibrationRefusedError."""
        raise CalibrationRefusedError(
            f"at {user}'s station a fibre must be moved by hand",
            "calibrate intensity at a terminal, where somebody reads what to do",
        )


def instruction(user: str, sensor: Direction, free: bool) -> str:
    """What a person is asked for."""
    other = "counter-clockwise" if sensor == "cw" else "clockwise"
    place = (
        f"the free port of the tap that feeds the {other} sensor"
        if free
        else "its own tap, where it came from"
    )
    return f"{user}: plug the fibre of sensor_{sensor} into {place}, then press Enter"
