"""The lines of the twins are short: nothing is under way on them for as long as on a cable behind an adapter."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def lines_soon_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.links.serial_link.QUIET_S", 0.02)
