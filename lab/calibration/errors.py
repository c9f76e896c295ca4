"""Why a calibration finds nothing that may be used."""

from __future__ import annotations


class CalibrationRefusedError(Exception):
    """What was measured cannot be believed, or is not precise enough; nothing of it is kept.

    ``check`` says what to look at.
    """

    def __init__(self, what: str, check: str) -> None:
        self.check = check
        super().__init__(f"{what}; {check}")
