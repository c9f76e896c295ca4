"""Where a run works that was not given a folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path


def own_folder(kind: str) -> Path:
    """A folder of its own for a run that begins at this moment; it is not made yet."""
    return Path("qunetlab-runs") / f"{kind}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
